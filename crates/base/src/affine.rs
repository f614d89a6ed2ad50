//! A borrowed matrix of small integers with a scale and a bias per group: the form that MLX and compressed-tensors
//! store. It knows where codes lie, not what they mean.

use std::ops::Range;

use crate::{DType, Fp8View, MatrixView, Mxfp4View};

/// A stored weight in any family of formats.
#[derive(Clone, Copy, Debug)]
pub enum WeightView<'a> {
    /// Plain floats or GGUF's blocks.
    Blocks(MatrixView<'a>),
    /// Codes, scales and biases apart.
    Affine(AffineView<'a>),
    /// 8-bit floats, and scales of square blocks apart.
    Fp8(Fp8View<'a>),
    /// 4-bit floats, and powers of two of groups apart.
    Mxfp4(Mxfp4View<'a>),
}

/// `n_rows × n_cols` values `code · scale + bias`, possibly a rectangle cut out of a larger matrix. The codes of row `r` are a
/// little-endian stream of `bits`-bit numbers that begins at byte `r * code_stride`; its scales and its biases, one per group,
/// begin at byte `r * scale_stride`.
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
    /// Bytes from one row's codes to the next row's.
    pub code_stride: usize,
    /// Codes, from row 0's first on.
    pub codes: &'a [u8],
    /// Format of scales and biases: F32, F16 or BF16.
    pub scale_dtype: DType,
    /// Bytes from one row's scales to the next row's; the biases' too.
    pub scale_stride: usize,
    /// One per group, from row 0's first on.
    pub scales: &'a [u8],
    /// One per group; when absent `-2^(bits - 1) · scale`, so that the middle code is zero.
    pub biases: Option<&'a [u8]>,
}

impl<'a> AffineView<'a> {
    /// Bytes of a row's codes.
    pub fn code_bytes(&self) -> usize {
        self.n_cols * self.bits as usize / 8
    }

    /// Bytes of a row's scales; of its biases too.
    pub fn scale_bytes(&self) -> usize {
        self.n_cols.checked_div(self.group_size).unwrap_or(0) * self.scale_dtype.block_bytes()
    }

    /// Codes of row `r`.
    pub fn row_codes(&self, r: usize) -> &'a [u8] {
        &self.codes[r * self.code_stride..][..self.code_bytes()]
    }

    /// Scales of row `r`.
    pub fn row_scales(&self, r: usize) -> &'a [u8] {
        &self.scales[r * self.scale_stride..][..self.scale_bytes()]
    }

    /// Biases of row `r`, where there are any.
    pub fn row_biases(&self, r: usize) -> Option<&'a [u8]> {
        self.biases.map(|biases| &biases[r * self.scale_stride..][..self.scale_bytes()])
    }

    /// The rectangle of `rows` × `cols`. `None` if it leaves the matrix or its bytes, or cuts a group.
    pub fn cut(&self, rows: Range<usize>, cols: Range<usize>) -> Option<AffineView<'a>> {
        let inside = rows.start <= rows.end
            && rows.end <= self.n_rows
            && cols.start <= cols.end
            && cols.end <= self.n_cols;
        let is_whole = |n: usize| self.group_size > 0 && n.is_multiple_of(self.group_size);
        if !inside || !is_whole(cols.start) || !is_whole(cols.end) {
            return None;
        }
        let first_group = cols.start / self.group_size * self.scale_dtype.block_bytes();
        let part = |bytes: &'a [u8], stride: usize, start: usize| {
            let end = rows.end.checked_mul(stride)?.min(bytes.len());
            bytes.get(rows.start.checked_mul(stride)?.checked_add(start)?.min(end)..end)
        };
        Some(AffineView {
            n_rows: rows.len(),
            n_cols: cols.len(),
            codes: part(self.codes, self.code_stride, cols.start * self.bits as usize / 8)?,
            scales: part(self.scales, self.scale_stride, first_group)?,
            biases: match self.biases {
                Some(biases) => Some(part(biases, self.scale_stride, first_group)?),
                None => None,
            },
            ..*self
        })
    }
}

