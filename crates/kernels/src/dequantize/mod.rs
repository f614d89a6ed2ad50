//! Blocks of checkpoint files to numbers, in plain Rust. Every block format is first read as small unsigned codes
//! with a scale and a minimum per group; packing for matmul uses the same reading. Knows no matrices.

mod k;
mod scaled;
mod simple;

use base::DType;
use half::{bf16, f16};

pub(crate) use scaled::{FP8_FACTOR, fp8_half};
pub use scaled::{MXFP4_BITS, fp8_row, mxfp4_row};

/// One block, read: value i of group g = scale_of(g) · (codes[i] - offset) + min_of(g), with the `group_len` and
/// `offset` of its `Coding`.
#[derive(Clone, Copy)]
pub struct Block {
    /// The format's `block_len` codes.
    pub codes: [u8; 256],
    /// Scale of the block.
    pub scale: f16,
    /// Scale of its minimums; 0 for formats without.
    pub min: f16,
    /// Multiples of `scale`, one for each group; 1 for formats whose blocks are one group.
    pub scale_codes: [i8; 16],
    /// Multiples of `min`, one for each group.
    pub min_codes: [i8; 16],
}

/// How the scales of a format's groups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleForm {
    /// A half float for each group.
    F16,
    /// A float for each group: affine weights whose scales no half float holds.
    F32,
    /// A small integer for each group, times a half float for each block of 256.
    Nested,
}

/// What all blocks of a format have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Bits of a code: 4, 5, 6 or 8.
    pub bits: usize,
    /// Values that share a scale.
    pub group_len: usize,
    /// Subtracted from codes: 0 or 1 << shift.
    pub offset_shift: Option<u32>,
    /// Whether groups have minimums.
    pub has_min: bool,
    /// How scales and minimums are kept.
    pub scales: ScaleForm,
    /// Whether codes reach 128.
    pub wide: bool,
}

impl Block {
    /// A block to read into.
    pub const ZERO: Block =
        Block { codes: [0; 256], scale: f16::ZERO, min: f16::ZERO, scale_codes: [1; 16], min_codes: [1; 16] };

    /// Scale of a group.
    pub fn scale_of(&self, group: usize) -> f32 {
        self.scale.to_f32() * f32::from(self.scale_codes[group])
    }

    /// Minimum of a group.
    pub fn min_of(&self, group: usize) -> f32 {
        self.min.to_f32() * f32::from(self.min_codes[group])
    }

    /// Reads a block of a block format; `bytes` holds exactly one.
    ///
    /// # Panics
    /// If the format has no blocks.
    pub fn read(&mut self, dtype: DType, bytes: &[u8]) {
        match dtype {
            DType::Q4_0 => simple::q4_0(bytes, self),
            DType::Q4_1 => simple::q4_1(bytes, self),
            DType::Q5_0 => simple::q5_0(bytes, self),
            DType::Q5_1 => simple::q5_1(bytes, self),
            DType::Q8_0 => simple::q8_0(bytes, self),
            DType::Q2_K => k::q2(bytes, self),
            DType::Q3_K => k::q3(bytes, self),
            DType::Q4_K => k::q4(bytes, self),
            DType::Q5_K => k::q5(bytes, self),
            DType::Q6_K => k::q6(bytes, self),
            DType::F32 | DType::F16 | DType::BF16 => unreachable!("{dtype} has no blocks"),
        }
    }
}

impl Coding {
    /// The coding of a block format; `None` for plain floats.
    pub const fn of(dtype: DType) -> Option<Coding> {
        use ScaleForm::{F16, Nested};
        let (bits, group_len, offset_shift, has_min, scales) = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => return None,
            DType::Q4_0 => (4, 32, Some(3), false, F16),
            DType::Q4_1 => (4, 32, None, true, F16),
            DType::Q5_0 => (5, 32, Some(4), false, F16),
            DType::Q5_1 => (5, 32, None, true, F16),
            DType::Q8_0 => (8, 32, Some(7), false, F16),
            DType::Q2_K => (4, 16, None, true, Nested),
            DType::Q3_K => (4, 16, Some(2), false, Nested),
            DType::Q4_K => (4, 32, None, true, Nested),
            DType::Q5_K => (5, 32, None, true, Nested),
            DType::Q6_K => (6, 16, Some(5), false, Nested),
        };
        let wide = matches!(dtype, DType::Q8_0);
        Some(Coding { bits, group_len, offset_shift, has_min, scales, wide })
    }

    /// The coding of affine weights, whose groups are cut into runs of 32. Without biases zero is the middle code,
    /// which the f16 codings of most widths know; the others get a minimum that says the same.
    pub(crate) const fn affine(bits: u32, has_biases: bool, f16_scales: bool) -> Coding {
        let has_min = has_biases || !f16_scales || bits == 6;
        let offset_shift = if has_min { None } else { Some(bits - 1) };
        let scales = if f16_scales { ScaleForm::F16 } else { ScaleForm::F32 };
        Coding { bits: bits as usize, group_len: 32, offset_shift, has_min, scales, wide: bits == 8 }
    }

    /// The code that stands for zero where there is no minimum.
    pub const fn offset(&self) -> i32 {
        match self.offset_shift {
            Some(shift) => 1 << shift,
            None => 0,
        }
    }

    /// The number that a code stands for.
    pub fn value(&self, code: u8, scale: f32, min: f32) -> f32 {
        scale * (i32::from(code) - self.offset()) as f32 + min
    }
}

/// out [n] = the values of consecutive blocks.
///
/// # Panics
/// If `blocks` is not exactly the bytes of `out.len()` values.
pub fn dequantize(dtype: DType, blocks: &[u8], out: &mut [f32]) {
    let expected = dtype.row_bytes(out.len());
    assert_eq!(Some(blocks.len()), expected, "bytes of {} values of {dtype}", out.len());
    let Some(coding) = Coding::of(dtype) else {
        return floats(dtype, blocks, out);
    };
    let mut block = Block::ZERO;
    for (bytes, out) in blocks.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(dtype.block_len()))
    {
        block.read(dtype, bytes);
        let codes = block.codes.chunks_exact(coding.group_len);
        for (group, (out, codes)) in out.chunks_exact_mut(coding.group_len).zip(codes).enumerate() {
            let (scale, min) = (block.scale_of(group), block.min_of(group));
            for (out, code) in out.iter_mut().zip(codes) {
                *out = coding.value(*code, scale, min);
            }
        }
    }
}

fn floats(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    if dtype == DType::F32 {
        for (b, out) in bytes.as_chunks().0.iter().zip(out) {
            *out = f32::from_le_bytes(*b);
        }
        return;
    }
    let convert = |bits| match dtype {
        DType::F16 => f16::from_bits(bits).to_f32(),
        _ => bf16::from_bits(bits).to_f32(),
    };
    for (b, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = convert(u16::from_le_bytes(*b));
    }
}

/// The half float at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f16 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]])
}
