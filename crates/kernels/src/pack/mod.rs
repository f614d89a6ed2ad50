//! Weights in the one layout that every matmul kernel reads: tiles of 16 output rows, so that a lane is a row. The
//! last tile is filled up with rows of zeros. It knows formats and shapes, not what the weights are for.

mod codes;
mod float;
mod float8;

use std::sync::atomic::{AtomicUsize, Ordering};

use base::{AffineView, Bytes, DType, Fp8View, MatrixView, Mxfp4View};
use half::{bf16, f16};

use crate::Pool;
use crate::buffer::Buffer;
use crate::dequantize::{Coding, MXFP4_BITS, mxfp4_row};
use crate::lanes::N_LANES;
use crate::pool::Shared;
pub(crate) use codes::{block_scale_bytes, group_bytes, groups_per_block, scale_bytes};

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
    /// The system gives no memory.
    #[error("no memory for {bytes} of weights: {why}")]
    Memory {
        /// What was asked for.
        bytes: Bytes,
        /// The system's word.
        why: String,
    },
}

/// What lies in a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    /// 8-bit floats with a scale for each row and run of columns.
    Fp8,
    Coded(Coding),
}

/// A weight matrix `[n_rows (outputs), n_cols (inputs)]`, ready for `matmul`.
pub struct PackedMatrix {
    format: Format,
    n_rows: usize,
    n_cols: usize,
    /// Weight groups of the first block of 256 that lie before column 0: a shard may begin inside a block.
    first_group: usize,
    /// Codes, or float values.
    values: Buffer,
    /// Scales and minimums; empty for float formats.
    scales: Buffer,
}

impl PackedMatrix {
    /// Copies a matrix, or the part of one that a view shows, into tiles, with all threads of `pool`.
    pub fn pack(pool: &Pool, view: &MatrixView) -> Result<PackedMatrix, PackError> {
        check_view(view)?;
        let format = Format::of(view.dtype);
        let first_group = match format {
            Format::Coded(coding) => view.col_start / coding.group_len,
            _ => 0,
        };
        let mut packed = PackedMatrix::zeroed(pool, format, view.n_rows, view.n_cols, first_group)?;
        packed.fill(pool, |tile, values, scales| match format {
            Format::Coded(coding) => codes::pack_blocks(view, coding, tile, values, scales),
            _ => float::pack_tile(view, tile, values),
        });
        Ok(packed)
    }

    /// The same for codes, scales and biases apart. Codes stay as they are, and so do scales and biases: in f16 if
    /// that holds every one of them, else in f32.
    ///
    /// # Panics
    /// If the parts of the view are not those of its shape, bits and groups.
    pub fn pack_affine(pool: &Pool, view: &AffineView) -> Result<PackedMatrix, PackError> {
        let scales = codes::GroupScales::of_affine(view);
        let coding = Coding::affine(view.bits, view.biases.is_some(), scales.fit_f16());
        let row = |r: usize, codes: &mut [u8]| codes::read_affine(view, r, codes);
        PackedMatrix::pack_groups(pool, [view.n_rows, view.n_cols], coding, &scales, row)
    }

    /// The same for 4-bit floats: twice their values are whole numbers, which five bits hold.
    ///
    /// # Panics
    /// If the parts of the view are not those of its shape.
    pub fn pack_mxfp4(pool: &Pool, view: &Mxfp4View) -> Result<PackedMatrix, PackError> {
        let scales = codes::GroupScales::of_mxfp4(view);
        let coding = Coding::affine(MXFP4_BITS, false, scales.fit_f16());
        let row = |r: usize, codes: &mut [u8]| {
            mxfp4_row(view, r, codes, &mut vec![0.0; view.n_cols / Mxfp4View::GROUP]);
        };
        PackedMatrix::pack_groups(pool, [view.n_rows, view.n_cols], coding, &scales, row)
    }

    /// The same for 8-bit floats, which stay as they are.
    ///
    /// # Panics
    /// If the parts of the view are not those of its shape.
    pub fn pack_fp8(pool: &Pool, view: &Fp8View) -> Result<PackedMatrix, PackError> {
        let mut packed = PackedMatrix::zeroed(pool, Format::Fp8, view.n_rows, view.n_cols, 0)?;
        packed.fill(pool, |tile, values, scales| float8::pack_tile(view, tile, values, scales));
        Ok(packed)
    }

    /// Codes whose rows `read` writes, with one scale and minimum a group.
    fn pack_groups(
        pool: &Pool,
        [n_rows, n_cols]: [usize; 2],
        coding: Coding,
        scales: &codes::GroupScales,
        read: impl Fn(usize, &mut [u8]) + Sync,
    ) -> Result<PackedMatrix, PackError> {
        let mut packed = PackedMatrix::zeroed(pool, Format::Coded(coding), n_rows, n_cols, 0)?;
        let shape = [n_rows, n_cols];
        packed.fill(pool, |tile, values, to| {
            codes::pack_groups(shape, coding, scales, &read, tile, values, to)
        });
        Ok(packed)
    }