impl<'a> WeightView<'a> {
    /// The given rows. `None` if there are not so many or not their bytes.
    pub fn rows(&self, rows: Range<usize>) -> Option<WeightView<'a>> {
        self.cut(rows, 0..self.n_cols())
    }

    /// The rectangle of `rows` × `cols`. `None` if it leaves the matrix or does not fall between the format's blocks.
    pub fn cut(&self, rows: Range<usize>, cols: Range<usize>) -> Option<WeightView<'a>> {
        match self {
            WeightView::Blocks(view) => view.cut(rows, cols).map(WeightView::Blocks),
            WeightView::Affine(view) => view.cut(rows, cols).map(WeightView::Affine),
            WeightView::Fp8(view) => view.cut(rows, cols).map(WeightView::Fp8),
            WeightView::Mxfp4(view) => view.cut(rows, cols).map(WeightView::Mxfp4),
        }
    }

    /// The smallest run of a row that may be cut off for a shard.
    pub fn cut_len(&self) -> usize {
        match self {
            WeightView::Blocks(view) => view.dtype.cut_len(),
            WeightView::Affine(view) => view.group_size,
            WeightView::Fp8(_) => Fp8View::BLOCK,
            WeightView::Mxfp4(_) => Mxfp4View::GROUP,
        }
    }

    /// Bytes of the values that the view shows, scales and biases included.
    pub fn n_bytes(&self) -> usize {
        match self {
            WeightView::Blocks(view) => {
                view.n_rows * view.dtype.row_bytes(view.n_cols).unwrap_or(view.row_stride)
            }
            WeightView::Affine(view) => {
                let n_scales = if view.biases.is_some() { 2 } else { 1 };
                view.n_rows * (view.code_bytes() + n_scales * view.scale_bytes())
            }
            WeightView::Fp8(view) => {
                let n_blocks = [view.n_rows, view.n_cols].map(|n| n.div_ceil(Fp8View::BLOCK));
                view.n_rows * view.n_cols + 4 * n_blocks[0] * n_blocks[1]
            }
            WeightView::Mxfp4(view) => view.n_rows * (view.n_cols / 2 + view.n_cols / Mxfp4View::GROUP),
        }
    }

    /// The format's name, as tables write it.
    pub fn format(&self) -> String {
        match self {
            WeightView::Blocks(view) => view.dtype.name().to_owned(),
            WeightView::Affine(view) => format!("{} bits in groups of {}", view.bits, view.group_size),
            WeightView::Fp8(_) => format!("8-bit floats in blocks of {}", Fp8View::BLOCK),
            WeightView::Mxfp4(_) => "MXFP4".to_owned(),
        }
    }

    /// Outputs.
    pub fn n_rows(&self) -> usize {
        match self {
            WeightView::Blocks(view) => view.n_rows,
            WeightView::Affine(view) => view.n_rows,
            WeightView::Fp8(view) => view.n_rows,
            WeightView::Mxfp4(view) => view.n_rows,
        }
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        match self {
            WeightView::Blocks(view) => view.n_cols,
            WeightView::Affine(view) => view.n_cols,
            WeightView::Fp8(view) => view.n_cols,
            WeightView::Mxfp4(view) => view.n_cols,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_keeps_its_codes_scales_and_biases() {
        let bytes: Vec<u8> = (0..=255).collect();
        let whole = AffineView {
            n_rows: 4,
            n_cols: 64,
            bits: 6,
            group_size: 32,
            code_stride: 48,
            codes: &bytes[..192],
            scale_dtype: DType::F16,
            scale_stride: 4,
            scales: &bytes[..16],
            biases: Some(&bytes[16..32]),
        };
        let part = WeightView::Affine(whole).rows(1..3).unwrap();
        let WeightView::Affine(part) = part else { panic!("another form") };
        assert_eq!((part.n_rows, part.codes, part.scales), (2, &bytes[48..144], &bytes[4..12]));
        assert_eq!(part.biases, Some(&bytes[20..28]));
        let right = whole.cut(1..4, 32..64).unwrap();
        assert_eq!((right.row_codes(1), right.row_scales(1)), (&bytes[120..144], &bytes[10..12]));
        assert_eq!(right.row_biases(2), Some(&bytes[30..32]));
        assert!(whole.cut(0..4, 16..64).is_none(), "inside a group");
        assert!(whole.cut(3..5, 0..64).is_none(), "too many rows");
        assert!(AffineView { biases: None, ..whole }.cut(0..4, 0..64).is_some_and(|v| v.biases.is_none()));
    }
}
