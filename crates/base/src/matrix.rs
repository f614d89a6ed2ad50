//! A borrowed matrix in a stored number format, possibly a rectangle cut out of a larger one: what the loader
//! hands to a backend. It knows where rows lie, not what they mean.

use crate::DType;

/// `n_rows × n_cols` values in format `dtype`. Row `r` starts at byte `r * row_stride`; its first value is
/// value `col_start` of the first block there, so a cut inside a 256-value block needs no copy.
#[derive(Clone, Copy, Debug)]
pub struct MatrixView<'a> {
    /// Number format.
    pub dtype: DType,
    /// Rows: outputs of a linear layer, words of an embedding.
    pub n_rows: usize,
    /// Columns: inputs of a linear layer, width of an embedding.
    pub n_cols: usize,
    /// Bytes from one row's first block to the next row's.
    pub row_stride: usize,
    /// Values to skip in the first block of each row; a multiple of `dtype.cut_len()`, less than a block.
    pub col_start: usize,
    /// The blocks of all rows, from row 0's first block on.
    pub bytes: &'a [u8],
}

impl<'a> MatrixView<'a> {
    /// A whole matrix stored row after row. `None` if rows are not whole blocks or `bytes` has another length.
    pub fn whole(dtype: DType, n_rows: usize, n_cols: usize, bytes: &'a [u8]) -> Option<MatrixView<'a>> {
        let row_stride = dtype.row_bytes(n_cols)?;
        (row_stride.checked_mul(n_rows)? == bytes.len()).then_some(MatrixView {
            dtype,
            n_rows,
            n_cols,
            row_stride,
            col_start: 0,
            bytes,
        })
    }

    /// The rectangle of `rows` × `cols`. `None` if it leaves the matrix or `cols.start` or `cols.end` is not a
    /// multiple of the format's `cut_len` (the end may also be the row's own end).
    pub fn cut(&self, rows: std::ops::Range<usize>, cols: std::ops::Range<usize>) -> Option<MatrixView<'a>> {
        let unit = self.dtype.cut_len();
        let whole_units =
            cols.start.is_multiple_of(unit) && (cols.end.is_multiple_of(unit) || cols.end == self.n_cols);
        let inside = rows.start <= rows.end
            && rows.end <= self.n_rows
            && cols.start <= cols.end
            && cols.end <= self.n_cols;
        if !whole_units || !inside {
            return None;
        }
        let first = self.col_start + cols.start;
        let (block, bytes) = (self.dtype.block_len(), self.dtype.block_bytes());
        let cut = MatrixView {
            n_rows: rows.len(),
            n_cols: cols.len(),
            col_start: first % block,
            bytes: self.bytes.get(rows.start * self.row_stride + first / block * bytes..)?,
            ..*self
        };
        Some(cut)
    }

    /// The blocks of row `r`, from the one that holds its first value to the one that holds its last.
    pub fn row(&self, r: usize) -> &'a [u8] {
        let n_blocks = (self.col_start + self.n_cols).div_ceil(self.dtype.block_len());
        let start = r * self.row_stride;
        &self.bytes[start..start + n_blocks * self.dtype.block_bytes()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_inside_a_large_block_keeps_its_block() {
        let bytes = vec![0u8; 3 * 2 * 144];
        let whole = MatrixView::whole(DType::Q4_K, 3, 512, &bytes).unwrap();
        let cut = whole.cut(1..3, 288..512).unwrap();
        assert_eq!((cut.n_rows, cut.n_cols, cut.col_start), (2, 224, 32));
        assert_eq!(cut.row(1).len(), 144);
        assert!(whole.cut(0..1, 10..512).is_none(), "not at a cut");
        assert!(whole.cut(0..4, 0..512).is_none(), "too many rows");
    }

    #[test]
    fn whole_checks_the_length() {
        assert!(MatrixView::whole(DType::Q4_0, 2, 64, &[0; 72]).is_some());
        assert!(MatrixView::whole(DType::Q4_0, 2, 64, &[0; 71]).is_none());
        assert!(MatrixView::whole(DType::Q4_0, 2, 33, &[0; 72]).is_none());
    }
}
