//! Tiles of floats: [tile][input][16 rows] in the file's format. Knows no codes.

use base::{DType, MatrixView};

use crate::dequantize::dequantize;
use crate::lanes::N_LANES;

/// tile [n_cols][16] = rows 16 tile.. of a view; rows that it does not have stay zeros.
pub(super) fn pack_tile(view: &MatrixView, tile: usize, values: &mut [u8]) {
    let size = view.dtype.block_bytes();
    let rows = tile * N_LANES..view.n_rows.min((tile + 1) * N_LANES);
    for (lane, r) in rows.enumerate() {
        for (v, to) in view.row(r).chunks_exact(size).zip(values.chunks_exact_mut(N_LANES * size)) {
            to[lane * size..][..size].copy_from_slice(v);
        }
    }
}

/// out [n_cols] = a row of a tile.
pub(super) fn row(dtype: DType, tile: &[u8], lane: usize, out: &mut [f32]) {
    let size = dtype.block_bytes();
    for (v, out) in tile.chunks_exact(N_LANES * size).zip(out) {
        dequantize(dtype, &v[lane * size..][..size], std::slice::from_mut(out));
    }
}
