//! Matmul of float weights: one accumulator per output, one fused multiply-add per input in a fixed order, in every
//! instruction family. f32, f16 and scaled 8-bit weights meet f32 activations, input after input. bf16 weights meet activations
//! rounded to bf16, two inputs at a time, the second first: so do the dot products of bf16 pairs that machines have.

use std::marker::PhantomData;
use std::ops::Range;

use base::Fp8View;

use super::{Call, bf16};
use crate::dequantize::fp8_half;
use crate::lanes::{Kernel, Lanes, N_LANES};

/// Words of some tiles that stay in the level-2 cache while all rows of x pass.
const BLOCK_WORDS: usize = 1024;

/// A format as the kernel sees it.
pub(super) trait Format {
    /// Bytes of a tile's word.
    const WORD_BYTES: usize;
    /// Whether a word is a pair of bf16.
    const PAIRS: bool;
    /// Words that share their rows' scales, where there are any.
    const SCALED_WORDS: Option<usize> = None;
    /// A tile's word in registers.
    type Word<L: Lanes>: Copy;
    /// Tiles that one row of x takes together: memory is read fastest as one stream, where a tile's sums keep up.
    fn row_tiles<L: Lanes>() -> usize;
    unsafe fn load<L: Lanes>(p: *const u8) -> Self::Word<L>;
    /// w times its rows' scales.
    #[inline(always)]
    unsafe fn scaled<L: Lanes>(w: Self::Word<L>, _: L::F) -> Self::Word<L> {
        w
    }
    /// acc + w · x
    unsafe fn dot<L: Lanes>(acc: L::F, w: Self::Word<L>, x: u32) -> L::F;
}

macro_rules! widened {
    ($($name:ident: $size:literal $load:ident $row_tiles:literal),*) => {$(
        pub(super) struct $name;
        impl Format for $name {
            const WORD_BYTES: usize = $size * N_LANES;
            const PAIRS: bool = false;
            type Word<L: Lanes> = L::F;
            fn row_tiles<L: Lanes>() -> usize {
                $row_tiles
            }
            #[inline(always)]
            unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
                // SAFETY: the caller's promise.
                unsafe { L::$load(p.cast()) }
            }
            #[inline(always)]
            unsafe fn dot<L: Lanes>(acc: L::F, w: L::F, x: u32) -> L::F {
                // SAFETY: the caller's promise.
                unsafe { L::fma(w, L::splat(f32::from_bits(x)), acc) }
            }
        }
    )*};
}
widened!(F32: 4 load 1, F16: 2 load_f16 4);

pub(super) struct BF16;

impl Format for BF16 {
    const WORD_BYTES: usize = 4 * N_LANES;
    const PAIRS: bool = true;
    type Word<L: Lanes> = L::C;
    fn row_tiles<L: Lanes>() -> usize {
        L::PAIR_TILES
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::C {
        // SAFETY: the caller's promise.
        unsafe { L::codes(p) }
    }
    #[inline(always)]
    unsafe fn dot<L: Lanes>(acc: L::F, w: L::C, x: u32) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::dot_pairs(acc, w, x) }
    }
}

pub(super) struct Fp8;

impl Format for Fp8 {
    const WORD_BYTES: usize = N_LANES;
    const PAIRS: bool = false;
    const SCALED_WORDS: Option<usize> = Some(Fp8View::BLOCK);
    type Word<L: Lanes> = L::F;
    fn row_tiles<L: Lanes>() -> usize {
        2
    }
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
        // SAFETY: the caller's promise.
        unsafe {
            let halves: [u16; N_LANES] = std::array::from_fn(|lane| fp8_half(*p.add(lane)));
            L::load_f16(halves.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn scaled<L: Lanes>(w: L::F, scales: L::F) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::mul(w, scales) }
    }
    #[inline(always)]
    unsafe fn dot<L: Lanes>(acc: L::F, w: L::F, x: u32) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::fma(w, L::splat(f32::from_bits(x)), acc) }
    }
}

/// The outputs of some tiles for all rows of x.
pub(super) struct Tiles<'a, F> {
    pub(super) call: &'a Call<'a>,
    pub(super) tiles: Range<usize>,
    pub(super) format: PhantomData<F>,
}

