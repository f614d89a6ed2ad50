//! A borrowed matrix of small integers with a scale and a bias per group: the form that MLX and compressed-tensors
//! store. It knows where codes lie, not what they mean.

use std::ops::Range;

use crate::{DType, MatrixView};

/// A stored weight in either family of formats.
#[derive(Clone, Copy, Debug)]
pub enum WeightView<'a> {
    /// Plain floats or GGUF's blocks.
    Blocks(MatrixView<'a>),
    /// Codes, scales and biases apart.
    Affine(AffineView<'a>),
}

/// `n_rows × n_cols` values `code · scale + bias`. The codes of row `r` are a little-endian stream of `bits`-bit numbers that begins
/// at byte `r * n_cols * bits / 8`; scales and biases lie as `[n_rows, n_cols / group_size]`.
#[derive(Clone, Copy, Debug)]
pub struct AffineView<'a> {
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// Bits of a code: 4, 5, 6 or 8.
    pub bits: u32,
    /// Values of a row that share scale and bias: 32, 64 or 128.
    pub group_size: usize,
    /// Codes.
    pub codes: &'a [u8],
    /// Format of scales and biases: F32, F16 or BF16.
    pub scale_dtype: DType,
    /// One per group.
    pub scales: &'a [u8],
    /// One per group; when absent `-2^(bits - 1) · scale`, so that the middle code is zero.
    pub biases: Option<&'a [u8]>,
}

impl<'a> AffineView<'a> {
    /// The given rows. `None` if there are not so many or not their bytes.
    pub fn rows(&self, rows: Range<usize>) -> Option<AffineView<'a>> {
        let part = |bytes: &'a [u8], row_bytes: usize| {
            bytes.get(rows.start.checked_mul(row_bytes)?..rows.end.checked_mul(row_bytes)?)
        };
        let scale_bytes = self.n_cols.checked_div(self.group_size)? * self.scale_dtype.block_bytes();
        let biases = match self.biases {
            Some(biases) => Some(part(biases, scale_bytes)?),
            None => None,
        };
        (rows.end <= self.n_rows).then_some(AffineView {
            n_rows: rows.len(),
            codes: part(self.codes, self.n_cols * self.bits as usize / 8)?,
            scales: part(self.scales, scale_bytes)?,
            biases,
            ..*self
        })
    }
}

impl<'a> WeightView<'a> {
    /// The given rows. `None` if there are not so many or not their bytes.
    pub fn rows(&self, rows: Range<usize>) -> Option<WeightView<'a>> {
        match self {
            WeightView::Blocks(view) => view.cut(rows, 0..view.n_cols).map(WeightView::Blocks),
            WeightView::Affine(view) => view.rows(rows).map(WeightView::Affine),
        }
    }

    /// Outputs.
    pub fn n_rows(&self) -> usize {
        match self {
            WeightView::Blocks(view) => view.n_rows,
            WeightView::Affine(view) => view.n_rows,
        }
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        match self {
            WeightView::Blocks(view) => view.n_cols,
            WeightView::Affine(view) => view.n_cols,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_codes_scales_and_biases() {
        let bytes: Vec<u8> = (0..=255).collect();
        let whole = AffineView {
            n_rows: 4,
            n_cols: 64,
            bits: 6,
            group_size: 32,
            codes: &bytes[..192],
            scale_dtype: DType::F16,
            scales: &bytes[..16],
            biases: Some(&bytes[16..32]),
        };
        let part = whole.rows(1..3).unwrap();
        assert_eq!((part.n_rows, part.codes, part.scales), (2, &bytes[48..144], &bytes[4..12]));
        assert_eq!(part.biases, Some(&bytes[20..28]));
        assert!(whole.rows(3..5).is_none(), "too many rows");
        assert!(AffineView { scales: &bytes[..4], ..whole }.rows(1..3).is_none(), "too few bytes");
        assert!(AffineView { biases: None, ..whole }.rows(0..4).is_some_and(|view| view.biases.is_none()));
    }
}
