//! Stored weights in the form MLX multiplies: codes with a scale and a bias per group, or plain floats.
//!
//! What has codes in groups of 32 keeps them: Q4_0, Q4_1, Q4_K with 4 bits, Q5_0, Q5_1, Q5_K with 5, Q8_0 with 8, and
//! affine weights as they are. The simple formats' scales are half floats and exact in every type of activation but
//! bfloat16; those of Q4_K and Q5_K are products that a 16-bit type rounds. Formats with groups of 16 (Q2_K, Q3_K,
//! Q6_K), which MLX has not, get 8-bit codes over groups of 32: an error of at most 1/510 of a group's range. MXFP4 becomes 5-bit
//! codes, exactly; 8-bit floats become floats of the activations' type.

use std::rc::Rc;

use base::{AffineView, DType, MatrixView, Mxfp4View, WeightView};
use half::{bf16, f16};
use kernels::{Block, Coding};
use mlx_sys::{Array, Dtype, Index, Mlx, Quantized};

use super::tensor::MlxTensor;

use crate::{BackendError, Part, checks::check};

/// Inputs that share a scale after conversion from GGUF's formats.
const GROUP_SIZE: usize = 32;

/// How a stored weight will lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Float,
    Codes { bits: u32, group_size: usize },
}

/// A matrix or a stack of them.
pub(super) enum Weight {
    /// `rows` as stored, `[.., n_out, n_in]`; `columns` the same memory as `[.., n_in, n_out]`.
    Float { rows: Array, columns: Array },
    /// Codes.
    Codes(Quantized),
}

/// Weights of one form that share their input lie one under the other and are one operation.
struct Piece {
    weight: Weight,
    bias: Option<Array>, // [Σ n_out of its parts]
    widths: Vec<usize>,
}

/// [`crate::Backend::Linear`] of MLX.
pub struct MlxLinear {
    pieces: Vec<Piece>,
    n_in: usize,
}

