//! Activations for bf16 weights: rounded to bf16, two neighbours of a row in a word. Knows no weights.

use crate::isa::per_isa;
use crate::pool::Shared;
use crate::{Isa, Pool};

/// Smaller activations become zero; see the limit of the weights that they meet.
const SMALLEST: f32 = 1.0 / (1u64 << 48) as f32;
/// Words of a cache line.
const LINE_WORDS: usize = 16;

/// Words from a row of pairs to the next. An odd number of cache lines, so that rows of a round length do not compete
/// for the same places of a cache.
pub(super) fn row_words(n_in: usize) -> usize {
    (n_in.div_ceil(2).div_ceil(LINE_WORDS) | 1) * LINE_WORDS
}

/// pairs [n_rows, row_words] = x [n_rows, n_in], rows shared out over the pool where there are several.
pub(super) fn round_rows(pool: &Pool, isa: Isa, x: &[f32], n_in: usize, pairs: &mut Vec<u32>) {
    let (n_rows, row_words) = (x.len() / n_in, row_words(n_in));
    pairs.resize(pairs.len().max(n_rows * row_words), 0);
    if n_rows < pool.n_threads() {
        return round(isa, x, n_in, row_words, pairs);
    }
    let pairs = Shared::new(pairs);
    pool.run(|part, n_parts| {
        let (start, end) = (n_rows * part / n_parts, n_rows * (part + 1) / n_parts);
        // SAFETY: rows of different parts do not overlap, and the vector was made large enough.
        let pairs = unsafe { pairs.slice(start * row_words, (end - start) * row_words) };
        round(isa, &x[start * n_in..end * n_in], n_in, row_words, pairs);
    });
}

per_isa! {
    fn round(x: &[f32], n_in: usize, row_words: usize, pairs: &mut [u32]) {
        for (x, pairs) in x.chunks_exact(n_in).zip(pairs.chunks_exact_mut(row_words)) {
            let (x, rest) = x.as_chunks::<2>();
            for ([x0, x1], pair) in x.iter().zip(&mut *pairs) {
                *pair = bf16_bits(*x0) | bf16_bits(*x1) << 16;
            }
            if let [x0] = rest {
                pairs[x.len()] = bf16_bits(*x0);
            }
        }
    }
}

/// Rounded to nearest, ties to even. Not a number stays not a number.
#[inline(always)]
fn bf16_bits(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let kept = if x.is_nan() { 0x7fc0 } else { rounded };
    if x.abs() < SMALLEST { 0 } else { kept }
}
