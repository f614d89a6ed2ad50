//! Weights in the one layout that every matmul kernel reads: tiles of 16 output rows, so that a lane is a row.
//! It knows formats and shapes, not what the weights are for.
//!
//! Quantised: codes lie as [tile][4 inputs][16 rows][4 bytes]; with 4-bit codes, a 64-byte vector holds inputs
//! 8 i .. 8 i + 4 in the low halves of its bytes and the next four in the high halves. Scales lie as
//! [tile][group][16 scales, then 16 minimums if there are any]. Float: [tile][input][16 rows] in the file's format.
//! The last tile is filled up with rows of zeros.

use base::{Bytes, DType, MatrixView};
use half::f16;

use crate::buffer::Buffer;
use crate::dequantize::{Block, Coding, dequantize};
use crate::lanes::N_LANES;

/// Why a matrix cannot be packed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The matrix does not begin or end where its format can be cut.
    #[error("columns {start}..{end} of a {dtype} matrix: expected a cut at multiples of {unit}")]
    Cut {
        /// Number format.
        dtype: DType,
        /// First column, counted in the first block.
        start: usize,
        /// End of the columns.
        end: usize,
        /// Values that cannot be separated.
        unit: usize,
    },
    /// The view reaches behind its bytes.
    #[error("{n_rows} × {n_cols} values of {dtype}: expected at least {expected} bytes, found {found}")]
    Truncated {
        /// Number format.
        dtype: DType,
        /// Rows.
        n_rows: usize,
        /// Columns.
        n_cols: usize,
        /// Bytes that the shape needs; `usize::MAX` if no memory could hold it.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
}

/// A weight matrix `[n_rows (outputs), n_cols (inputs)]`, ready for `matmul`.
pub struct PackedMatrix {
    dtype: DType,
    n_rows: usize,
    n_cols: usize,
    /// Codes, or float values.
    values: Buffer,
    /// Scales and minimums; empty for float formats.
    scales: Buffer,
}

impl PackedMatrix {
    /// Copies a matrix, or the part of one that a view shows, into tiles.
    pub fn pack(view: &MatrixView) -> Result<PackedMatrix, PackError> {
        check(view)?;
        let mut packed = PackedMatrix {
            dtype: view.dtype,
            n_rows: view.n_rows,
            n_cols: view.n_cols,
            values: Buffer::zeroed(0),
            scales: Buffer::zeroed(0),
        };
        if view.n_rows == 0 {
            return Ok(packed);
        }
        let n_tiles = packed.n_tiles();
        packed.values = Buffer::zeroed(n_tiles * packed.tile_bytes());
        packed.scales = Buffer::zeroed(n_tiles * packed.tile_scale_bytes());
        for r in 0..view.n_rows {
            match Coding::of(view.dtype) {
                Some(coding) => packed.pack_codes(view, coding, r),
                None => packed.pack_floats(view, r),
            }
        }
        Ok(packed)
    }

    /// Number format of the checkpoint it came from.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Outputs.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Inputs.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Memory it takes.
    pub fn bytes(&self) -> Bytes {
        Bytes((self.values.len() + self.scales.len()) as u64)
    }

