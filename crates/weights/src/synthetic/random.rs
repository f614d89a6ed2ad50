//! Random values in every number format, row by row: a row follows from seed, tensor and row number alone, so rows
//! can be written in any order. Quantised rows are made as blocks of random codes whose scale gives the wanted
//! spread; nothing is quantised here.

use std::io::{self, Write};

use base::DType;
use half::{bf16, f16};

use super::tensors::{Fill, Planned};

/// Scales of blocks vary by this much, so that a scale read from the wrong block shows.
const SCALE_SPREAD: f32 = 0.25;

/// Norms and biases are multiples of 1/128: near 1 every float format holds these exactly, so that a file which
/// keeps them in F32 and one which keeps them in BF16 agree.
const EXACT: f32 = 128.0;

/// Writes all values of a tensor. `dtype` may differ from the planned one for plain floats; `row_of` says which row
/// comes as the i-th.
pub(super) fn write_tensor(
    out: &mut dyn Write,
    seed: u64,
    tensor: &Planned,
    dtype: DType,
    row_of: impl Fn(usize) -> usize,
) -> io::Result<()> {
    let (n_cols, n_rows) = match tensor.info.shape[..] {
        [n_rows, n_cols] => (n_cols, n_rows),
        _ => (tensor.info.n_values().unwrap_or(0), 1),
    };
    let seed = tensor_seed(seed, &tensor.hf_name);
    let mut row = vec![0; dtype.row_bytes(n_cols).unwrap_or(0)];
    for i in 0..n_rows {
        let mut random = Random::new(seed, row_of(i) as u64);
        match block_format(dtype) {
            Some(format) => fill_blocks(&mut row, &format, tensor.fill, &mut random),
            None => fill_floats(&mut row, dtype, tensor.fill, &mut random),
        }
        out.write_all(&row)?;
    }
    Ok(())
}

/// FNV-1a over the name, started from the seed.
pub(super) fn tensor_seed(seed: u64, name: &str) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ mix(seed);
    name.bytes().fold(start, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64, stream: u64) -> Random {
        Random(mix(seed ^ mix(stream)))
    }

    pub(super) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(super) fn bytes(&mut self, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        self.fill(&mut bytes);
        bytes
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for word in words {
            *word = self.word().to_le_bytes();
        }
        rest.copy_from_slice(&self.word().to_le_bytes()[..rest.len()]);
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Uniform in -1..1 from 24 bits.
pub(super) fn unit(bits: u64) -> f32 {
    (bits & 0xff_ffff) as f32 / (1 << 23) as f32 - 1.0
}

fn fill_floats(row: &mut [u8], dtype: DType, fill: Fill, random: &mut Random) {
    match dtype {
        DType::F16 => fill_values(row, fill, random, |x| f16::from_f32(x).to_le_bytes()),
        DType::BF16 => fill_values(row, fill, random, |x| bf16::from_f32(x).to_le_bytes()),
        _ => fill_values(row, fill, random, f32::to_le_bytes),
    }
}

/// Two values from every random word.
fn fill_values<const N: usize>(
    row: &mut [u8],
    fill: Fill,
    random: &mut Random,
    encode: impl Fn(f32) -> [u8; N],
) {
    for pair in row.as_chunks_mut::<N>().0.chunks_mut(2) {
        let word = random.word();
        for (value, bits) in pair.iter_mut().zip([word, word >> 32]) {
            *value = encode(match fill {
                Fill::Spread { std } => std * 3f32.sqrt() * unit(bits), // uniform, of that std
                Fill::Around { mean, spread } => mean + (spread * unit(bits) * EXACT).round() / EXACT,
            });
        }
    }
}

/// Where a block's f16 scales lie and what they do to random codes.
struct BlockFormat {
    n_bytes: usize,
    scale_at: usize,
    /// Where the f16 minimum lies, and the factor on the scale that makes the mean zero.
    min: Option<(usize, f32)>,
    /// Root mean square of the values of random codes, at scale 1.
    rms: f32,
    /// The codes' mean is not zero; a random sign of the scale makes it so over many blocks.
    signed: bool,
}

/// `None` for plain floats. The 256-value formats have random sub-block scales s and minima m too: their rms is
/// that of `s q` (Q3_K, Q6_K) or of `s q - ratio m` (Q2_K, Q4_K, Q5_K), all independent and uniform over their codes.
fn block_format(dtype: DType) -> Option<BlockFormat> {
    let (scale_at, min, rms, signed) = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => return None,
        DType::Q4_0 => (0, None, 4.637, true),
        DType::Q4_1 => (0, Some((2, -7.5)), 4.610, false),
        DType::Q5_0 => (0, None, 9.247, true),
        DType::Q5_1 => (0, Some((2, -15.5)), 9.233, false),
        DType::Q8_0 => (0, None, 73.90, true),
        DType::Q2_K => (80, Some((82, 1.5)), 13.87, false),
        DType::Q3_K => (108, None, 43.34, false),
        DType::Q4_K => (0, Some((2, 7.5)), 258.3, false),
        DType::Q5_K => (0, Some((2, 15.5)), 526.9, false),
        DType::Q6_K => (208, None, 1365.7, false),
    };
    Some(BlockFormat { n_bytes: dtype.block_bytes(), scale_at, min, rms, signed })
}

