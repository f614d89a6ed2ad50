//! Tiles of 8-bit floats: [input][16 rows], a byte each, and scales as [run of 128 inputs][16 rows] in f32, larger by what the half
//! floats are too small by that the bytes are read as.

use base::Fp8View;
use half::f16;

use crate::dequantize::{FP8_FACTOR, fp8_half};
use crate::lanes::N_LANES;

/// Bytes of a tile's scales.
pub(super) fn tile_scale_bytes(n_cols: usize) -> usize {
    n_cols.div_ceil(Fp8View::BLOCK) * N_LANES * 4
}

/// values, scales = rows 16 tile.. of a view; rows that it does not have stay zeros.
pub(super) fn pack_tile(view: &Fp8View, tile: usize, values: &mut [u8], scales: &mut [u8]) {
    for (lane, r) in (tile * N_LANES..view.n_rows.min((tile + 1) * N_LANES)).enumerate() {
        for (code, to) in view.row_codes(r).iter().zip(values[lane..].iter_mut().step_by(N_LANES)) {
            *to = *code;
        }
        for (i, scale) in view.row_scales(r).enumerate() {
            let to = &mut scales[(i * N_LANES + lane) * 4..][..4];
            to.copy_from_slice(&(scale * FP8_FACTOR).to_le_bytes());
        }
    }
}

/// out [n_cols] = a row of a tile.
pub(super) fn row(values: &[u8], scales: &[u8], lane: usize, out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let at = (i / Fp8View::BLOCK * N_LANES + lane) * 4;
        let scale = f32::from_le_bytes([scales[at], scales[at + 1], scales[at + 2], scales[at + 3]]);
        *out = f16::from_bits(fp8_half(values[i * N_LANES + lane])).to_f32() * scale;
    }
}
