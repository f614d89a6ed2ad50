//! Rows of tiny floats whose scales lie apart. An 8-bit float (e4m3) is read as the half float with its bits in the same places,
//! which is too small by 2⁸. Twice a 4-bit float (e2m1) is a whole number, so it becomes a code around a middle one.

use base::{Fp8View, Mxfp4View};
use half::f16;

/// What an 8-bit float is larger by than the half float it is read as.
pub(crate) const FP8_FACTOR: f32 = 256.0;
/// Bits of the codes that 4-bit floats become.
pub const MXFP4_BITS: u32 = 5;

/// The half float with the sign, exponent and mantissa of an 8-bit float.
#[inline(always)]
pub(crate) fn fp8_half(code: u8) -> u16 {
    (u16::from(code) & 0x80) << 8 | (u16::from(code) & 0x7f) << 7
}

/// out [n_cols] = row `r`.
///
/// # Panics
/// If there is no such row or `out` has another length.
pub fn fp8_row(view: &Fp8View, r: usize, out: &mut [f32]) {
    assert_eq!(out.len(), view.n_cols, "columns");
    let blocks = out.chunks_mut(Fp8View::BLOCK).zip(view.row_codes(r).chunks(Fp8View::BLOCK));
    for ((out, codes), scale) in blocks.zip(view.row_scales(r)) {
        for (out, code) in out.iter_mut().zip(codes) {
            *out = f16::from_bits(fp8_half(*code)).to_f32() * (scale * FP8_FACTOR);
        }
    }
}

/// codes [n_cols], scales [n_cols / 32] = row `r`: a value is scale · (code - 16).
///
/// # Panics
/// If there is no such row or a length is another.
pub fn mxfp4_row(view: &Mxfp4View, r: usize, codes: &mut [u8], scales: &mut [f32]) {
    /// 16 + twice 0, 0.5, 1, 1.5, 2, 3, 4, 6, then of the negative ones.
    const CODES: [u8; 16] = [16, 17, 18, 19, 20, 22, 24, 28, 16, 15, 14, 13, 12, 10, 8, 4];
    assert_eq!((codes.len(), scales.len()), (view.n_cols, view.n_cols / Mxfp4View::GROUP), "columns");
    for (pair, codes) in view.row_codes(r).iter().zip(codes.as_chunks_mut::<2>().0) {
        *codes = [CODES[usize::from(pair & 15)], CODES[usize::from(pair >> 4)]];
    }
    for (exponent, scale) in view.row_scales(r).iter().zip(scales) {
        *scale = (f64::from(*exponent) - 128.0).exp2() as f32; // half the group's power of two
    }
}
