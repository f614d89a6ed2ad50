//! What speed costs in accuracy, as perplexity of the default model on real text: the fastest instructions against the
//! scalar reference, and activations rounded to 8 bits (BF16 for BF16 weights) against the same weights written out in
//! F32, whose activations are not rounded.
//! Ignored, counted, where the model cannot be had; `ONEFOLD_REQUIRE_MODEL=1` makes that a failure.

mod whole_model;

use std::{path::Path, sync::Arc};

use backend::Isa;
use base::DType;
use libtest_mimic::{Arguments, Failed};
use whole_model::{default_model, load_with, logprobs, with_model, write_again};

const TEXT: &str = include_str!("perplexity.txt");
/// Tokens of the text that are judged.
const N_TOKENS: usize = 460;
/// Those for which there is time without vector instructions.
const N_SCALAR_TOKENS: usize = 48;
/// Largest ratio to the perplexity of the scalar reference.
const MAX_SCALAR_RATIO: f64 = 1.005;
/// Largest ratio to the perplexity of F32. Rounding moves each token's log-probability by about 0.06, up or down, so
/// over so many tokens chance alone makes 0.3 %.
const MAX_EXACT_RATIO: f64 = 1.01;

fn main() {
    let args = Arguments::from_args();
    let model = default_model().map(Arc::new).map_err(|e| e.to_string());
    let trial = |name: &str, dtype: Option<DType>| {
        with_model(format!("smollm2 in {name} keeps its perplexity"), &model, move |path| judge(path, dtype))
    };
    let trials =
        vec![trial("Q4_1", None), trial("Q8_0", Some(DType::Q8_0)), trial("BF16", Some(DType::BF16))];
    libtest_mimic::run(&args, trials).exit();
}

/// Judges the model with matrices in `dtype`, or as they are.
fn judge(model: &Path, dtype: Option<DType>) -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    let (rounded, exact) = (dir.path().join("rounded.gguf"), dir.path().join("exact.gguf"));
    let rounded = match dtype {
        Some(dtype) => write_again(model, dtype, &rounded).map(|()| rounded)?,
        None => model.to_owned(),
    };
    write_again(&rounded, DType::F32, &exact)?;
    let tokens = node::OpenModel::open(model)?.text()?.tokenizer.encode(TEXT, true, false)?;
    let tokens: Vec<u32> = tokens.iter().map(|t| t.0).collect();
    let (text, start) = (&tokens[..N_TOKENS], &tokens[..N_SCALAR_TOKENS]);
    let fast = |text| perplexity(&rounded, Isa::detect(), text);
    compare("scalar reference", fast(start)?, perplexity(&rounded, Isa::Scalar, start)?, MAX_SCALAR_RATIO)?;
    compare("F32", fast(text)?, perplexity(&exact, Isa::detect(), text)?, MAX_EXACT_RATIO)
}

fn compare(whose: &str, found: f64, expected: f64, max_ratio: f64) -> Result<(), Failed> {
    println!("perplexity {found:.4}; {whose}: {expected:.4}, ratio {:.5}", found / expected);
    if (found / expected).max(expected / found) <= max_ratio {
        return Ok(());
    }
    Err(format!("{whose}: expected a perplexity within {max_ratio} of {expected}, found {found}").into())
}

/// exp of the mean negative log-probability of each token after those before it.
fn perplexity(model: &Path, isa: Isa, tokens: &[u32]) -> Result<f64, Failed> {
    let rows = load_with(isa, model, 2)?.all_logits(&tokens[..tokens.len() - 1])?;
    let logprob: f64 = rows.iter().zip(&tokens[1..]).map(|(row, token)| logprobs(row, &[*token])[0]).sum();
    Ok((-logprob / rows.len() as f64).exp())
}
