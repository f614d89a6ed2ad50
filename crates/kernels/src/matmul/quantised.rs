//! Matmul of weight codes with 8-bit activations. Per group of a row and an output:
//!   out += weight_scale · x_scale · (Σ code · x_code - offset · Σ x_code)  [+ weight_min · x_scale · Σ x_code]
//! The sums are exact integers; the rest is f32, group after group in the order of the inputs, each step one fused
//! multiply-add: hence the same bits in every instruction family and for every blocking.

use std::marker::PhantomData;
use std::ops::Range;

use base::DType;

use super::Call;
use crate::dequantize::{Coding, ScaleForm};
use crate::lanes::{Kernel, Lanes, N_LANES};
use crate::pack::{block_scale_bytes, group_bytes, groups_per_block, scale_bytes};
use crate::quantize::{GROUP_LEN, Group};

/// Rows of x whose groups stay in the level-2 cache while a part goes through its tiles, in groups.
const CACHED_GROUPS: usize = 8192;

/// A product of few rows waits for its codes: the hardware looks ahead as far as the instructions in flight reach, which
/// is not far enough where much computation lies between two lines. So it asks for the codes that lie so far ahead.
const PREFETCH_BYTES: usize = 4096;
/// And for the scales that do, which take about an eighth of the codes' memory.
const PREFETCH_SCALE_BYTES: usize = 512;
/// Rows up to which it does; with more, computing takes longer than reading.
const PREFETCH_ROWS: usize = 4;

/// A format as the kernel sees it.
trait Format {
    const CODING: Coding;
}

macro_rules! formats {
    ($($name:ident = $coding:expr),* $(,)?) => {
        $(
            #[allow(non_camel_case_types)] // the formats' own names
            struct $name;
            impl Format for $name {
                const CODING: Coding = $coding;
            }
        )*

        /// Computes the outputs of some tiles of a weight with this coding.
        ///
        /// # Safety
        /// As `Call::run`.
        pub(super) unsafe fn run(call: &Call, coding: Coding, tiles: Range<usize>) {
            $(if coding == $name::CODING {
                // SAFETY: the caller's promise.
                return unsafe { call.isa.call(Tiles::<$name> { call, tiles, format: PhantomData }) };
            })*
            unreachable!("no kernel for {coding:?}")
        }
    };
}
formats! {
    Q4_0 = of(DType::Q4_0),
    Q4_1 = of(DType::Q4_1),
    Q5_0 = of(DType::Q5_0),
    Q5_1 = of(DType::Q5_1),
    Q8_0 = of(DType::Q8_0),
    Q2_K = of(DType::Q2_K),
    Q3_K = of(DType::Q3_K),
    Q4_K = of(DType::Q4_K),
    Q5_K = of(DType::Q5_K),
    Q6_K = of(DType::Q6_K),
    // The other affine codings are among those above.
    Affine4 = Coding::affine(4, true, false),
    Affine5 = Coding::affine(5, true, false),
    Affine6 = Coding::affine(6, true, false),
    Affine6HalfScales = Coding::affine(6, true, true),
    Affine8 = Coding::affine(8, true, false),
    Affine8HalfScales = Coding::affine(8, true, true),
}

const fn of(dtype: DType) -> Coding {
    match Coding::of(dtype) {
        Some(coding) => coding,
        None => panic!("a block format"),
    }
}

/// The outputs of some tiles for all rows of x.
struct Tiles<'a, F> {
    call: &'a Call<'a>,
    tiles: Range<usize>,
    format: PhantomData<F>,
}

impl<F: Format> Kernel for Tiles<'_, F> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let n_groups = self.call.w.n_cols() / GROUP_LEN;
        let cached_rows = (CACHED_GROUPS / n_groups).next_multiple_of(L::QUANT_ROWS).max(L::QUANT_ROWS);
        for start in (0..self.call.n_rows).step_by(cached_rows) {
            let rows = start..self.call.n_rows.min(start + cached_rows);
            // Weights that are used once come from memory, which delivers one stream faster than two.
            let streamed = rows.len() <= L::QUANT_ROWS;
            let mut tile = self.tiles.start;
            while tile < self.tiles.end {
                let n_tiles = if streamed { 1 } else { L::QUANT_TILES.min(self.tiles.end - tile) };
                for row in rows.clone().step_by(L::QUANT_ROWS) {
                    let n_rows = L::QUANT_ROWS.min(rows.end - row);
                    // SAFETY: tiles and rows are inside the matrices, by the promise of `Call::run`.
                    unsafe { block::<L, F>(self.call, tile, n_tiles, row, n_rows) };
                }
                tile += n_tiles;
            }
        }
    }
}

