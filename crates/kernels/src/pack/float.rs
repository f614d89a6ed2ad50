//! Tiles of floats: [word][16 rows]. A word is what a lane takes at once: a value, or with bf16 two neighbours of a
//! row, of which the second is zero behind the end of the row. Knows no codes.

use base::{DType, MatrixView};

use crate::dequantize::dequantize;
use crate::lanes::N_LANES;

/// Words of a tile that are written row after row: few enough to stay in the level-1 cache.
const PACKED_WORDS: usize = 128;
/// Smaller bf16 weights become zero. Then no sum of their products with activations, which have such a limit too, is
/// below the normal numbers of f32: a machine's dot product of bf16 pairs may take those as zero.
const SMALLEST_BF16: u16 = (127 - 64) << 7;

/// tile = rows 16 tile.. of a view; rows that it does not have stay zeros.
pub(super) fn pack_tile(view: &MatrixView, tile: usize, values: &mut [u8]) {
    let rows = tile * N_LANES..view.n_rows.min((tile + 1) * N_LANES);
    let size = word_bytes(view.dtype);
    for (i, words) in values.chunks_mut(PACKED_WORDS * N_LANES * size).enumerate() {
        for (lane, r) in rows.clone().enumerate() {
            let from = &view.row(r)[i * PACKED_WORDS * size..];
            let to = words[lane * size..].chunks_mut(N_LANES * size);
            match view.dtype {
                DType::BF16 => copy_pairs(from, to),
                DType::F16 => copy_words::<2>(from, to),
                _ => copy_words::<4>(from, to),
            }
        }
    }
}

/// out [n_cols] = a row of a tile.
pub(super) fn row(dtype: DType, tile: &[u8], lane: usize, out: &mut [f32]) {
    let size = word_bytes(dtype);
    let words = tile[lane * size..].chunks(N_LANES * size);
    for (out, word) in out.chunks_mut(size / dtype.block_bytes()).zip(words) {
        dequantize(dtype, &word[..out.len() * dtype.block_bytes()], out);
    }
}

/// Bytes of a lane's word.
fn word_bytes(dtype: DType) -> usize {
    match dtype {
        DType::F16 => 2,
        _ => 4,
    }
}

fn copy_words<'a, const N: usize>(from: &[u8], to: impl Iterator<Item = &'a mut [u8]>) {
    for (word, to) in from.as_chunks::<N>().0.iter().zip(to) {
        to[..N].copy_from_slice(word);
    }
}

fn copy_pairs<'a>(from: &[u8], to: impl Iterator<Item = &'a mut [u8]>) {
    for (pair, to) in from.chunks(4).zip(to) {
        for (v, to) in pair.as_chunks::<2>().0.iter().zip(to.as_chunks_mut::<2>().0) {
            let is_small = u16::from_le_bytes(*v) & 0x7fff < SMALLEST_BF16;
            *to = if is_small { [0; 2] } else { *v };
        }
    }
}