    fn zeroed(
        pool: &Pool,
        format: Format,
        n_rows: usize,
        n_cols: usize,
        first_group: usize,
    ) -> Result<PackedMatrix, PackError> {
        let mut arena = pool.weights.borrow_mut();
        let mut zeroed = |len: usize| {
            let refused =
                |e: std::io::Error| PackError::Memory { bytes: Bytes(len as u64), why: e.to_string() };
            arena.zeroed(len).map_err(refused)
        };
        let (values, scales) = (zeroed(0)?, zeroed(0)?);
        let mut packed = PackedMatrix { format, n_rows, n_cols, first_group, values, scales };
        if n_rows > 0 {
            packed.values = zeroed(packed.n_tiles() * packed.tile_bytes())?;
            packed.scales = zeroed(packed.n_tiles() * packed.tile_scale_bytes())?;
        }
        Ok(packed)
    }

    /// Calls `pack(tile, its values, its scales)` for every tile.
    fn fill(&mut self, pool: &Pool, pack: impl Fn(usize, &mut [u8], &mut [u8]) + Sync) {
        if self.n_rows == 0 {
            return;
        }
        let (n_tiles, n_values, n_scales) = (self.n_tiles(), self.tile_bytes(), self.tile_scale_bytes());
        let (values, scales) = (Shared::new(&mut self.values), Shared::new(&mut self.scales));
        // Threads take tiles as they can: while a model is loaded, they are not alone on their cores.
        let next = AtomicUsize::new(0);
        pool.run(|_, _| {
            loop {
                let tile = next.fetch_add(1, Ordering::Relaxed);
                if tile >= n_tiles {
                    return;
                }
                // SAFETY: both have so many bytes for every tile, and nobody else got this tile.
                let (values, scales) = unsafe {
                    (values.slice(tile * n_values, n_values), scales.slice(tile * n_scales, n_scales))
                };
                pack(tile, values, scales);
            }
        });
    }

    /// A copy with rows and columns exchanged: floats as they are, anything else in f32.
    pub fn transposed(&self, pool: &Pool) -> Result<PackedMatrix, PackError> {
        let dtype = match self.format {
            Format::F16 => DType::F16,
            Format::BF16 => DType::BF16,
            Format::F32 | Format::Fp8 | Format::Coded(_) => DType::F32,
        };
        let size = dtype.block_bytes();
        let (mut row, mut bytes) = (vec![0.0; self.n_cols], vec![0; self.n_rows * self.n_cols * size]);
        for r in 0..self.n_rows {
            self.dequantize_row(r, &mut row);
            for (v, to) in row.iter().zip(bytes[r * size..].chunks_mut(self.n_rows * size)) {
                match dtype {
                    DType::F16 => to[..2].copy_from_slice(&f16::from_f32(*v).to_le_bytes()),
                    DType::BF16 => to[..2].copy_from_slice(&bf16::from_f32(*v).to_le_bytes()),
                    _ => to[..4].copy_from_slice(&v.to_le_bytes()),
                }
            }
        }
        let (n_rows, n_cols, row_stride) = (self.n_cols, self.n_rows, self.n_rows * size);
        PackedMatrix::pack(
            pool,
            &MatrixView { dtype, n_rows, n_cols, row_stride, col_start: 0, bytes: &bytes },
        )
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
        let scales = &self.scales[tile * self.tile_scale_bytes()..][..self.tile_scale_bytes()];
        match self.format {
            Format::Coded(coding) => codes::row(coding, self.first_group, values, scales, lane, out),
            Format::F32 => float::row(DType::F32, values, lane, out),
            Format::F16 => float::row(DType::F16, values, lane, out),
            Format::BF16 => float::row(DType::BF16, values, lane, out),
            Format::Fp8 => float8::row(values, scales, lane, out),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn first_group(&self) -> usize {
        self.first_group
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(N_LANES)
    }

    /// Bytes of one tile's codes or float values.
    pub(crate) fn tile_bytes(&self) -> usize {
        let n_cols = match self.format {
            Format::BF16 => self.n_cols.next_multiple_of(2),
            _ => self.n_cols,
        };
        N_LANES * n_cols * self.format.bits() / 8
    }

    /// Bytes of one tile's scales and minimums.
    pub(crate) fn tile_scale_bytes(&self) -> usize {
        match self.format {
            Format::Coded(coding) => codes::tile_scale_bytes(coding, self.first_group, self.n_cols),
            Format::Fp8 => float8::tile_scale_bytes(self.n_cols),
            _ => 0,
        }
    }

    /// Codes or float values of all tiles.
    pub(crate) fn values(&self) -> &[u8] {
        &self.values
    }

    /// Scales and minimums of all tiles.
    pub(crate) fn scales(&self) -> &[u8] {
        &self.scales
    }
}

impl Format {
    fn of(dtype: DType) -> Format {
        match (dtype, Coding::of(dtype)) {
            (_, Some(coding)) => Format::Coded(coding),
            (DType::F16, None) => Format::F16,
            (DType::BF16, None) => Format::BF16,
            _ => Format::F32,
        }
    }

    /// Bits of a code or value.
    fn bits(self) -> usize {
        match self {
            Format::Coded(coding) => coding.bits,
            Format::F32 => 32,
            Format::F16 | Format::BF16 => 16,
            Format::Fp8 => 8,
        }
    }
}

/// Whether a view begins and ends where its format can be cut, and holds the bytes of its shape.
pub fn check_view(view: &MatrixView) -> Result<(), PackError> {
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