impl MlxLinear {
    pub(super) fn new(mlx: Mlx, dtype: Dtype, parts: &[Part<'_>]) -> Result<MlxLinear, BackendError> {
        let n_in = parts.first().map_or(0, |part| part.weight.n_cols());
        let mut pieces = Vec::new();
        for run in parts.chunk_by(|a, b| Form::of(&a.weight) == Form::of(&b.weight)) {
            let views: Vec<WeightView<'_>> = run.iter().map(|part| part.weight).collect();
            let widths: Vec<usize> = views.iter().map(WeightView::n_rows).collect();
            let n_out = widths.iter().sum();
            let weight = Weight::new(mlx, dtype, &views, &[n_out, n_in])?;
            let bias =
                joined_bias(run, n_out)?.map(|bias| floats(mlx, dtype, &bias, &[n_out])).transpose()?;
            pieces.push(Piece { weight, bias, widths });
        }
        Ok(MlxLinear { pieces, n_in })
    }

    /// `x [n_rows, n_in] · Wᵀ + b`: one tensor for each part.
    pub(super) fn apply(&self, mlx: Mlx, x: &Array) -> Result<Vec<MlxTensor>, BackendError> {
        check("matmul: columns of the input", self.n_in, x.dim(1))?;
        let mut parts = Vec::new();
        for piece in &self.pieces {
            let mut y = piece.weight.times(mlx, x)?;
            if let Some(bias) = &piece.bias {
                y = mlx.add(&y, bias)?;
            }
            let y = Rc::new(y);
            let mut start = 0;
            for width in &piece.widths {
                parts.push(MlxTensor::part(&y, start..start + width));
                start += width;
            }
        }
        Ok(parts)
    }

    /// Rows of a table that has one part.
    pub(super) fn rows(&self, mlx: Mlx, rows: &Index) -> Result<Array, BackendError> {
        let n_parts = self.pieces.iter().map(|piece| piece.widths.len()).sum();
        check("embed: parts of the table", 1, n_parts)?;
        Ok(match &self.pieces[0].weight {
            Weight::Float { rows: table, .. } => mlx.take(table, rows, 0)?,
            Weight::Codes(q) => mlx.dequantized(&Quantized {
                words: mlx.take(&q.words, rows, 0)?,
                scales: mlx.take(&q.scales, rows, 0)?,
                biases: mlx.take(&q.biases, rows, 0)?,
                ..*q
            })?,
        })
    }

    /// Rows of the table.
    pub(super) fn n_rows(&self) -> usize {
        self.pieces.iter().flat_map(|piece| &piece.widths).sum()
    }
}

impl Weight {
    /// Weights of one form, one under the other, as an array of `shape`, whose last number is their inputs.
    pub(super) fn new(
        mlx: Mlx,
        dtype: Dtype,
        views: &[WeightView<'_>],
        shape: &[usize],
    ) -> Result<Weight, BackendError> {
        let (outer, n_in) = (&shape[..shape.len() - 1], shape[shape.len() - 1]);
        let n_rows: usize = views.iter().map(WeightView::n_rows).sum();
        check("linear: rows of the parts", outer.iter().product(), n_rows)?;
        let form = views.first().map_or(Form::Float, Form::of);
        for view in views {
            check("linear: inputs of the parts", n_in, view.n_cols())?;
            check_bytes(view)?;
            if Form::of(view) != form {
                let (expected, found) = (format!("{form:?}"), format!("{:?}", Form::of(view)));
                return Err(BackendError::Shape {
                    op: "one form of all weights of a stack",
                    expected,
                    found,
                });
            }
        }
        match form {
            Form::Float => {
                let rows = mlx.filled(shape, dtype, |bytes| write_floats(views, dtype, bytes))?;
                let mut axes: Vec<usize> = (0..shape.len()).collect();
                axes.swap(shape.len() - 2, shape.len() - 1);
                let columns = mlx.transpose(&rows, &axes)?;
                mlx.eval(&[&columns])?;
                Ok(Weight::Float { rows, columns })
            }
            Form::Codes { bits, group_size } => {
                let with = |last: usize| [outer, &[last]].concat();
                let n_groups = n_in / group_size;
                let (mut scales, mut biases) = (Vec::new(), Vec::new());
                let words = mlx.filled(&with(n_in * bits as usize / 32), Dtype::U32, |bytes| {
                    write_codes(views, bits, bytes, &mut scales, &mut biases)
                })?;
                let scales = floats(mlx, dtype, &scales, &with(n_groups))?;
                let biases = floats(mlx, dtype, &biases, &with(n_groups))?;
                Ok(Weight::Codes(Quantized { words, scales, biases, group_size, bits }))
            }
        }
    }

    fn times(&self, mlx: Mlx, x: &Array) -> Result<Array, BackendError> {
        Ok(match self {
            Weight::Float { columns, .. } => mlx.matmul(x, columns)?,
            Weight::Codes(q) => mlx.quantized_matmul(x, q)?,
        })
    }
}

impl Form {
    fn of(view: &WeightView<'_>) -> Form {
        let codes = |bits| Form::Codes { bits, group_size: GROUP_SIZE };
        match view {
            WeightView::Affine(view) => Form::Codes { bits: view.bits, group_size: view.group_size },
            WeightView::Fp8(_) => Form::Float,
            WeightView::Mxfp4(_) => Form::Codes { bits: kernels::MXFP4_BITS, group_size: Mxfp4View::GROUP },
            WeightView::Blocks(view) => match view.dtype {
                DType::F32 | DType::F16 | DType::BF16 => Form::Float,
                DType::Q4_0 | DType::Q4_1 | DType::Q4_K => codes(4),
                DType::Q5_0 | DType::Q5_1 | DType::Q5_K => codes(5),
                DType::Q8_0 | DType::Q2_K | DType::Q3_K | DType::Q6_K => codes(8),
            },
        }
    }
}

/// Floats in the type of activations.
pub(super) fn floats(mlx: Mlx, dtype: Dtype, values: &[f32], shape: &[usize]) -> Result<Array, BackendError> {
    if dtype == Dtype::F32 {
        return Ok(mlx.floats(values, shape)?);
    }
    mlx.filled(shape, dtype, |bytes| {
        put_floats(values, dtype, bytes);
        Ok(())
    })
}

/// The parts' biases one after the other, zeros for those without; `None` if no part has one.
fn joined_bias(parts: &[Part<'_>], n_out: usize) -> Result<Option<Vec<f32>>, BackendError> {
    if parts.iter().all(|part| part.bias.is_none()) {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(n_out);
    for part in parts {
        let n = part.weight.n_rows();
        if let Some(bias) = part.bias {
            check("linear bias", n, bias.len())?;
        }
        all.extend_from_slice(part.bias.unwrap_or(&vec![0.0; n]));
    }
    Ok(Some(all))
}

fn check_bytes(view: &WeightView<'_>) -> Result<(), BackendError> {
    match view {
        // the packing of the CPU has the same demands; its error names them
        WeightView::Blocks(view) => Ok(kernels::check_view(view)?),
        WeightView::Affine(view) => crate::affine::check(view),
        WeightView::Fp8(view) => crate::scaled::check_fp8(view),
        WeightView::Mxfp4(view) => crate::scaled::check_mxfp4(view),
    }
}

fn write_floats(views: &[WeightView<'_>], dtype: Dtype, bytes: &mut [u8]) -> Result<(), BackendError> {
    let mut rest = bytes;
    for view in views {
        let mut row = vec![0.0; view.n_cols()];
        for r in 0..view.n_rows() {
            let (to, after) = rest.split_at_mut(view.n_cols() * dtype.size());
            match view {
                WeightView::Blocks(view) => {
                    let bytes = &view.row(r)[view.col_start * view.dtype.block_bytes()..];
                    kernels::dequantize(view.dtype, bytes, &mut row);
                }
                WeightView::Fp8(view) => kernels::fp8_row(view, r, &mut row),
                WeightView::Affine(_) | WeightView::Mxfp4(_) => {} // these have codes
            }
            put_floats(&row, dtype, to);
            rest = after;
        }
    }
    Ok(())
}

fn put_floats(values: &[f32], dtype: Dtype, bytes: &mut [u8]) {
    for (v, to) in values.iter().zip(bytes.chunks_exact_mut(dtype.size())) {
        match dtype {
            Dtype::F16 => to.copy_from_slice(&f16::from_f32(*v).to_le_bytes()),
            Dtype::BF16 => to.copy_from_slice(&bf16::from_f32(*v).to_le_bytes()),
            _ => to.copy_from_slice(&v.to_le_bytes()),
        }
    }
}

/// Codes of all rows to `bytes`, scales and biases of all groups to the vectors.
fn write_codes(
    views: &[WeightView<'_>],
    bits: u32,
    bytes: &mut [u8],
    scales: &mut Vec<f32>,
    biases: &mut Vec<f32>,
) -> Result<(), BackendError> {
    let mut rest = bytes;
    for view in views {
        let row_bytes = view.n_cols() * bits as usize / 8;
        match view {
            WeightView::Affine(view) => {
                let (to, after) = rest.split_at_mut(view.n_rows * row_bytes);
                for (r, to) in to.chunks_exact_mut(row_bytes.max(1)).enumerate() {
                    to.copy_from_slice(view.row_codes(r));
                    read_scales(view, r, scales, biases);
                }
                rest = after;
            }
            WeightView::Fp8(_) => {} // a float
            WeightView::Mxfp4(view) => {
                let middle = f32::from(1u16 << (bits - 1));
                let mut codes = vec![0; view.n_cols];
                for r in 0..view.n_rows {
                    let (to, after) = rest.split_at_mut(row_bytes);
                    let start = scales.len();
                    scales.resize(start + view.n_cols / Mxfp4View::GROUP, 0.0);
                    kernels::mxfp4_row(view, r, &mut codes, &mut scales[start..]);
                    biases.extend(scales[start..].iter().map(|scale| -middle * scale));
                    put_bits(&codes, bits, to);
                    rest = after;
                }
            }
            WeightView::Blocks(view) => {
                let mut codes = Vec::with_capacity(view.n_cols);
                for r in 0..view.n_rows {
                    let (to, after) = rest.split_at_mut(row_bytes);
                    codes.clear();
                    read_row(view, r, &mut codes, scales, biases);
                    put_bits(&codes, bits, to);
                    rest = after;
                }
            }
        }
    }
    Ok(())
}

/// One row's scales and biases.
fn read_scales(view: &AffineView<'_>, r: usize, scales: &mut Vec<f32>, biases: &mut Vec<f32>) {
    let n_groups = view.n_cols / view.group_size;
    let start = scales.len();
    scales.resize(start + n_groups, 0.0);
    kernels::dequantize(view.scale_dtype, view.row_scales(r), &mut scales[start..]);
    match view.row_biases(r) {
        Some(bytes) => {
            biases.resize(start + n_groups, 0.0);
            kernels::dequantize(view.scale_dtype, bytes, &mut biases[start..]);
        }
        None => {
            let middle = f32::from(1u16 << (view.bits - 1));
            biases.extend(scales[start..].iter().map(|s| -middle * s));
        }
    }
}

/// One row's codes, and the scales and biases of its groups of 32.
fn read_row(
    view: &MatrixView<'_>,
    r: usize,
    codes: &mut Vec<u8>,
    scales: &mut Vec<f32>,
    biases: &mut Vec<f32>,
) {
    let Some(coding) = Coding::of(view.dtype) else { return };
    let mut block = Block::ZERO;
    let mut from = view.col_start;
    for bytes in view.row(r).chunks_exact(view.dtype.block_bytes()) {
        block.read(view.dtype, bytes);
        let end = view.dtype.block_len().min(from + view.n_cols - codes.len());
        for start in (from..end).step_by(GROUP_SIZE) {
            let (scale, bias) = match coding.group_len {
                GROUP_SIZE => keep(&block, &coding, start, codes),
                _ => quantise_anew(&block, &coding, start, codes),
            };
            scales.push(scale);
            biases.push(bias);
        }
        from = 0;
    }
}

/// A group of 32 with the codes it has.
fn keep(block: &Block, coding: &Coding, start: usize, codes: &mut Vec<u8>) -> (f32, f32) {
    codes.extend_from_slice(&block.codes[start..start + GROUP_SIZE]);
    let (scale, min) = (block.scale_of(start / GROUP_SIZE), block.min_of(start / GROUP_SIZE));
    (scale, min - scale * coding.offset() as f32)
}

/// Two groups of 16 as one of 32 with 8-bit codes.
fn quantise_anew(block: &Block, coding: &Coding, start: usize, codes: &mut Vec<u8>) -> (f32, f32) {
    let value = |i: usize| {
        let group = i / coding.group_len;
        let steps = i32::from(block.codes[i]) - coding.offset();
        block.scale_of(group) * steps as f32 + block.min_of(group)
    };
    let values: [f32; GROUP_SIZE] = std::array::from_fn(|i| value(start + i));
    let (low, high) =
        values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let scale = (high - low) / 255.0;
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    codes.extend(values.iter().map(|v| ((v - low) * inverse).round() as u8));
    (scale, low)
}

/// A row of codes as a little-endian stream of `bits`-bit numbers.
fn put_bits(codes: &[u8], bits: u32, bytes: &mut [u8]) {
    // eight codes are `bits` bytes
    for (codes, to) in codes.chunks_exact(8).zip(bytes.chunks_exact_mut(bits as usize)) {
        let word = codes
            .iter()
            .enumerate()
            .fold(0u64, |word, (i, &code)| word | u64::from(code) << (i as u32 * bits));
        to.copy_from_slice(&word.to_le_bytes()[..bits as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_a_stream_of_bits() {
        let codes = [1, 2, 3, 4, 5, 6, 7, 31];
        let mut bytes = [0; 5];
        put_bits(&codes, 5, &mut bytes);
        let word = bytes.iter().rev().fold(0u64, |w, &b| w << 8 | u64::from(b));
        for (i, &code) in codes.iter().enumerate() {
            assert_eq!(word >> (5 * i) & 31, u64::from(code));
        }
    }

    /// The simple formats' scales and biases are half floats: none is rounded where activations have 16 bits.
    #[test]
    fn simple_formats_keep_every_bit_in_f16() {
        for dtype in [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0] {
            let halves = [0x2e66, 0xb123, 0x0003, 0x7000 - 128 * 64, 0x3555];
            let mut bytes = Vec::new();
            for (i, half) in halves.iter().enumerate() {
                let mut block = vec![0u8; dtype.block_bytes()];
                block.iter_mut().enumerate().for_each(|(j, b)| *b = (17 * i + 31 * j) as u8);
                block[..2].copy_from_slice(&u16::to_le_bytes(*half));
                if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                    block[2..4].copy_from_slice(&u16::to_le_bytes(half ^ 0x8421));
                }
                bytes.extend(block);
            }
            let view = MatrixView::whole(dtype, 1, 32 * halves.len(), &bytes).unwrap();
            let (mut codes, mut scales, mut biases) = (Vec::new(), Vec::new(), Vec::new());
            read_row(&view, 0, &mut codes, &mut scales, &mut biases);
            let mut exact = vec![0.0; view.n_cols];
            kernels::dequantize(dtype, &bytes, &mut exact);
            for (i, &exact) in exact.iter().enumerate() {
                let [scale, bias] = [scales[i / 32], biases[i / 32]].map(|v| f16::from_f32(v).to_f32());
                let value = f64::from(scale) * f64::from(codes[i]) + f64::from(bias);
                assert_eq!(value as f32, exact, "{dtype}, value {i}");
            }
        }
    }

    #[test]
    fn groups_of_16_become_8_bit_codes_close_to_their_values() {
        let mut block = Block::ZERO;
        for (i, code) in block.codes.iter_mut().enumerate() {
            *code = (i * 7 % 64) as u8;
        }
        (block.scale, block.scale_codes[0], block.scale_codes[1]) = (f16::from_f32(0.02), 5, 1);
        let coding = Coding::of(DType::Q6_K).unwrap();
        let mut codes = Vec::new();
        let (scale, bias) = quantise_anew(&block, &coding, 0, &mut codes);
        for (i, &code) in codes.iter().enumerate() {
            let exact = coding.value(block.codes[i], block.scale_of(i / 16), 0.0);
            assert!((scale * f32::from(code) + bias - exact).abs() <= scale * 0.501);
        }
    }
}
