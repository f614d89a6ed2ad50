//! Tokens drawn from logits on the host, and a step that takes them from there.

use base::{DType, MatrixView, TokenId, WeightView};

use super::{
    Check, Failure, Make, Tolerance,
    approx::{close, given},
    eval,
    random::Random,
    sequences,
};
use crate::{Backend, Part};

const N_WORDS: usize = 40;

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![("tokens drawn and embedded", drawn_and_embedded)]
}

/// The largest logit of each row is drawn; the next step begins with these words.
fn drawn_and_embedded<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(90);
    let mut logits = random.floats(2 * N_WORDS);
    (logits[17], logits[N_WORDS + 31]) = (9.0, 9.0);
    let table = random.floats(N_WORDS * 32);
    let bytes: Vec<u8> = table.iter().flat_map(|v| v.to_le_bytes()).collect();
    let view =
        MatrixView::whole(DType::F32, N_WORDS, 32, &bytes).ok_or_else(|| Failure("no matrix".into()))?;
    let words = b.linear(&[Part { weight: WeightView::Blocks(view), bias: None }])?;
    let rows = b.tensor(&logits, N_WORDS)?;
    let (sender, seen) = std::sync::mpsc::channel();
    let drawn = b.draw(
        &rows,
        Box::new(move |logits, tokens| {
            let largest =
                |row: &[f32]| (0..row.len()).max_by(|&i, &j| row[i].total_cmp(&row[j])).unwrap_or(0);
            let rows = logits.chunks(N_WORDS).zip(tokens);
            rows.for_each(|(row, token)| *token = TokenId(largest(row) as u32));
            let _ = sender.send(logits.len());
        }),
    )?;
    let inputs = b.inputs_after(&sequences::batch(&[(0, 0..1), (1, 0..1)]), &drawn)?;
    let embedded = b.embed(&words, 0, &inputs)?;
    b.finish(&drawn)?;
    if seen.try_recv() != Ok(2 * N_WORDS) {
        return Err(Failure("finish: expected that the tokens are drawn, found that they are not".into()));
    }
    let expected = [&table[17 * 32..18 * 32], &table[31 * 32..32 * 32]].concat();
    close("words that were drawn", &eval(&mut b, &embedded)?, &given(&expected))
}
