//! Borrowed matrices of tiny floats whose scales lie apart: 8-bit floats with a scale for each square block, and 4-bit floats with a
//! power of two for each group. They know where codes lie, not what they mean.

use std::ops::Range;

/// `n_rows × n_cols` values, each an 8-bit float (e4m3: sign, 4 bits of exponent around 7, 3 of mantissa; no infinities) times the
/// f32 scale of its block of [`Fp8View::BLOCK`] rows and columns; possibly a rectangle cut out of a larger matrix.
#[derive(Clone, Copy, Debug)]
pub struct Fp8View<'a> {
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// Bytes from one row's codes to the next row's.
    pub code_stride: usize,
    /// Codes, from row 0's first on.
    pub codes: &'a [u8],
    /// Rows of the first row of blocks that lie before row 0; less than a block.
    pub row_start: usize,
    /// Bytes from one row of blocks to the next in `scales`.
    pub scale_stride: usize,
    /// Little-endian f32, one for each block, from row 0's first on.
    pub scales: &'a [u8],
}

impl<'a> Fp8View<'a> {
    /// Rows and columns of a block.
    pub const BLOCK: usize = 128;

    /// Codes of row `r`.
    pub fn row_codes(&self, r: usize) -> &'a [u8] {
        &self.codes[r * self.code_stride..][..self.n_cols]
    }

    /// Scales of row `r`, one for each block of columns.
    pub fn row_scales(&self, r: usize) -> impl Iterator<Item = f32> + 'a {
        let row = (self.row_start + r) / Self::BLOCK * self.scale_stride;
        let bytes = &self.scales[row..][..self.n_cols.div_ceil(Self::BLOCK) * 4];
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))
    }

    /// The rectangle of `rows` × `cols`. `None` if it leaves the matrix or its bytes, or cuts a block's columns.
    pub fn cut(&self, rows: Range<usize>, cols: Range<usize>) -> Option<Fp8View<'a>> {
        let is_whole = |n: usize| n.is_multiple_of(Self::BLOCK) || n == self.n_cols;
        if !is_inside(&rows, self.n_rows) || !is_inside(&cols, self.n_cols) {
            return None;
        }
        if !cols.start.is_multiple_of(Self::BLOCK) || !is_whole(cols.end) {
            return None;
        }
        let first = self.row_start + rows.start;
        let scales = first / Self::BLOCK * self.scale_stride + cols.start / Self::BLOCK * 4;
        let codes = (rows.start * self.code_stride + cols.start).min(self.codes.len());
        Some(Fp8View {
            n_rows: rows.len(),
            n_cols: cols.len(),
            codes: &self.codes[codes..],
            row_start: first % Self::BLOCK,
            scales: &self.scales[scales.min(self.scales.len())..],
            ..*self
        })
    }
}

/// `n_rows × n_cols` values, each a 4-bit float (e2m1: sign, 2 bits of exponent, 1 of mantissa) times the power of two of its group
/// of [`Mxfp4View::GROUP`] in a row. Source: OCP, "Microscaling formats (MX) specification" (2023).
#[derive(Clone, Copy, Debug)]
pub struct Mxfp4View<'a> {
    /// Outputs.
    pub n_rows: usize,
    /// Inputs.
    pub n_cols: usize,
    /// Bytes from one row's codes to the next row's.
    pub code_stride: usize,
    /// Two codes in a byte, the earlier one in its low half, from row 0's first on.
    pub codes: &'a [u8],
    /// Bytes from one row's scales to the next row's.
    pub scale_stride: usize,
    /// A byte for each group: the exponent of its power of two, plus 127.
    pub scales: &'a [u8],
}

impl<'a> Mxfp4View<'a> {
    /// Values that share a power of two.
    pub const GROUP: usize = 32;

    /// Codes of row `r`, two in a byte.
    pub fn row_codes(&self, r: usize) -> &'a [u8] {
        &self.codes[r * self.code_stride..][..self.n_cols / 2]
    }

    /// Exponents of row `r`, plus 127.
    pub fn row_scales(&self, r: usize) -> &'a [u8] {
        &self.scales[r * self.scale_stride..][..self.n_cols / Self::GROUP]
    }

    /// The rectangle of `rows` × `cols`. `None` if it leaves the matrix or its bytes, or cuts a group.
    pub fn cut(&self, rows: Range<usize>, cols: Range<usize>) -> Option<Mxfp4View<'a>> {
        let is_whole = |n: usize| n.is_multiple_of(Self::GROUP);
        if !is_inside(&rows, self.n_rows) || !is_inside(&cols, self.n_cols) {
            return None;
        }
        if !is_whole(cols.start) || !is_whole(cols.end) {
            return None;
        }
        let codes = (rows.start * self.code_stride + cols.start / 2).min(self.codes.len());
        let scales = (rows.start * self.scale_stride + cols.start / Self::GROUP).min(self.scales.len());
        Some(Mxfp4View {
            n_rows: rows.len(),
            n_cols: cols.len(),
            codes: &self.codes[codes..],
            scales: &self.scales[scales..],
            ..*self
        })
    }
}

fn is_inside(range: &Range<usize>, n: usize) -> bool {
    range.start <= range.end && range.end <= n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_of_blocks_keeps_the_scale_of_every_row() {
        let codes: Vec<u8> = (0..300 * 256).map(|i| (i % 251) as u8).collect();
        let scales: Vec<u8> = (0..6u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
        let whole = Fp8View {
            n_rows: 300,
            n_cols: 256,
            code_stride: 256,
            codes: &codes,
            row_start: 0,
            scale_stride: 8,
            scales: &scales,
        };
        let cut = whole.cut(192..300, 128..256).unwrap().cut(10..108, 0..128).unwrap();
        for r in [0, 53, 54, 97] {
            assert_eq!(cut.row_codes(r), &codes[(202 + r) * 256 + 128..][..128]);
            assert_eq!(cut.row_scales(r).collect::<Vec<_>>(), [((202 + r) / 128 * 2 + 1) as f32]);
        }
        assert!(whole.cut(0..300, 64..256).is_none(), "inside a block");
        assert!(whole.cut(0..301, 0..256).is_none(), "too many rows");
    }

    #[test]
    fn a_cut_of_groups_keeps_their_exponents() {
        let (codes, scales): (Vec<u8>, Vec<u8>) = ((0..96).collect(), (0..6).collect());
        let whole = Mxfp4View {
            n_rows: 3,
            n_cols: 64,
            code_stride: 32,
            codes: &codes,
            scale_stride: 2,
            scales: &scales,
        };
        let cut = whole.cut(1..3, 32..64).unwrap();
        assert_eq!((cut.row_codes(1), cut.row_scales(1)), (&codes[80..96], &scales[5..6]));
        assert!(whole.cut(0..1, 0..16).is_none(), "inside a group");
    }
}