/// Calls the kernel for a block of outputs.
#[inline(always)]
unsafe fn block<L: Lanes, F: Format>(call: &Call, tile: usize, n_tiles: usize, row: usize, n_rows: usize) {
    macro_rules! sizes {
        ($($t:literal $r:literal),*) => {
            // Sizes that the family does not use are not compiled.
            $(if const { $t <= L::QUANT_TILES && $r <= L::QUANT_ROWS } {
                if n_tiles == $t && n_rows == $r {
                    // SAFETY: the caller's promise.
                    return unsafe { L::call(Block::<F, $t, $r> { call, tile, row, format: PhantomData }) };
                }
            })*
        };
    }
    sizes!(1 1, 1 2, 1 3, 1 4, 1 5, 1 6, 2 1, 2 2, 2 3, 2 4, 2 5, 2 6);
    unreachable!("no kernel for {n_tiles} tiles and {n_rows} rows");
}

/// The outputs of T tiles for R rows of x.
struct Block<'a, F, const T: usize, const R: usize> {
    call: &'a Call<'a>,
    tile: usize,
    row: usize,
    format: PhantomData<F>,
}

impl<F: Format, const T: usize, const R: usize> Kernel for Block<'_, F, T, R> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (w, n_groups) = (self.call.w, self.call.w.n_cols() / GROUP_LEN);
        let parts = GROUP_LEN / F::CODING.group_len;
        let (tile_bytes, tile_scale_bytes) = (w.tile_bytes(), w.tile_scale_bytes());
        // SAFETY: every offset is inside its slice: tiles, groups and rows are in range, by `Call::run`.
        unsafe {
            let outer = w.scales().as_ptr().add(self.tile * tile_scale_bytes);
            let mut place = Place {
                codes: w.values().as_ptr().add(self.tile * tile_bytes),
                tile_bytes,
                scales: outer.add(tile_scale_bytes - n_groups * parts * scale_bytes(F::CODING)),
                tile_scale_bytes,
                x: self.call.groups.as_ptr().add(self.row * n_groups),
                row_groups: n_groups,
            };
            let mut blocks = [[L::splat(0.0); 2]; T];
            let mut acc = [[L::splat(0.0); R]; T];
            for g in 0..n_groups {
                let group = w.first_group() + g * parts;
                if is_nested::<F>() && (g == 0 || group.is_multiple_of(groups_per_block(F::CODING))) {
                    let block = outer.add(group / groups_per_block(F::CODING) * block_scale_bytes(F::CODING));
                    for (t, scales) in blocks.iter_mut().enumerate() {
                        *scales = load_block_scales::<L, F>(block.add(t * tile_scale_bytes));
                    }
                }
                if R <= PREFETCH_ROWS {
                    for line in (0..group_bytes(F::CODING)).step_by(64) {
                        L::prefetch(place.codes.wrapping_add(PREFETCH_BYTES + line));
                    }
                    L::prefetch(place.scales.wrapping_add(PREFETCH_SCALE_BYTES));
                }
                place.add_group::<L, F, T, R>(&blocks, &mut acc);
                place.codes = place.codes.add(group_bytes(F::CODING));
                place.scales = place.scales.add(parts * scale_bytes(F::CODING));
                place.x = place.x.add(1);
            }
            for (t, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    self.call.store::<L>(self.tile + t, self.row + r, *acc);
                }
            }
        }
    }
}

/// Where a group of 32 inputs lies: of the first tile and row; the others follow at their strides.
#[derive(Clone, Copy)]
struct Place {
    codes: *const u8,
    tile_bytes: usize,
    scales: *const u8,
    tile_scale_bytes: usize,
    x: *const Group,
    row_groups: usize,
}

impl Place {
    /// acc += the group's part of the outputs, weight group after weight group; `blocks` has the scale and minimum
    /// of each tile's block.
    #[inline(always)]
    unsafe fn add_group<L: Lanes, F: Format, const T: usize, const R: usize>(
        &self,
        blocks: &[[L::F; 2]; T],
        acc: &mut [[L::F; R]; T],
    ) {
        // SAFETY: the caller's pointers cover the group.
        unsafe {
            self.add_part::<L, F, T, R, 0>(blocks, acc);
            if const { F::CODING.group_len < GROUP_LEN } {
                self.add_part::<L, F, T, R, 1>(blocks, acc);
            }
        }
    }