    /// out [n_cols] = row `row`, for looking up embeddings.
    ///
    /// # Panics
    /// If there is no such row or `out` has another length.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n_rows, "row {row} of {}", self.n_rows);
        assert_eq!(out.len(), self.n_cols, "columns");
        let (tile, lane) = (row / N_LANES, row % N_LANES);
        let values = &self.values[tile * self.tile_bytes()..][..self.tile_bytes()];
        let Some(coding) = Coding::of(self.dtype) else {
            let size = self.dtype.block_bytes();
            for (v, out) in values.chunks_exact(N_LANES * size).zip(out) {
                dequantize(self.dtype, &v[lane * size..][..size], std::slice::from_mut(out));
            }
            return;
        };
        for (i, out) in out.iter_mut().enumerate() {
            let code = match coding.bits {
                4 => values[i / 8 * 64 + lane * 4 + i % 4] >> (i / 4 % 2 * 4) & 15,
                _ => values[i / 4 * 64 + lane * 4 + i % 4],
            };
            let (scale, min) = self.scale_and_min(coding, tile, i / coding.group_len, lane);
            *out = coding.value(code, scale, min);
        }
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(N_LANES)
    }

    /// Bytes of one tile's codes or float values.
    pub(crate) fn tile_bytes(&self) -> usize {
        N_LANES * self.n_cols * Coding::of(self.dtype).map_or(8 * self.dtype.block_bytes(), |c| c.bits) / 8
    }

    /// Bytes of one tile's scales and minimums.
    pub(crate) fn tile_scale_bytes(&self) -> usize {
        Coding::of(self.dtype).map_or(0, |c| self.n_cols / c.group_len * group_scale_bytes(c))
    }

    /// Codes or float values of all tiles.
    pub(crate) fn values(&self) -> &[u8] {
        &self.values
    }

    /// Scales and minimums of all tiles.
    pub(crate) fn scales(&self) -> &[u8] {
        &self.scales
    }

    fn pack_codes(&mut self, view: &MatrixView, coding: Coding, r: usize) {
        let (tile, lane) = (r / N_LANES, r % N_LANES);
        let tile_bytes = self.tile_bytes();
        let values = &mut self.values[tile * tile_bytes..][..tile_bytes];
        let group_bytes = group_scale_bytes(coding);
        let scales = &mut self.scales[tile * (self.n_cols / coding.group_len * group_bytes)..];
        let mut block = Block::ZERO;
        let mut to = 0;
        let mut from = view.col_start;
        for bytes in view.row(r).chunks_exact(view.dtype.block_bytes()) {
            block.read(view.dtype, bytes);
            let end = view.dtype.block_len().min(from + self.n_cols - to);
            let first_group = from / coding.group_len;
            for (i, group) in (first_group..end.div_ceil(coding.group_len)).enumerate() {
                let at = &mut scales[(to / coding.group_len + i) * group_bytes..][..group_bytes];
                write_scale(coding, lane, block.scales[group], block.mins[group], at);
            }
            write_codes(coding, lane, &block.codes[from..end], &mut values[to * 2 * coding.bits..]);
            to += end - from;
            from = 0;
        }
    }

    fn pack_floats(&mut self, view: &MatrixView, r: usize) {
        let (tile, lane) = (r / N_LANES, r % N_LANES);
        let (tile_bytes, size) = (self.tile_bytes(), self.dtype.block_bytes());
        let values = &mut self.values[tile * tile_bytes..][..tile_bytes];
        for (v, to) in view.row(r).chunks_exact(size).zip(values.chunks_exact_mut(N_LANES * size)) {
            to[lane * size..][..size].copy_from_slice(v);
        }
    }

    fn scale_and_min(&self, coding: Coding, tile: usize, group: usize, lane: usize) -> (f32, f32) {
        let bytes = &self.scales[tile * self.tile_scale_bytes() + group * group_scale_bytes(coding)..];
        let read = |i: usize| {
            if coding.f16_scales {
                f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32()
            } else {
                f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
            }
        };
        (read(lane), if coding.has_min { read(N_LANES + lane) } else { 0.0 })
    }
}

fn check(view: &MatrixView) -> Result<(), PackError> {
    let MatrixView { dtype, n_rows, n_cols, col_start, .. } = *view;
    let unit = dtype.cut_len();
    let end = col_start.checked_add(n_cols);
    let whole = col_start.is_multiple_of(unit) && n_cols.is_multiple_of(unit);
    let Some(end) = end.filter(|_| whole && col_start < dtype.block_len()) else {
        return Err(PackError::Cut { dtype, start: col_start, end: col_start.saturating_add(n_cols), unit });
    };
    let last_row = n_rows.saturating_sub(1).checked_mul(view.row_stride);
    let row = end.div_ceil(dtype.block_len()).checked_mul(dtype.block_bytes());
    let needed = last_row.zip(row).and_then(|(last, row)| last.checked_add(row));
    match needed {
        _ if n_rows == 0 => Ok(()),
        Some(needed) if needed <= view.bytes.len() && view.row_stride >= row.unwrap_or(0) => Ok(()),
        _ => Err(PackError::Truncated {
            dtype,
            n_rows,
            n_cols,
            expected: needed.unwrap_or(usize::MAX),
            found: view.bytes.len(),
        }),
    }
}

/// Bytes of a tile's scales and minimums for one group.
pub(crate) const fn group_scale_bytes(coding: Coding) -> usize {
    N_LANES * if coding.f16_scales { 2 } else { 4 } * if coding.has_min { 2 } else { 1 }
}

fn write_scale(coding: Coding, lane: usize, scale: f32, min: f32, to: &mut [u8]) {
    let mut write = |i: usize, v: f32| {
        if coding.f16_scales {
            to[2 * i..][..2].copy_from_slice(&f16::from_f32(v).to_le_bytes());
        } else {
            to[4 * i..][..4].copy_from_slice(&v.to_le_bytes());
        }
    };
    write(lane, scale);
    if coding.has_min {
        write(N_LANES + lane, min);
    }
}

/// Spreads a run of one row's codes, a multiple of 32, over a tile that begins with it.
fn write_codes(coding: Coding, lane: usize, codes: &[u8], tile: &mut [u8]) {
    if coding.bits == 4 {
        for (c, to) in codes.as_chunks::<8>().0.iter().zip(tile.as_chunks_mut::<64>().0) {
            for j in 0..4 {
                to[4 * lane + j] = c[j] | c[j + 4] << 4;
            }
        }
    } else {
        for (c, to) in codes.as_chunks::<4>().0.iter().zip(tile.as_chunks_mut::<64>().0) {
            to[4 * lane..4 * lane + 4].copy_from_slice(c);
        }
    }
}
