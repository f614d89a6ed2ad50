//! Tiles of quantised weights. Codes lie as [tile][group of 32 inputs][plane], a plane's 64-byte vectors as
//! [16 rows][4 inputs]: the first plane has the low four bits of codes, a vector inputs 8 i .. 8 i + 4 in the low
//! halves of its bytes and the next four in the high halves; a fifth bit follows as one vector with bit q for inputs
//! 4 q .., a fifth and a sixth as two with bits 2 q .. for the inputs 4 q .. of their half. Codes of 8 bits are 8
//! vectors in the order of the inputs. So weights take no more memory than in the file.
//!
//! Scales lie as [tile][block of 256][16 scales, 16 minimums], where the format has blocks, then
//! [tile][weight group][16 scales, 16 minimums]; minimums where the format has any.

use base::{AffineView, MatrixView, Mxfp4View};
use half::f16;

use crate::dequantize::{Block, Coding, MXFP4_BITS, ScaleForm, dequantize, mxfp4_row};
use crate::lanes::N_LANES;
use crate::quantize::GROUP_LEN;

/// Values that share the outer scale of nested scales.
const BLOCK_LEN: usize = 256;
/// Bytes of a vector of codes.
const VECTOR: usize = 64;

/// Bytes of a tile's codes for 32 inputs.
pub(crate) const fn group_bytes(coding: Coding) -> usize {
    N_LANES * GROUP_LEN * coding.bits / 8
}

/// Bytes of a tile's scales and minimums for one weight group.
pub(crate) const fn scale_bytes(coding: Coding) -> usize {
    let size = match coding.scales {
        ScaleForm::F16 => 2,
        ScaleForm::F32 => 4,
        ScaleForm::Nested => 1,
    };
    N_LANES * size * if coding.has_min { 2 } else { 1 }
}

/// Bytes of a tile's outer scales and minimums for one block.
pub(crate) const fn block_scale_bytes(coding: Coding) -> usize {
    match coding.scales {
        ScaleForm::Nested => N_LANES * 2 * if coding.has_min { 2 } else { 1 },
        ScaleForm::F16 | ScaleForm::F32 => 0,
    }
}

/// Weight groups that share the outer scale of nested scales.
pub(crate) const fn groups_per_block(coding: Coding) -> usize {
    BLOCK_LEN / coding.group_len
}

/// Bytes of a tile's scales and minimums of both kinds.
pub(super) fn tile_scale_bytes(coding: Coding, first_group: usize, n_cols: usize) -> usize {
    let n_groups = n_cols / coding.group_len;
    let n_blocks = (first_group + n_groups).div_ceil(groups_per_block(coding));
    n_blocks * block_scale_bytes(coding) + n_groups * scale_bytes(coding)
}

/// Packs rows 16 tile.. of a view of blocks; `values` and `scales` are the tile's and zeros.
pub(super) fn pack_blocks(
    view: &MatrixView,
    coding: Coding,
    tile: usize,
    values: &mut [u8],
    scales: &mut [u8],
) {
    let rows: Vec<&[u8]> =
        (tile * N_LANES..view.n_rows.min((tile + 1) * N_LANES)).map(|r| view.row(r)).collect();
    let (block_len, block_bytes) = (view.dtype.block_len(), view.dtype.block_bytes());
    let mut to = Scales::of_tile(coding, view.col_start / coding.group_len, view.n_cols, scales);
    let mut groups = values.chunks_exact_mut(group_bytes(coding));
    let mut blocks = [Block::ZERO; N_LANES];
    let (mut n_done, mut from) = (0, view.col_start);
    for b in 0..(view.col_start + view.n_cols).div_ceil(block_len) {
        for (block, row) in blocks.iter_mut().zip(&rows) {
            block.read(view.dtype, &row[b * block_bytes..][..block_bytes]);
        }
        let end = block_len.min(from + view.n_cols - n_done);
        to.put_blocks(b, &blocks[..rows.len()]);
        for (i, group) in (from / coding.group_len..end / coding.group_len).enumerate() {
            to.put_groups(n_done / coding.group_len + i, group, &blocks[..rows.len()]);
        }
        for (start, to) in (from..end).step_by(GROUP_LEN).zip(&mut groups) {
            put_codes(coding, std::array::from_fn(|lane| &blocks[lane].codes[start..]), to);
        }
        (n_done, from) = (n_done + end - from, 0);
    }
}

