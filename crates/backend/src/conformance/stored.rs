//! Random weights as checkpoints store them, and the numbers they stand for.

use base::{AffineView, DType, Fp8View, MatrixView, Mxfp4View, WeightView};

use super::{Failure, random::Random};

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Blocks(DType),
    Affine { bits: u32, group_size: usize, scale_dtype: DType, has_biases: bool },
    Fp8,
    Mxfp4,
}

impl Kind {
    /// Whether every value is a float of its own.
    pub(super) fn is_float(self) -> bool {
        matches!(self, Kind::Blocks(DType::F32 | DType::F16 | DType::BF16) | Kind::Fp8)
    }
}

/// A weight `[n_rows, n_cols]`.
pub(super) struct Stored {
    pub(super) kind: Kind,
    pub(super) n_rows: usize,
    pub(super) n_cols: usize,
    /// What it stands for.
    pub(super) values: Vec<f64>,
    /// Blocks, or codes.
    bytes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Stored {
    /// A weight whose bytes are random, but for scales of moderate size.
    pub(super) fn random(kind: Kind, n_rows: usize, n_cols: usize, random: &mut Random) -> Stored {
        match kind {
            Kind::Blocks(dtype) => {
                let bytes = blocks(dtype, n_rows * n_cols, random);
                let values = dequantize(dtype, &bytes, n_rows * n_cols);
                Stored { kind, n_rows, n_cols, values, bytes, scales: vec![], biases: vec![] }
            }
            Kind::Affine { bits, group_size, scale_dtype, .. } => {
                let n_groups = n_rows * n_cols / group_size;
                let mut stored = Stored {
                    kind,
                    n_rows,
                    n_cols,
                    values: vec![],
                    bytes: random.bytes(n_rows * n_cols * bits as usize / 8),
                    scales: floats(scale_dtype, n_groups, -(bits as i32), random),
                    biases: floats(scale_dtype, n_groups, -2, random),
                };
                stored.values = stored.affine_values(bits, group_size, scale_dtype);
                stored
            }
            Kind::Fp8 => {
                // no exponent is the largest, which has codes that are no numbers
                let bytes = random.bytes(n_rows * n_cols).iter().map(|b| b & 0xbf).collect();
                let n_blocks = n_rows.div_ceil(Fp8View::BLOCK) * n_cols.div_ceil(Fp8View::BLOCK);
                let scales = floats(DType::F32, n_blocks, -4, random);
                let mut stored =
                    Stored { kind, n_rows, n_cols, values: vec![], bytes, scales, biases: vec![] };
                stored.values = stored.fp8_values();
                stored
            }
            Kind::Mxfp4 => {
                let bytes = random.bytes(n_rows * n_cols / 2);
                let scales =
                    random.bytes(n_rows * n_cols / Mxfp4View::GROUP).iter().map(|b| 123 + b % 4).collect();
                let mut stored =
                    Stored { kind, n_rows, n_cols, values: vec![], bytes, scales, biases: vec![] };
                stored.values = stored.mxfp4_values();
                stored
            }
        }
    }

    /// A weight of these values in F32.
    pub(super) fn floats(n_rows: usize, n_cols: usize, values: impl Iterator<Item = f64>) -> Stored {
        let values: Vec<f64> = values.collect();
        let bytes = values.iter().flat_map(|&v| (v as f32).to_le_bytes()).collect();
        let kind = Kind::Blocks(DType::F32);
        Stored { kind, n_rows, n_cols, values, bytes, scales: vec![], biases: vec![] }
    }

    /// What a backend is given.
    pub(super) fn view(&self) -> Result<WeightView<'_>, Failure> {
        let (n_rows, n_cols) = (self.n_rows, self.n_cols);
        match self.kind {
            Kind::Blocks(dtype) => MatrixView::whole(dtype, n_rows, n_cols, &self.bytes)
                .map(WeightView::Blocks)
                .ok_or_else(|| Failure(format!("no {n_rows} × {n_cols} matrix of {dtype}"))),
            Kind::Affine { bits, group_size, scale_dtype, has_biases } => {
                Ok(WeightView::Affine(AffineView {
                    n_rows,
                    n_cols,
                    bits,
                    group_size,
                    code_stride: n_cols * bits as usize / 8,
                    codes: &self.bytes,
                    scale_dtype,
                    scale_stride: n_cols / group_size * scale_dtype.block_bytes(),
                    scales: &self.scales,
                    biases: has_biases.then_some(&self.biases),
                }))
            }
            Kind::Fp8 => Ok(WeightView::Fp8(Fp8View {
                n_rows,
                n_cols,
                code_stride: n_cols,
                codes: &self.bytes,
                row_start: 0,
                scale_stride: n_cols.div_ceil(Fp8View::BLOCK) * 4,
                scales: &self.scales,
            })),
            Kind::Mxfp4 => Ok(WeightView::Mxfp4(Mxfp4View {
                n_rows,
                n_cols,
                code_stride: n_cols / 2,
                codes: &self.bytes,
                scale_stride: n_cols / Mxfp4View::GROUP,
                scales: &self.scales,
            })),
        }
    }