    /// The same of one weight group among those of 32 inputs.
    #[inline(always)]
    unsafe fn add_part<L: Lanes, F: Format, const T: usize, const R: usize, const PART: usize>(
        &self,
        blocks: &[[L::F; 2]; T],
        acc: &mut [[L::F; R]; T],
    ) {
        // The sums of a group of 32 come first, then those of its halves.
        let sum = if F::CODING.group_len == GROUP_LEN { 0 } else { 1 + PART };
        // SAFETY: the caller's pointers cover the group.
        unsafe {
            let dots = self.dots::<L, F, T, R, PART>(sum);
            for (t, (acc, dots)) in acc.iter_mut().zip(dots).enumerate() {
                let scales = self.scales.add(t * self.tile_scale_bytes + PART * scale_bytes(F::CODING));
                let scale = load_scale::<L, F>(scales, blocks[t], 0);
                for (r, (acc, dot)) in acc.iter_mut().zip(dots).enumerate() {
                    let x = &*self.x.add(r * self.row_groups);
                    *acc = L::fma(L::to_f32(dot), L::mul(scale, L::splat(x.scale)), *acc);
                    if F::CODING.has_min {
                        let min = load_scale::<L, F>(scales, blocks[t], 1);
                        *acc = L::fma(min, L::splat(x.weighted_sums[sum]), *acc);
                    }
                }
            }
        }
    }

    /// Σ (code - offset) · x_code over one weight group.
    #[inline(always)]
    unsafe fn dots<L: Lanes, F: Format, const T: usize, const R: usize, const PART: usize>(
        &self,
        sum: usize,
    ) -> [[L::I; R]; T] {
        let two_sums = const { R <= L::TWO_SUM_ROWS && F::CODING.group_len == GROUP_LEN };
        // SAFETY: the caller's pointers cover the group.
        unsafe {
            let mut dots = [[zero::<L>(); R]; T];
            for r in 0..R {
                let start = start::<L, F>((*self.x.add(r * self.row_groups)).neg_sums[sum]);
                for dots in &mut dots {
                    dots[r] = start;
                }
            }
            let mut odd = [[zero::<L>(); R]; T];
            // Not a loop, for the compiler unrolls none of this size, and the bits' places must be constants.
            macro_rules! quads {
                ($($quad:literal),*) => {
                    $(if const { $quad / (F::CODING.group_len / 4) == PART } {
                        let sums = if two_sums && $quad % 2 == 1 { &mut odd } else { &mut dots };
                        self.add_quad::<L, F, T, R, $quad>(sums);
                    })*
                };
            }
            quads!(0, 1, 2, 3, 4, 5, 6, 7);
            if two_sums {
                for (dot, odd) in dots.as_flattened_mut().iter_mut().zip(odd.as_flattened()) {
                    *dot = L::add(*dot, *odd);
                }
            }
            dots
        }
    }