/// Packs rows 16 tile.. of a weight [n_rows, n_cols] whose codes `read` writes row by row; `values` and `to` are the tile's and
/// zeros.
pub(super) fn pack_groups(
    [n_rows, n_cols]: [usize; 2],
    coding: Coding,
    scales: &GroupScales,
    read: impl Fn(usize, &mut [u8]),
    tile: usize,
    values: &mut [u8],
    to: &mut [u8],
) {
    let rows = tile * N_LANES..n_rows.min((tile + 1) * N_LANES);
    let mut codes = vec![0; N_LANES * n_cols];
    for (r, codes) in rows.clone().zip(codes.chunks_exact_mut(n_cols.max(1))) {
        read(r, codes);
    }
    let row_codes: [&[u8]; N_LANES] = std::array::from_fn(|lane| &codes[lane * n_cols..]);
    for (g, to) in values.chunks_exact_mut(group_bytes(coding)).enumerate() {
        put_codes(coding, row_codes.map(|codes| &codes[g * GROUP_LEN..]), to);
    }
    let mut to = Scales::of_tile(coding, 0, n_cols, to);
    for (lane, r) in rows.enumerate() {
        for group in 0..n_cols / coding.group_len {
            let at = (r * n_cols + group * coding.group_len) / scales.group_size;
            to.put(group, lane, scales.scales[at], scales.mins[at]);
        }
    }
}

/// out = a row of a tile.
pub(super) fn row(
    coding: Coding,
    first_group: usize,
    values: &[u8],
    scales: &[u8],
    lane: usize,
    out: &mut [f32],
) {
    let n_block_scales = scales.len() - out.len() / coding.group_len * scale_bytes(coding);
    let (blocks, groups) = scales.split_at(n_block_scales);
    let runs = out.chunks_exact_mut(coding.group_len);
    for (group, (run, inner)) in runs.zip(groups.chunks_exact(scale_bytes(coding))).enumerate() {
        let block = (first_group + group) / groups_per_block(coding);
        let outer = &blocks[block * block_scale_bytes(coding)..];
        let (scale, min) = scale_and_min(coding, outer, inner, lane);
        for (i, out) in run.iter_mut().enumerate() {
            *out = coding.value(code(coding, values, lane, group * coding.group_len + i), scale, min);
        }
    }
}

/// Scales and minimums of a tile, to be written.
struct Scales<'a> {
    coding: Coding,
    /// Of blocks.
    outer: &'a mut [u8],
    /// Of weight groups.
    inner: &'a mut [u8],
}

impl Scales<'_> {
    fn of_tile(coding: Coding, first_group: usize, n_cols: usize, bytes: &mut [u8]) -> Scales<'_> {
        let n_outer =
            tile_scale_bytes(coding, first_group, n_cols) - n_cols / coding.group_len * scale_bytes(coding);
        let (outer, inner) = bytes.split_at_mut(n_outer);
        Scales { coding, outer, inner }
    }

    /// The outer scales of a block of each row, where there are any.
    fn put_blocks(&mut self, b: usize, rows: &[Block]) {
        let n_bytes = block_scale_bytes(self.coding);
        if n_bytes == 0 {
            return;
        }
        put_block_scales(self.coding, &mut self.outer[b * n_bytes..][..n_bytes], rows);
    }

    /// The scales of weight group `to`, which is number `group` in each row's block.
    fn put_groups(&mut self, to: usize, group: usize, rows: &[Block]) {
        let n_bytes = scale_bytes(self.coding);
        let to = &mut self.inner[to * n_bytes..][..n_bytes];
        if self.coding.scales != ScaleForm::Nested {
            return put_block_scales(self.coding, to, rows);
        }
        for (lane, block) in rows.iter().enumerate() {
            to[lane] = block.scale_codes[group] as u8;
            if self.coding.has_min {
                to[N_LANES + lane] = block.min_codes[group] as u8;
            }
        }
    }

    /// One scale and minimum that are not nested.
    fn put(&mut self, group: usize, lane: usize, scale: f32, min: f32) {
        let n_bytes = scale_bytes(self.coding);
        let to = &mut self.inner[group * n_bytes..][..n_bytes];
        let mut write = |i: usize, v: f32| match self.coding.scales {
            ScaleForm::F32 => to[4 * i..][..4].copy_from_slice(&v.to_le_bytes()),
            _ => put_f16(to, i, f16::from_f32(v)),
        };
        write(lane, scale);
        if self.coding.has_min {
            write(N_LANES + lane, min);
        }
    }
}

/// The scales and minimums of each row's block.
fn put_block_scales(coding: Coding, to: &mut [u8], rows: &[Block]) {
    for (lane, block) in rows.iter().enumerate() {
        put_f16(to, lane, block.scale);
        if coding.has_min {
            put_f16(to, N_LANES + lane, block.min);
        }
    }
}

fn put_f16(to: &mut [u8], i: usize, v: f16) {
    to[2 * i..][..2].copy_from_slice(&v.to_le_bytes());
}

/// A lane's scale and minimum from the bytes of its block and of its group.
fn scale_and_min(coding: Coding, outer: &[u8], inner: &[u8], lane: usize) -> (f32, f32) {
    let half = |bytes: &[u8], i: usize| f16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]).to_f32();
    let read = |i: usize| match coding.scales {
        ScaleForm::F16 => half(inner, i),
        ScaleForm::F32 => {
            f32::from_le_bytes([inner[4 * i], inner[4 * i + 1], inner[4 * i + 2], inner[4 * i + 3]])
        }
        ScaleForm::Nested => half(outer, i) * f32::from(inner[i] as i8),
    };
    (read(lane), if coding.has_min { read(N_LANES + lane) } else { 0.0 })
}