fn fill_blocks(row: &mut [u8], format: &BlockFormat, fill: Fill, random: &mut Random) {
    let (Fill::Spread { std } | Fill::Around { spread: std, .. }) = fill;
    random.fill(row);
    for block in row.chunks_exact_mut(format.n_bytes) {
        let word = random.word();
        let negative = format.signed && word >> 63 == 1;
        let scale = std / format.rms * (1.0 + SCALE_SPREAD * unit(word));
        let scale = f16::from_f32(if negative { -scale } else { scale });
        block[format.scale_at..][..2].copy_from_slice(&scale.to_le_bytes());
        if let Some((min_at, ratio)) = format.min {
            let min = f16::from_f32(scale.to_f32() * ratio);
            block[min_at..][..2].copy_from_slice(&min.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean square of `f` over all of `a` and `b`.
    fn mean_square(a: std::ops::Range<i32>, b: std::ops::Range<i32>, f: impl Fn(f64, f64) -> f64) -> f64 {
        let n = a.len() * b.len();
        let all = a.flat_map(|x| b.clone().map(move |y| (f64::from(x), f64::from(y))));
        all.map(|(x, y)| f(x, y).powi(2)).sum::<f64>() / n as f64
    }

    /// Mean square of `s q - ratio m` with scales and minima in `0..n_scales` and codes in `0..n_codes`.
    fn with_minima(n_scales: i32, n_codes: i32, ratio: f64) -> f64 {
        let mut sum = 0.0;
        for m in 0..n_scales {
            sum += mean_square(0..n_scales, 0..n_codes, |s, q| s * q - ratio * f64::from(m));
        }
        sum / f64::from(n_scales)
    }

    #[test]
    fn the_rms_of_random_codes_is_the_tables() {
        let product = |a, b| mean_square(a, b, |x, y| x * y);
        for dtype in DType::ALL {
            let expected = match dtype {
                DType::F32 | DType::F16 | DType::BF16 => continue,
                DType::Q4_0 => product(-8..8, 1..2),
                DType::Q4_1 => mean_square(0..16, 1..2, |q, _| q - 7.5),
                DType::Q5_0 => product(-16..16, 1..2),
                DType::Q5_1 => mean_square(0..32, 1..2, |q, _| q - 15.5),
                DType::Q8_0 => product(-128..128, 1..2),
                DType::Q2_K => with_minima(16, 4, 1.5),
                DType::Q3_K => product(-32..32, -4..4),
                DType::Q4_K => with_minima(64, 16, 7.5),
                DType::Q5_K => with_minima(64, 32, 15.5),
                DType::Q6_K => product(-128..128, -32..32),
            };
            let rms = f64::from(block_format(dtype).unwrap().rms);
            assert!((rms / expected.sqrt() - 1.0).abs() < 1e-3, "{dtype}: {rms} {}", expected.sqrt());
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_order() {
        let mut first = Random::new(7, 3);
        let mut second = Random::new(7, 3);
        assert_eq!((first.word(), first.word()), (second.word(), second.word()));
        assert_ne!(Random::new(7, 3).word(), Random::new(7, 4).word());
        assert_ne!(tensor_seed(7, "a"), tensor_seed(7, "b"));
        assert_ne!(tensor_seed(7, "a"), tensor_seed(8, "a"));
    }
}
