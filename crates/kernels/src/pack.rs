//! Weights in the one layout that every matmul kernel reads: tiles of 16 output rows, so that a lane is a row.
//! It knows formats and shapes, not what the weights are for.
//!
//! Quantised: codes lie as [tile][4 inputs][16 rows][4 bytes]; with 4-bit codes, a 64-byte vector holds inputs
//! 8 i .. 8 i + 4 in the low halves of its bytes and the next four in the high halves. Scales lie as
//! [tile][group][16 scales, then 16 minimums if there are any]. Float: [tile][input][16 rows] in the file's format.
//! The last tile is filled up with rows of zeros.

use base::{AffineView, Bytes, DType, MatrixView};
use half::{bf16, f16};

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

/// What lies in a tile.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Format {
    F32,
    F16,
    BF16,
    Coded(Coding),
}

/// A weight matrix `[n_rows (outputs), n_cols (inputs)]`, ready for `matmul`.
pub struct PackedMatrix {
    format: Format,
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
        check_view(view)?;
        let format = Format::of(view.dtype);
        let mut packed = PackedMatrix::zeroed(format, view.n_rows, view.n_cols);
        for r in 0..view.n_rows {
            match format {
                Format::Coded(coding) => packed.pack_codes(view, coding, r),
                _ => packed.pack_floats(view, r),
            }
        }
        Ok(packed)
    }

    /// The same for codes, scales and biases apart. Codes stay as they are, and so do scales and biases: in f16 if
    /// that holds every one of them, else in f32.
    ///
    /// # Panics
    /// If the parts of the view are not those of its shape, bits and groups.
    pub fn pack_affine(view: &AffineView) -> PackedMatrix {
        let scales = Scales::read(view);
        let coding = Coding::affine(view.bits, view.biases.is_some(), scales.fit_f16());
        let mut packed = PackedMatrix::zeroed(Format::Coded(coding), view.n_rows, view.n_cols);
        let mut codes = vec![0; view.n_cols];
        for r in 0..view.n_rows {
            read_codes(view, r, &mut codes);
            packed.pack_affine_row(coding, r, &codes, &scales, view.group_size);
        }
        packed
    }

    fn zeroed(format: Format, n_rows: usize, n_cols: usize) -> PackedMatrix {
        let none = || Buffer::zeroed(0);
        let mut packed = PackedMatrix { format, n_rows, n_cols, values: none(), scales: none() };
        if n_rows > 0 {
            packed.values = Buffer::zeroed(packed.n_tiles() * packed.tile_bytes());
            packed.scales = Buffer::zeroed(packed.n_tiles() * packed.tile_scale_bytes());
        }
        packed
    }

    /// A copy with rows and columns exchanged: floats as they are, anything else in f32.
    pub fn transposed(&self) -> PackedMatrix {
        let dtype = match self.format {
            Format::F16 => DType::F16,
            Format::BF16 => DType::BF16,
            Format::F32 | Format::Coded(_) => DType::F32,
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
        let view = MatrixView { dtype, n_rows, n_cols, row_stride, col_start: 0, bytes: &bytes };
        let mut packed = PackedMatrix::zeroed(Format::of(dtype), n_rows, n_cols);
        for r in 0..n_rows {
            packed.pack_floats(&view, r);
        }
        packed
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
        let coding = match self.format {
            Format::Coded(coding) => coding,
            Format::F32 => return float_row(DType::F32, values, lane, out),
            Format::F16 => return float_row(DType::F16, values, lane, out),
            Format::BF16 => return float_row(DType::BF16, values, lane, out),
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

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn n_tiles(&self) -> usize {
        self.n_rows.div_ceil(N_LANES)
    }

    /// Bytes of one tile's codes or float values.
    pub(crate) fn tile_bytes(&self) -> usize {
        N_LANES * self.n_cols * self.format.bits() / 8
    }

    /// Bytes of one tile's scales and minimums.
    pub(crate) fn tile_scale_bytes(&self) -> usize {
        match self.format {
            Format::Coded(coding) => self.n_cols / coding.group_len * group_scale_bytes(coding),
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
        let (tile_bytes, size) = (self.tile_bytes(), self.format.bits() / 8);
        let values = &mut self.values[tile * tile_bytes..][..tile_bytes];
        for (v, to) in view.row(r).chunks_exact(size).zip(values.chunks_exact_mut(N_LANES * size)) {
            to[lane * size..][..size].copy_from_slice(v);
        }
    }

    fn pack_affine_row(
        &mut self,
        coding: Coding,
        r: usize,
        codes: &[u8],
        scales: &Scales,
        group_size: usize,
    ) {
        let (tile, lane) = (r / N_LANES, r % N_LANES);
        let (tile_bytes, tile_scale_bytes) = (self.tile_bytes(), self.tile_scale_bytes());
        write_codes(coding, lane, codes, &mut self.values[tile * tile_bytes..][..tile_bytes]);
        let runs = self.scales[tile * tile_scale_bytes..][..tile_scale_bytes]
            .chunks_exact_mut(group_scale_bytes(coding));
        for (i, to) in runs.enumerate() {
            let group = (r * self.n_cols + i * coding.group_len) / group_size;
            write_scale(coding, lane, scales.scales[group], scales.mins[group], to);
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
        }
    }
}

/// Scales and minimums of an affine weight, one per group.
struct Scales {
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Scales {
    fn read(view: &AffineView) -> Scales {
        let n_groups = view.n_rows * view.n_cols / view.group_size;
        let read = |bytes: &[u8]| {
            let mut values = vec![0.0; n_groups];
            dequantize(view.scale_dtype, bytes, &mut values);
            values
        };
        let scales = read(view.scales);
        let middle = f32::from(1u16 << (view.bits - 1));
        let mins = match view.biases {
            Some(biases) => read(biases),
            None => scales.iter().map(|s| -middle * s).collect(),
        };
        Scales { scales, mins }
    }

    fn fit_f16(&self) -> bool {
        let fits = |v: &f32| f16::from_f32(*v).to_f32() == *v;
        self.scales.iter().all(fits) && self.mins.iter().all(fits)
    }
}

/// Row `r` of an affine weight's codes.
fn read_codes(view: &AffineView, r: usize, codes: &mut [u8]) {
    // Eight codes are as many bytes as a code has bits.
    let n_bytes = view.bits as usize;
    let bytes = &view.codes[r * view.n_cols / 8 * n_bytes..][..view.n_cols / 8 * n_bytes];
    for (bytes, codes) in bytes.chunks_exact(n_bytes).zip(codes.as_chunks_mut::<8>().0) {
        let mut word = [0; 8];
        word[..n_bytes].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i as u32 * view.bits)) as u8 & (u8::MAX >> (8 - view.bits));
        }
    }
}

/// A row of a tile of floats.
fn float_row(dtype: DType, tile: &[u8], lane: usize, out: &mut [f32]) {
    let size = dtype.block_bytes();
    for (v, out) in tile.chunks_exact(N_LANES * size).zip(out) {
        dequantize(dtype, &v[lane * size..][..size], std::slice::from_mut(out));
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
