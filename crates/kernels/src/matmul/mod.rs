//! out [n_rows, n_out] = x [n_rows, n_in] · w [n_out, n_in]ᵀ, for several w that share x. A row's result is the same
//! bits whatever the other rows, the number of threads and the instructions are. Knows packed weights only.

mod bf16;
mod float;
mod quantised;

use std::marker::PhantomData;
use std::ops::Range;

use crate::pack::{Format, PackedMatrix};
use crate::pool::{Scratch, Shared};
use crate::quantize::{GROUP_LEN, Group, quantize};
use crate::{Isa, Pool};

/// Weights of one call.
const MAX_WEIGHTS: usize = 8;

/// outs[i] [n_rows, ws[i].n_rows()] = x [n_rows, n_in] · ws[i]ᵀ, with n_in = ws[i].n_cols() for every i.
/// For weights with codes, x is rounded to 8 bits per value with a scale for every 32; for bf16 weights, to bf16.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn matmul(pool: &Pool, isa: Isa, x: &[f32], ws: &[&PackedMatrix], outs: &mut [&mut [f32]]) {
    isa.check();
    let Some(n_in) = ws.first().map(|w| w.n_cols()) else {
        return;
    };
    let n_rows = x.len().checked_div(n_in).unwrap_or(0);
    check_shapes(x, n_rows, n_in, ws, outs);
    if n_rows == 0 {
        return outs.iter_mut().for_each(|out| out.fill(0.0));
    }
    let mut scratch = pool.scratch.borrow_mut();
    let quantised = ws.iter().any(|w| matches!(w.format(), Format::Coded(_)));
    let n_groups = if quantised { n_in / GROUP_LEN } else { 0 };
    let Scratch { activations, pairs, .. } = &mut *scratch;
    let groups = activations.resize(n_rows * n_groups);
    if quantised {
        quantize_rows(pool, isa, x, n_rows, groups);
    }
    if ws.iter().any(|w| matches!(w.format(), Format::BF16)) {
        bf16::round_rows(pool, isa, x, n_in, pairs);
    }
    let mut places = [Shared(std::ptr::null_mut()); MAX_WEIGHTS];
    for (place, out) in places.iter_mut().zip(outs) {
        *place = Shared::new(out);
    }
    let (groups, pairs) = (&*groups, &pairs[..]);
    pool.run(|part, n_parts| {
        for (i, tiles) in share(ws, part, n_parts) {
            let call = Call { isa, w: ws[i], x, pairs, groups, n_rows, out: places[i].0 };
            // SAFETY: shapes were checked above, and no other part has these tiles.
            unsafe { call.run(tiles) };
        }
    });
}

/// One part's work on one weight.
struct Call<'a> {
    isa: Isa,
    w: &'a PackedMatrix,
    /// [n_rows, n_in]
    x: &'a [f32],
    /// [n_rows, bf16::row_words(n_in)], if a weight is bf16
    pairs: &'a [u32],
    /// [n_rows, n_in / 32]
    groups: &'a [Group],
    n_rows: usize,
    /// [n_rows, w.n_rows()]
    out: *mut f32,
}

impl Call<'_> {
    /// Computes the outputs of some tiles.
    ///
    /// # Safety
    /// Shapes fit, `out` is valid, and nobody else uses these outputs.
    unsafe fn run(&self, tiles: Range<usize>) {
        macro_rules! floats {
            ($format:ident) => {
                // SAFETY: the caller's promise.
                unsafe {
                    let format = PhantomData::<float::$format>;
                    self.isa.call(float::Tiles { call: self, tiles, format })
                }
            };
        }
        match self.w.format() {
            Format::F32 => floats!(F32),
            Format::F16 => floats!(F16),
            Format::BF16 => floats!(BF16),
            Format::Fp8 => floats!(Fp8),
            // SAFETY: the caller's promise.
            Format::Coded(coding) => unsafe { quantised::run(self, coding, tiles) },
        }
    }
}

fn check_shapes(x: &[f32], n_rows: usize, n_in: usize, ws: &[&PackedMatrix], outs: &[&mut [f32]]) {
    assert_eq!(x.len(), n_rows * n_in, "values of x in rows of {n_in}");
    assert_eq!(ws.len(), outs.len(), "one output per weight");
    assert!(ws.len() <= MAX_WEIGHTS, "{} weights: expected at most {MAX_WEIGHTS}", ws.len());
    for (w, out) in ws.iter().zip(outs) {
        assert_eq!(w.n_cols(), n_in, "inputs of a weight");
        // A weight without inputs gives zeros, for any number of rows.
        assert!(n_in == 0 || out.len() == n_rows * w.n_rows(), "{} outputs of {n_rows} rows", out.len());
    }
}

/// groups [n_rows, n_in / 32] = x [n_rows, n_in], rows shared out over the pool where there are several.
fn quantize_rows(pool: &Pool, isa: Isa, x: &[f32], n_rows: usize, groups: &mut [Group]) {
    if n_rows < pool.n_threads() {
        return quantize(isa, x, groups);
    }
    let n_groups = groups.len() / n_rows;
    let shared = Shared::new(groups);
    pool.run(|part, n_parts| {
        let (start, end) = (n_rows * part / n_parts * n_groups, n_rows * (part + 1) / n_parts * n_groups);
        // SAFETY: ranges of different parts do not overlap and lie inside the slice.
        let groups = unsafe { shared.slice(start, end - start) };
        quantize(isa, &x[start * GROUP_LEN..end * GROUP_LEN], groups);
    });
}

/// A part's tiles of every weight: the weights' bytes, laid end to end, are cut into equal parts.
fn share(ws: &[&PackedMatrix], part: usize, n_parts: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let tile_bytes = |w: &PackedMatrix| w.tile_bytes() + w.tile_scale_bytes();
    let total: usize = ws.iter().map(|w| w.n_tiles() * tile_bytes(w)).sum();
    let (start, end) = (total * part / n_parts, total * (part + 1) / n_parts);
    let mut offset = 0;
    ws.iter().enumerate().map(move |(i, w)| {
        let (n_tiles, bytes) = (w.n_tiles(), tile_bytes(w));
        // The first tile that begins at or behind a place.
        let tile_at = |place: usize| place.saturating_sub(offset).div_ceil(bytes).min(n_tiles);
        let tiles = tile_at(start)..tile_at(end);
        offset += n_tiles * bytes;
        (i, tiles)
    })
}
