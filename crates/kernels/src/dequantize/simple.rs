//! The formats of 32 values with one scale. Four-bit codes lie as byte j = value j + 16 · value (j + 16); fifth
//! bits lie together in one u32, bit j for value j.

use super::{Block, half_at};

/// scale f16, 16 bytes of codes.
pub(super) fn q4_0(bytes: &[u8], block: &mut Block) {
    block.scale = half_at(bytes, 0);
    nibbles(&bytes[2..18], block);
}

/// scale f16, minimum f16, 16 bytes of codes.
pub(super) fn q4_1(bytes: &[u8], block: &mut Block) {
    block.scale = half_at(bytes, 0);
    block.min = half_at(bytes, 2);
    nibbles(&bytes[4..20], block);
}

/// scale f16, fifth bits u32, 16 bytes of codes.
pub(super) fn q5_0(bytes: &[u8], block: &mut Block) {
    block.scale = half_at(bytes, 0);
    nibbles(&bytes[6..22], block);
    fifth_bits(&bytes[2..6], block);
}

/// scale f16, minimum f16, fifth bits u32, 16 bytes of codes.
pub(super) fn q5_1(bytes: &[u8], block: &mut Block) {
    block.scale = half_at(bytes, 0);
    block.min = half_at(bytes, 2);
    nibbles(&bytes[8..24], block);
    fifth_bits(&bytes[4..8], block);
}

/// scale f16, 32 signed bytes; the codes are these + 128.
pub(super) fn q8_0(bytes: &[u8], block: &mut Block) {
    block.scale = half_at(bytes, 0);
    for (code, b) in block.codes.iter_mut().zip(&bytes[2..34]) {
        *code = b ^ 128;
    }
}

fn nibbles(bytes: &[u8], block: &mut Block) {
    for (j, b) in bytes.iter().enumerate() {
        block.codes[j] = b & 15;
        block.codes[j + 16] = b >> 4;
    }
}

fn fifth_bits(bytes: &[u8], block: &mut Block) {
    for (j, code) in block.codes[..32].iter_mut().enumerate() {
        *code |= (bytes[j / 8] >> (j % 8) & 1) << 4;
    }
}