/// to = the planes of 32 inputs, of which each row's codes are given from the first on.
fn put_codes(coding: Coding, rows: [&[u8]; N_LANES], to: &mut [u8]) {
    // quads[q][row]: codes of inputs 4 q .., a byte each.
    let mut quads = [[0u32; N_LANES]; GROUP_LEN / 4];
    for (lane, codes) in rows.iter().enumerate() {
        for (quads, codes) in quads.iter_mut().zip(codes[..GROUP_LEN].as_chunks::<4>().0) {
            quads[lane] = u32::from_le_bytes(*codes);
        }
    }
    let mut vectors = to.as_chunks_mut::<VECTOR>().0.iter_mut();
    let mut put = |vector: [u32; N_LANES]| {
        for (to, v) in vectors.next().into_iter().flat_map(|to| to.as_chunks_mut::<4>().0).zip(vector) {
            *to = v.to_le_bytes();
        }
    };
    if coding.bits == 8 {
        return quads.into_iter().for_each(put);
    }
    for [even, odd] in quads.as_chunks::<2>().0 {
        put(std::array::from_fn(|r| even[r] & 0x0f0f_0f0f | (odd[r] & 0x0f0f_0f0f) << 4));
    }
    // A quad's bits above the fourth, `n` for each code, to place `at` in their bytes.
    let n = coding.bits - 4;
    let high = |quads: &[[u32; N_LANES]], r: usize| {
        let bits = |quad: &[u32; N_LANES]| quad[r] >> 4 & if n == 1 { 0x0101_0101 } else { 0x0303_0303 };
        quads.iter().enumerate().fold(0, |byte, (at, quad)| byte | bits(quad) << (at * n))
    };
    if let Some(n_quads) = 8usize.checked_div(n) {
        quads.chunks_exact(n_quads).for_each(|quads| put(std::array::from_fn(|r| high(quads, r))));
    }
}

/// The code of input `i` from the planes of a tile.
fn code(coding: Coding, tile: &[u8], lane: usize, i: usize) -> u8 {
    let (group, quad) = (&tile[i / GROUP_LEN * group_bytes(coding)..], i % GROUP_LEN / 4);
    let at = |vector: usize| group[vector * VECTOR + 4 * lane + i % 4];
    let low = || at(quad / 2) >> (quad % 2 * 4) & 15;
    match coding.bits {
        4 => low(),
        5 => low() | (at(4) >> quad & 1) << 4,
        6 => low() | (at(4 + quad / 4) >> (quad % 4 * 2) & 3) << 4,
        _ => at(quad),
    }
}

/// Scales and minimums of a weight, one per group.
pub(super) struct GroupScales {
    group_size: usize,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl GroupScales {
    pub(super) fn of_affine(view: &AffineView) -> GroupScales {
        let row_groups = view.n_cols / view.group_size;
        let mut scales = vec![0.0; view.n_rows * row_groups];
        let mut mins = scales.clone();
        let middle = f32::from(1u16 << (view.bits - 1));
        let rows = scales.chunks_exact_mut(row_groups.max(1)).zip(mins.chunks_exact_mut(row_groups.max(1)));
        for (r, (scales, mins)) in rows.enumerate() {
            dequantize(view.scale_dtype, view.row_scales(r), scales);
            match view.row_biases(r) {
                Some(biases) => dequantize(view.scale_dtype, biases, mins),
                None => mins.iter_mut().zip(scales).for_each(|(min, scale)| *min = -middle * *scale),
            }
        }
        GroupScales { group_size: view.group_size, scales, mins }
    }

    /// Of the codes that 4-bit floats become.
    pub(super) fn of_mxfp4(view: &Mxfp4View) -> GroupScales {
        let row_groups = view.n_cols / Mxfp4View::GROUP;
        let mut scales = vec![0.0; view.n_rows * row_groups];
        let mut codes = vec![0; view.n_cols];
        for (r, scales) in scales.chunks_exact_mut(row_groups.max(1)).enumerate() {
            mxfp4_row(view, r, &mut codes, scales);
        }
        let middle = f32::from(1u16 << (MXFP4_BITS - 1));
        let mins = scales.iter().map(|scale| -middle * scale).collect();
        GroupScales { group_size: Mxfp4View::GROUP, scales, mins }
    }

    pub(super) fn fit_f16(&self) -> bool {
        let fits = |v: &f32| f16::from_f32(*v).to_f32() == *v;
        self.scales.iter().all(fits) && self.mins.iter().all(fits)
    }
}

/// Row `r` of an affine weight's codes.
pub(super) fn read_affine(view: &AffineView, r: usize, codes: &mut [u8]) {
    // Eight codes are as many bytes as a code has bits.
    let n_bytes = view.bits as usize;
    for (bytes, codes) in view.row_codes(r).chunks_exact(n_bytes).zip(codes.as_chunks_mut::<8>().0) {
        let mut word = [0; 8];
        word[..n_bytes].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (word >> (i as u32 * view.bits)) as u8 & (u8::MAX >> (8 - view.bits));
        }
    }
}
