//! Blocks of checkpoint files to numbers, in plain Rust. Every block format is first read as small unsigned codes
//! with a scale and a minimum per group; packing for matmul uses the same reading. Knows no matrices.

mod k;
mod simple;

use base::DType;
use half::{bf16, f16};

/// One block, read: value i = scales[i / group_len] · (codes[i] - offset) + mins[i / group_len], with the
/// `group_len` and `offset` of its `Coding`.
pub struct Block {
    /// The format's `block_len` codes.
    pub codes: [u8; 256],
    /// One for each group.
    pub scales: [f32; 16],
    /// One for each group; zeros for formats without.
    pub mins: [f32; 16],
}

/// What all blocks of a format have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// Bits that hold every code: 4 or 8.
    pub bits: usize,
    /// Values that share a scale.
    pub group_len: usize,
    /// Subtracted from codes: 0 or 1 << shift.
    pub offset_shift: Option<u32>,
    /// Whether groups have minimums.
    pub has_min: bool,
    /// Whether the file's own scales are f16, one per group: packed as they are. The K formats have a product of
    /// two numbers per group instead, packed as f32; that costs 32 bits per group (64 with a minimum), so Q4_K
    /// takes 6 bits a weight instead of 4.5 and Q6_K 10 instead of 6.6.
    pub f16_scales: bool,
    /// Whether codes reach 128.
    pub wide: bool,
}

impl Block {
    /// A block to read into.
    pub const ZERO: Block = Block { codes: [0; 256], scales: [0.0; 16], mins: [0.0; 16] };

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
        let (bits, group_len, offset_shift, has_min, f16_scales) = match dtype {
            DType::F32 | DType::F16 | DType::BF16 => return None,
            DType::Q4_0 => (4, 32, Some(3), false, true),
            DType::Q4_1 => (4, 32, None, true, true),
            DType::Q5_0 => (8, 32, Some(4), false, true),
            DType::Q5_1 => (8, 32, None, true, true),
            DType::Q8_0 => (8, 32, Some(7), false, true),
            DType::Q2_K => (4, 16, None, true, false),
            DType::Q3_K => (4, 16, Some(2), false, false),
            DType::Q4_K => (4, 32, None, true, false),
            DType::Q5_K => (8, 32, None, true, false),
            DType::Q6_K => (8, 16, Some(5), false, false),
        };
        let wide = matches!(dtype, DType::Q8_0);
        Some(Coding { bits, group_len, offset_shift, has_min, f16_scales, wide })
    }

    /// The coding of affine weights, whose groups are cut into runs of 32. Without biases zero is the middle code,
    /// which the f16 codings of most widths know; the others get a minimum that says the same.
    pub(crate) const fn affine(bits: u32, has_biases: bool, f16_scales: bool) -> Coding {
        let has_min = has_biases || !f16_scales || bits == 6;
        let offset_shift = if has_min { None } else { Some(bits - 1) };
        let wide = bits == 8;
        Coding { bits: if bits == 4 { 4 } else { 8 }, group_len: 32, offset_shift, has_min, f16_scales, wide }
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
        for (i, out) in out.iter_mut().enumerate() {
            let group = i / coding.group_len;
            *out = coding.value(block.codes[i], block.scales[group], block.mins[group]);
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
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}