    pub(super) fn row(&self, r: usize) -> &[f64] {
        &self.values[r * self.n_cols..][..self.n_cols]
    }

    fn fp8_values(&self) -> Vec<f64> {
        let n_blocks = self.n_cols.div_ceil(Fp8View::BLOCK);
        let scales = dequantize(DType::F32, &self.scales, self.scales.len() / 4);
        let value = |(i, code): (usize, &u8)| {
            let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
            let size =
                if exponent == 0 { mantissa / 64.0 } else { (1.0 + mantissa) * 2f64.powi(exponent - 7) };
            let (row, col) = (i / self.n_cols / Fp8View::BLOCK, i % self.n_cols / Fp8View::BLOCK);
            if code >> 7 == 1 {
                -size * scales[row * n_blocks + col]
            } else {
                size * scales[row * n_blocks + col]
            }
        };
        self.bytes.iter().enumerate().map(value).collect()
    }

    fn mxfp4_values(&self) -> Vec<f64> {
        const SIZES: [f64; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
        let value = |i: usize| {
            let code = self.bytes[i / 2] >> (i % 2 * 4) & 15;
            let power = 2f64.powi(i32::from(self.scales[i / Mxfp4View::GROUP]) - 127);
            if code >> 3 == 1 {
                -SIZES[usize::from(code & 7)] * power
            } else {
                SIZES[usize::from(code)] * power
            }
        };
        (0..self.n_rows * self.n_cols).map(value).collect()
    }

    fn affine_values(&self, bits: u32, group_size: usize, scale_dtype: DType) -> Vec<f64> {
        let n_groups = self.n_rows * self.n_cols / group_size;
        let scales = dequantize(scale_dtype, &self.scales, n_groups);
        let biases = dequantize(scale_dtype, &self.biases, n_groups);
        let value = |i: usize| {
            let (first, group) = (i * bits as usize, i / group_size);
            let bit = |at: usize| u32::from(self.bytes[at / 8] >> (at % 8) & 1);
            let code = (0..bits as usize).map(|j| bit(first + j) << j).sum::<u32>();
            let middle = f64::from(1 << (bits - 1));
            match self.kind {
                Kind::Affine { has_biases: true, .. } => f64::from(code) * scales[group] + biases[group],
                _ => (f64::from(code) - middle) * scales[group],
            }
        };
        (0..self.n_rows * self.n_cols).map(value).collect()
    }
}

/// Blocks of `n` values.
fn blocks(dtype: DType, n: usize, random: &mut Random) -> Vec<u8> {
    // the half floats of a block, and their exponent
    let (halves, exponent): (&[usize], i32) = match dtype {
        DType::F32 | DType::F16 | DType::BF16 => return floats(dtype, n, -3, random),
        DType::Q4_0 | DType::Q5_0 => (&[0], -5),
        DType::Q8_0 => (&[0], -8),
        DType::Q4_1 | DType::Q5_1 => (&[0, 2], -5),
        DType::Q4_K | DType::Q5_K => (&[0, 2], -10),
        DType::Q2_K => (&[80, 82], -7),
        DType::Q3_K => (&[108], -8),
        DType::Q6_K => (&[208], -12),
    };
    let mut bytes = random.bytes(n / dtype.block_len() * dtype.block_bytes());
    for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
        for &at in halves {
            block[at..at + 2].copy_from_slice(&floats(DType::F16, 1, exponent, random));
        }
    }
    bytes
}

/// `n` floats of random sign and mantissa, from 2^exponent to twice that.
fn floats(dtype: DType, n: usize, exponent: i32, random: &mut Random) -> Vec<u8> {
    let bits = |random: &mut Random, exponent_bits: u32, mantissa_bits: u32, middle: i32| {
        let sign = (random.bits() & 1) << (exponent_bits + mantissa_bits);
        let exponent = ((middle + exponent) as u32) << mantissa_bits;
        sign | exponent | random.bits() & ((1 << mantissa_bits) - 1)
    };
    let mut bytes = Vec::new();
    for _ in 0..n {
        match dtype {
            DType::F16 => bytes.extend_from_slice(&bits(random, 5, 10, 15).to_le_bytes()[..2]),
            DType::BF16 => bytes.extend_from_slice(&bits(random, 8, 7, 127).to_le_bytes()[..2]),
            _ => bytes.extend_from_slice(&bits(random, 8, 23, 127).to_le_bytes()),
        }
    }
    bytes
}

fn dequantize(dtype: DType, bytes: &[u8], n: usize) -> Vec<f64> {
    let mut values = vec![0.0; n];
    kernels::dequantize(dtype, bytes, &mut values);
    values.into_iter().map(f64::from).collect()
}