    /// dots += codes of inputs 4 QUAD .. 4 QUAD + 4 · x.
    #[inline(always)]
    unsafe fn add_quad<L: Lanes, F: Format, const T: usize, const R: usize, const QUAD: usize>(
        &self,
        dots: &mut [[L::I; R]; T],
    ) {
        // SAFETY: the caller's pointers cover the group, and only wide codes reach 128.
        unsafe {
            let mut codes = [quad_codes::<L, F, QUAD>(self.codes); T];
            for (t, codes) in codes.iter_mut().enumerate() {
                *codes = quad_codes::<L, F, QUAD>(self.codes.add(t * self.tile_bytes));
            }
            for r in 0..R {
                let x = (*self.x.add(r * self.row_groups)).codes.as_ptr().add(4 * QUAD);
                for (dots, codes) in dots.iter_mut().zip(&codes) {
                    dots[r] = if F::CODING.wide {
                        L::dot::<true>(dots[r], *codes, x)
                    } else {
                        L::dot::<false>(dots[r], *codes, x)
                    };
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn zero<L: Lanes>() -> L::I {
    // SAFETY: called inside `Lanes::call`.
    unsafe { L::splat_shifted::<0>(0) }
}

/// -offset · Σ x_code, where a dot product begins.
#[inline(always)]
unsafe fn start<L: Lanes, F: Format>(neg_sum: i32) -> L::I {
    // SAFETY: called inside `Lanes::call`.
    unsafe {
        match F::CODING.offset_shift {
            None => zero::<L>(),
            Some(2) => L::splat_shifted::<2>(neg_sum),
            Some(3) => L::splat_shifted::<3>(neg_sum),
            Some(4) => L::splat_shifted::<4>(neg_sum),
            Some(5) => L::splat_shifted::<5>(neg_sum),
            Some(7) => L::splat_shifted::<7>(neg_sum),
            Some(_) => unreachable!("no such offset"),
        }
    }
}

/// The codes of inputs 4 QUAD .. 4 QUAD + 4 of a tile's group of 32.
#[inline(always)]
unsafe fn quad_codes<L: Lanes, F: Format, const QUAD: usize>(group: *const u8) -> L::C {
    // SAFETY: called inside `Lanes::call`, with codes of a whole group.
    unsafe {
        let vector = |i: usize| L::codes(group.add(i * 64));
        if F::CODING.bits == 8 {
            return vector(QUAD);
        }
        let pair = vector(QUAD / 2);
        let low = if const { QUAD.is_multiple_of(2) } { L::low(pair) } else { L::high(pair) };
        match F::CODING.bits {
            4 => low,
            5 => L::merge(low, vector(4), 4 - QUAD as i32, 16),
            _ => L::merge(low, vector(4 + QUAD / 4), 4 - 2 * (QUAD % 4) as i32, 48),
        }
    }
}

const fn is_nested<F: Format>() -> bool {
    matches!(F::CODING.scales, ScaleForm::Nested)
}

/// Scale and minimum of a block, 16 rows of each.
#[inline(always)]
unsafe fn load_block_scales<L: Lanes, F: Format>(scales: *const u8) -> [L::F; 2] {
    // SAFETY: called inside `Lanes::call`, with scales of a whole block.
    unsafe {
        let scale = L::load_f16(scales.cast());
        [scale, if F::CODING.has_min { L::load_f16(scales.cast::<u16>().add(N_LANES)) } else { scale }]
    }
}

/// Scales (0) or minimums (1) of a tile's group.
#[inline(always)]
unsafe fn load_scale<L: Lanes, F: Format>(scales: *const u8, block: [L::F; 2], which: usize) -> L::F {
    // SAFETY: called inside `Lanes::call`, with scales of a whole group.
    unsafe {
        match F::CODING.scales {
            ScaleForm::F16 => L::load_f16(scales.cast::<u16>().add(which * N_LANES)),
            ScaleForm::F32 => L::load(scales.cast::<f32>().add(which * N_LANES)),
            ScaleForm::Nested => L::mul(block[which], L::load_i8(scales.cast::<i8>().add(which * N_LANES))),
        }
    }
}

impl Call<'_> {
    /// A tile's outputs for one row, with anything for those that only fill up the last tile.
    #[inline(always)]
    pub(super) unsafe fn load<L: Lanes>(&self, tile: usize, row: usize) -> L::F {
        let n_out = self.w.n_rows();
        let n_valid = N_LANES.min(n_out - tile * N_LANES);
        // SAFETY: `out` has n_rows × n_out values, by the promise of `Call::run`.
        unsafe {
            let out = self.out.add(row * n_out + tile * N_LANES);
            if n_valid == N_LANES {
                return L::load(out);
            }
            let mut all = [0.0; N_LANES];
            all.as_mut_ptr().copy_from_nonoverlapping(out, n_valid);
            L::load(all.as_ptr())
        }
    }

    /// Writes a tile's outputs for one row, without those that only fill up the last tile.
    #[inline(always)]
    pub(super) unsafe fn store<L: Lanes>(&self, tile: usize, row: usize, values: L::F) {
        let n_out = self.w.n_rows();
        let n_valid = N_LANES.min(n_out - tile * N_LANES);
        // SAFETY: `out` has n_rows × n_out values, by the promise of `Call::run`.
        unsafe {
            let out = self.out.add(row * n_out + tile * N_LANES);
            if n_valid == N_LANES {
                return L::store(out, values);
            }
            let mut all = [0.0; N_LANES];
            L::store(all.as_mut_ptr(), values);
            out.copy_from_nonoverlapping(all.as_ptr(), n_valid);
        }
    }
}