impl<F: Format> Kernel for Tiles<'_, F> {
    const PAIRS: bool = F::PAIRS;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (call, n_in) = (self.call, self.call.w.n_cols());
        let (x, x_stride, n_words) = if F::PAIRS {
            (call.pairs.as_ptr(), bf16::row_words(n_in), n_in.div_ceil(2))
        } else {
            (call.x.as_ptr().cast::<u32>(), n_in, n_in)
        };
        let max_tiles = if call.n_rows == 1 { F::row_tiles::<L>() } else { L::FLOAT_TILES };
        // Weights that meet all rows at once are not needed again.
        let max_words = if call.n_rows <= L::FLOAT_ROWS { n_words } else { BLOCK_WORDS };
        for tile in self.tiles.clone().step_by(max_tiles) {
            let n_tiles = max_tiles.min(self.tiles.end - tile);
            for word in (0..n_words).step_by(max_words) {
                for row in (0..call.n_rows).step_by(L::FLOAT_ROWS) {
                    // SAFETY: tiles, rows and words are inside the matrices, by the promise of `Call::run`.
                    unsafe {
                        let w = call.w.values().as_ptr().add((tile * n_words + word) * F::WORD_BYTES);
                        let x = x.add(row * x_stride + word);
                        let n_words = word..n_words.min(word + max_words);
                        let place = Place { call, w, x, x_stride, words: n_words, tile, row };
                        place.block::<L, F>(n_tiles, L::FLOAT_ROWS.min(call.n_rows - row));
                    }
                }
            }
        }
    }
}

/// Some words of some tiles and rows of x.
struct Place<'a> {
    call: &'a Call<'a>,
    /// The first word of the first tile.
    w: *const u8,
    /// The first word of the first row.
    x: *const u32,
    /// Words from a row of x to the next.
    x_stride: usize,
    words: Range<usize>,
    tile: usize,
    row: usize,
}

impl Place<'_> {
    /// Calls the kernel for a block of outputs.
    #[inline(always)]
    unsafe fn block<L: Lanes, F: Format>(self, n_tiles: usize, n_rows: usize) {
        macro_rules! sizes {
            ($($t:literal $r:literal),*) => {
                // Sizes that the family does not use are not compiled.
                $(if const { ($t <= L::FLOAT_TILES || $r == 1) && $r <= L::FLOAT_ROWS } {
                    if n_tiles == $t && n_rows == $r {
                        // SAFETY: the caller's promise.
                        return unsafe { L::call(Block::<F, $t, $r> { place: self, format: PhantomData }) };
                    }
                })*
            };
        }
        sizes!(1 1, 1 2, 1 3, 1 4, 1 5, 1 6, 2 1, 2 2, 2 3, 2 4, 2 5, 2 6);
        sizes!(3 1, 3 2, 3 3, 3 4, 3 5, 3 6, 4 1, 4 2, 4 3, 4 4, 4 5, 4 6);
        unreachable!("no kernel for {n_tiles} tiles and {n_rows} rows");
    }
}

/// The outputs of T tiles for R rows of x.
struct Block<'a, F, const T: usize, const R: usize> {
    place: Place<'a>,
    format: PhantomData<F>,
}

impl<F: Format, const T: usize, const R: usize> Kernel for Block<'_, F, T, R> {
    const PAIRS: bool = F::PAIRS;

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Place { call, w, x, x_stride, words, tile, row } = self.place;
        let tile_bytes = call.w.tile_bytes();
        // SAFETY: every offset is inside its slice, by the promise of `Place`.
        unsafe {
            let mut acc = [[L::splat(0.0); R]; T];
            if words.start > 0 {
                for (t, acc) in acc.iter_mut().enumerate() {
                    for (r, acc) in acc.iter_mut().enumerate() {
                        *acc = call.load::<L>(tile + t, row + r);
                    }
                }
            }
            let mut scales = [L::splat(0.0); T];
            for i in 0..words.len() {
                if let Some(n_words) = F::SCALED_WORDS
                    && (i == 0 || (words.start + i).is_multiple_of(n_words))
                {
                    let run = (words.start + i) / n_words * N_LANES;
                    for (t, scales) in scales.iter_mut().enumerate() {
                        let of_tile = call.w.scales().as_ptr().add((tile + t) * call.w.tile_scale_bytes());
                        *scales = L::load(of_tile.cast::<f32>().add(run));
                    }
                }
                let mut weights = [F::load::<L>(w); T];
                for (t, weight) in weights.iter_mut().enumerate() {
                    *weight = F::load::<L>(w.add(t * tile_bytes + i * F::WORD_BYTES));
                    *weight = F::scaled::<L>(*weight, scales[t]);
                }
                for r in 0..R {
                    let x = *x.add(r * x_stride + i);
                    for (acc, weight) in acc.iter_mut().zip(weights) {
                        acc[r] = F::dot::<L>(acc[r], weight, x);
                    }
                }
            }
            for (t, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    call.store::<L>(tile + t, row + r, *acc);
                }
            }
        }
    }
}
