//! The formats of 256 values ("K"): groups of 16 or 32 values whose scales are small integers times the block's
//! own half-float scale. Codes of less than 8 bits are spread over planes, as each function says.

use super::{Block, half_at};

/// scales u8[16] (low four bits scale, high four bits minimum), 64 bytes of 2-bit codes, d f16, d_min f16.
/// Half h of the block: value 128 h + 32 j + l is bits 2 j.. of byte 32 h + l.
pub(super) fn q2(bytes: &[u8], block: &mut Block) {
    let (scales, codes) = (&bytes[..16], &bytes[16..80]);
    (block.scale, block.min) = (half_at(bytes, 80), -half_at(bytes, 82));
    for (g, s) in scales.iter().enumerate() {
        (block.scale_codes[g], block.min_codes[g]) = ((s & 15) as i8, (s >> 4) as i8);
    }
    two_bits(codes, block);
}

/// third bits 32 bytes (value 32 p + l is bit p of byte l), 64 bytes of low 2-bit codes as in `q2`, 12 bytes of
/// 6-bit scales + 32, d f16. Scale g: four low bits in byte g % 8 (low half for g < 8), two high ones in byte
/// 8 + g % 4 at bit 2 (g / 4).
pub(super) fn q3(bytes: &[u8], block: &mut Block) {
    let (third, codes, scales) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
    block.scale = half_at(bytes, 108);
    for g in 0..16 {
        let low = scales[g % 8] >> (4 * (g / 8)) & 15;
        let high = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
        block.scale_codes[g] = (low | high << 4) as i8 - 32;
    }
    two_bits(codes, block);
    for (i, code) in block.codes.iter_mut().enumerate() {
        *code |= (third[i % 32] >> (i / 32) & 1) << 2;
    }
}

/// d f16, d_min f16, 12 bytes of 6-bit scales and minimums, 128 bytes of codes.
pub(super) fn q4(bytes: &[u8], block: &mut Block) {
    scales_and_mins(bytes, block);
    four_bits(&bytes[16..144], block);
}

/// As `q4`, with 32 bytes of fifth bits before the codes: value 32 p + l is bit p of byte l.
pub(super) fn q5(bytes: &[u8], block: &mut Block) {
    scales_and_mins(bytes, block);
    four_bits(&bytes[48..176], block);
    let fifth = &bytes[16..48];
    for (i, code) in block.codes.iter_mut().enumerate() {
        *code |= (fifth[i % 32] >> (i / 32) & 1) << 4;
    }
}

/// 128 bytes of low four bits, 64 bytes of high two bits, scales i8[16], d f16. Half h of the block: value
/// 128 h + 32 j + l is nibble j / 2 of low byte 64 h + 32 (j % 2) + l and bits 2 j.. of high byte 32 h + l.
pub(super) fn q6(bytes: &[u8], block: &mut Block) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    block.scale = half_at(bytes, 208);
    for (code, s) in block.scale_codes.iter_mut().zip(scales) {
        *code = *s as i8;
    }
    for (p, run) in block.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (h, j) = (p / 4, p % 4);
        let low = &low[64 * h + 32 * (j % 2)..][..32];
        let high = &high[32 * h..][..32];
        for (code, (low, high)) in run.iter_mut().zip(low.iter().zip(high)) {
            *code = low >> (4 * (j / 2)) & 15 | (high >> (2 * j) & 3) << 4;
        }
    }
}

fn two_bits(bytes: &[u8], block: &mut Block) {
    for (p, run) in block.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, b) in run.iter_mut().zip(&bytes[32 * (p / 4)..]) {
            *code = b >> (2 * (p % 4)) & 3;
        }
    }
}

/// Value 64 p + l is the low half of byte 32 p + l, value 64 p + 32 + l the high half.
fn four_bits(bytes: &[u8], block: &mut Block) {
    for (p, run) in block.codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, b) in run.iter_mut().zip(&bytes[32 * (p / 2)..]) {
            *code = b >> (4 * (p % 2)) & 15;
        }
    }
}

/// Eight scales and eight minimums of six bits in 12 bytes after d and d_min. The first four of each lie whole in
/// the low bits of bytes 0..8; the others have four bits in bytes 8..12 and two in the top of bytes 0..8.
fn scales_and_mins(bytes: &[u8], block: &mut Block) {
    (block.scale, block.min) = (half_at(bytes, 0), -half_at(bytes, 2));
    let s = &bytes[4..16];
    for g in 0..8 {
        let (scale, min) = if g < 4 {
            (s[g] & 63, s[g + 4] & 63)
        } else {
            (s[g + 4] & 15 | s[g - 4] >> 6 << 4, s[g + 4] >> 4 | s[g] >> 6 << 4)
        };
        (block.scale_codes[g], block.min_codes[g]) = (scale as i8, min as i8);
    }
}
