//! Matmul of float weights with f32 activations: one accumulator per output, one fused multiply-add per input, in
//! the order of the inputs, in every instruction family.

use std::marker::PhantomData;
use std::ops::Range;

use super::Call;
use crate::lanes::{Kernel, Lanes, N_LANES};

/// Rows of x that the kernel takes together.
const ROWS: usize = 4;
/// Tiles that it takes together: enough accumulators to hide the latency of an addition.
const TILES: usize = 4;
/// Values of x, in rows, that stay in the level-2 cache while a part goes through its tiles.
const CACHED_VALUES: usize = 128 * 1024;

/// A format as the kernel sees it.
pub(super) trait Format {
    /// Bytes of a value.
    const SIZE: usize;
    unsafe fn load<L: Lanes>(p: *const u8) -> L::F;
}

macro_rules! formats {
    ($($name:ident: $size:literal $load:ident),*) => {$(
        pub(super) struct $name;
        impl Format for $name {
            const SIZE: usize = $size;
            #[inline(always)]
            unsafe fn load<L: Lanes>(p: *const u8) -> L::F {
                // SAFETY: the caller's promise.
                unsafe { L::$load(p.cast()) }
            }
        }
    )*};
}
formats!(F32: 4 load, F16: 2 load_f16, BF16: 2 load_bf16);

/// The outputs of some tiles for all rows of x.
pub(super) struct Tiles<'a, F> {
    pub(super) call: &'a Call<'a>,
    pub(super) tiles: Range<usize>,
    pub(super) format: PhantomData<F>,
}

impl<F: Format> Kernel for Tiles<'_, F> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let cached_rows = (CACHED_VALUES / self.call.w.n_cols()).next_multiple_of(ROWS).max(ROWS);
        for start in (0..self.call.n_rows).step_by(cached_rows) {
            let end = self.call.n_rows.min(start + cached_rows);
            let mut tile = self.tiles.start;
            while tile < self.tiles.end {
                let n_tiles = if self.tiles.end - tile >= TILES { TILES } else { 1 };
                for row in (start..end).step_by(ROWS) {
                    // SAFETY: tiles and rows are inside the matrices, by the promise of `Call::run`.
                    unsafe { block::<L, F>(self.call, tile, n_tiles, row, ROWS.min(end - row)) };
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
        ($($t:tt $r:literal),*) => {
            match (n_tiles, n_rows) {
                // SAFETY: the caller's promise.
                $(($t, $r) => unsafe { L::call(Block::<F, $t, $r> { call, tile, row, format: PhantomData }) },)*
                _ => unreachable!("no kernel for {n_tiles} tiles and {n_rows} rows"),
            }
        };
    }
    sizes!(1 1, 1 2, 1 3, 1 4, TILES 1, TILES 2, TILES 3, TILES 4);
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
        let (n_in, tile_bytes) = (self.call.w.n_cols(), self.call.w.tile_bytes());
        // SAFETY: every offset is inside its slice: tiles, inputs and rows are in range, by `Call::run`.
        unsafe {
            let w = self.call.w.values().as_ptr().add(self.tile * tile_bytes);
            let x = self.call.x.as_ptr().add(self.row * n_in);
            let mut acc = [[L::splat(0.0); R]; T];
            for i in 0..n_in {
                let mut inputs = [L::splat(0.0); R];
                for (r, input) in inputs.iter_mut().enumerate() {
                    *input = L::splat(*x.add(r * n_in + i));
                }
                for (t, acc) in acc.iter_mut().enumerate() {
                    let w = F::load::<L>(w.add(t * tile_bytes + i * N_LANES * F::SIZE));
                    for (acc, x) in acc.iter_mut().zip(inputs) {
                        *acc = L::fma(w, x, *acc);
                    }
                }
            }
            for (t, acc) in acc.iter().enumerate() {
                for (r, acc) in acc.iter().enumerate() {
                    self.call.store::<L>(self.tile + t, self.row + r, *acc);
                }
            }
        }
    }
}
