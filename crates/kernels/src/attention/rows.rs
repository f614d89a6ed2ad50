//! Attention of a tile of queries that share a KV head. Queries that see the same 16 keys are computed together, so
//! that keys and values are read and widened once for all of them.

use std::ops::Range;

use base::SeqSlice;

use super::KvCache;
use crate::activation::exp;
use crate::lanes::{self, Lanes, N_LANES};

/// Queries of a tile.
pub(super) const MAX_TILE_ROWS: usize = 32;

/// Queries of one sequence and KV head.
pub(super) struct Tile<'a> {
    /// [n_rows, n_heads, head_dim]
    pub(super) q: &'a [f32],
    pub(super) cache: &'a KvCache,
    pub(super) seq: &'a SeqSlice,
    /// The sequence's first row in the batch.
    pub(super) row: usize,
    pub(super) kv_head: usize,
    /// Query heads of the KV head.
    pub(super) group: usize,
    /// Query i is row i / group of the sequence, head i % group of the group.
    pub(super) rows: Range<usize>,
    pub(super) scale: f32,
    pub(super) window: Option<u32>,
    /// As `q`.
    pub(super) out: *mut f32,
}

/// Computes a tile. Unsafe to run: shapes fit, `out` is valid and nobody else writes the tile's outputs.
pub(super) struct Kernel<'a> {
    pub(super) tile: &'a Tile<'a>,
    /// `scratch_len` values of any contents.
    pub(super) scratch: &'a mut [f32],
}

/// Values that a tile needs besides its inputs and outputs.
pub(super) fn scratch_len(cache: &KvCache) -> usize {
    MAX_TILE_ROWS * (cache.padded_dim() + cache.head_dim)
}

/// A query's softmax so far.
#[derive(Clone, Copy)]
pub(super) struct State {
    largest: f32,
    pub(super) total: f32,
}

impl State {
    /// Of no keys.
    pub(super) const EMPTY: State = State { largest: f32::NEG_INFINITY, total: 0.0 };
}

impl lanes::Kernel for Kernel<'_> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (tile, dim) = (self.tile, self.tile.cache.padded_dim());
        let n = tile.rows.len();
        let (sums, q) = self.scratch.split_at_mut(MAX_TILE_ROWS * dim);
        sums.fill(0.0);
        tile.transpose(q);
        let mut states = [State::EMPTY; MAX_TILE_ROWS];
        let first = tile.visible(tile.rows.start).start / N_LANES;
        let last = tile.visible(tile.rows.end - 1).end.div_ceil(N_LANES);
        for keys in (first..last).map(|g| g * N_LANES) {
            let mut i = 0;
            while i < n {
                let seen = tile.seen(i, keys);
                let same = (i..n.min(i + L::QUERIES)).take_while(|j| tile.seen(*j, keys) == seen).count();
                if !seen.is_empty() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        run::<L>(tile, &q[i..], same, keys, seen, &mut states[i..], &mut sums[i * dim..])
                    };
                }
                i += same;
            }
        }
        for (i, (state, sums)) in states.iter().zip(sums.chunks_exact(dim)).take(n).enumerate() {
            let inverse = 1.0 / state.total;
            for (d, sum) in sums[..tile.cache.head_dim].iter().enumerate() {
                // SAFETY: the caller's promise.
                unsafe { *tile.out.add(tile.offset(i) + d) = sum * inverse };
            }
        }
    }
}

impl Tile<'_> {
    /// Positions that a query sees; i counts as in `rows`.
    #[inline(always)]
    fn visible(&self, i: usize) -> Range<usize> {
        let end = self.seq.context_len as usize - self.seq.n_rows as usize + i / self.group + 1;
        end.saturating_sub(self.window.map_or(end, |w| w.max(1) as usize))..end
    }

    /// Those of the 16 keys from `keys` on that the tile's i-th query sees, counted from `keys`.
    #[inline(always)]
    fn seen(&self, i: usize, keys: usize) -> Range<usize> {
        let visible = self.visible(self.rows.start + i);
        visible.start.saturating_sub(keys)..visible.end.saturating_sub(keys).min(N_LANES)
    }

    /// q [head_dim, MAX_TILE_ROWS] = the tile's queries, so that the kernel reads one place for all of a run.
    #[inline(always)]
    fn transpose(&self, q: &mut [f32]) {
        for i in 0..self.rows.len() {
            let query = &self.q[self.offset(i)..][..self.cache.head_dim];
            for (v, to) in query.iter().zip(q[i..].iter_mut().step_by(MAX_TILE_ROWS)) {
                *to = *v;
            }
        }
    }

    /// Where the tile's i-th query lies in `q` and `out`.
    #[inline(always)]
    fn offset(&self, i: usize) -> usize {
        let (row, head) = ((self.rows.start + i) / self.group, (self.rows.start + i) % self.group);
        let n_heads = self.cache.n_kv_heads * self.group;
        ((self.row + row) * n_heads + self.kv_head * self.group + head) * self.cache.head_dim
    }
}

/// Calls the kernel for a run of queries.
#[inline(always)]
unsafe fn run<L: Lanes>(
    tile: &Tile,
    q: &[f32],
    n: usize,
    keys: usize,
    seen: Range<usize>,
    states: &mut [State],
    sums: &mut [f32],
) {
    macro_rules! sizes {
        ($($r:literal),*) => {
            // Sizes that the family does not use are not compiled.
            $(if const { $r <= L::QUERIES } {
                if n == $r {
                    // SAFETY: the caller's promise.
                    return unsafe { L::call(Run::<$r> { tile, q, keys, seen, states, sums }) };
                }
            })*
        };
    }
    sizes!(1, 2, 3, 4, 5, 6, 7, 8);
    unreachable!("no kernel for {n} queries");
}

/// R queries of a tile and 16 keys of which they see the same ones.
struct Run<'a, const R: usize> {
    tile: &'a Tile<'a>,
    /// [head_dim, MAX_TILE_ROWS], from the first of these queries on.
    q: &'a [f32],
    keys: usize,
    seen: Range<usize>,
    /// From the first of these queries on, as `sums`.
    states: &'a mut [State],
    /// [.., padded_dim]
    sums: &'a mut [f32],
}

impl<const R: usize> lanes::Kernel for Run<'_, R> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let (tile, cache) = (self.tile, self.tile.cache);
        let block = tile.seq.blocks[self.keys / cache.block_len].0 as usize;
        let offset = self.keys % cache.block_len;
        let (keys, values) = cache.head(block, tile.kv_head);
        // SAFETY: `head` gave head_dim × block_len keys and block_len × padded_dim values; the rest is the caller's.
        unsafe {
            let mut weights = self.scores::<L>(keys.as_ptr().add(offset));
            let mut factors = [0.0; R];
            for ((factor, weights), state) in factors.iter_mut().zip(&mut weights).zip(self.states) {
                *factor = soften(weights, &self.seen, state);
            }
            let dim = cache.padded_dim();
            let values = values.as_ptr().add(offset * dim);
            for d in (0..dim).step_by(N_LANES) {
                let mut sums = [L::splat(0.0); R];
                for (r, sum) in sums.iter_mut().enumerate() {
                    *sum = L::mul(L::load(self.sums.as_ptr().add(r * dim + d)), L::splat(factors[r]));
                }
                for key in self.seen.clone() {
                    let value = L::load_f16(values.add(key * dim + d));
                    for (sum, weights) in sums.iter_mut().zip(&weights) {
                        *sum = L::fma(L::splat(weights[key]), value, *sum);
                    }
                }
                for (r, sum) in sums.iter().enumerate() {
                    L::store(self.sums.as_mut_ptr().add(r * dim + d), *sum);
                }
            }
        }
    }
}

impl<const R: usize> Run<'_, R> {
    /// scale · q · key for 16 keys, seen or not; lanes are keys.
    #[inline(always)]
    unsafe fn scores<L: Lanes>(&self, keys: *const u16) -> [[f32; N_LANES]; R] {
        let cache = self.tile.cache;
        let mut scores = [[0.0; N_LANES]; R];
        // SAFETY: the caller's keys are head_dim × block_len, and so many queries lie in `q`.
        unsafe {
            let q = self.q.as_ptr();
            let mut dots = [L::splat(0.0); R];
            for d in 0..cache.head_dim {
                let key = L::load_f16(keys.add(d * cache.block_len));
                for (r, dot) in dots.iter_mut().enumerate() {
                    *dot = L::fma(key, L::splat(*q.add(d * MAX_TILE_ROWS + r)), *dot);
                }
            }
            let scale = L::splat(self.tile.scale);
            for (scores, dot) in scores.iter_mut().zip(dots) {
                L::store(scores.as_mut_ptr(), L::mul(dot, scale));
            }
        }
        scores
    }
}

/// Turns scores into weights relative to the largest score so far; returns the factor for earlier sums.
#[inline(always)]
pub(super) fn soften(scores: &mut [f32; N_LANES], seen: &Range<usize>, state: &mut State) -> f32 {
    let mut masked = [f32::NEG_INFINITY; N_LANES];
    for (i, (m, s)) in masked.iter_mut().zip(scores.iter()).enumerate() {
        *m = if i >= seen.start && i < seen.end { *s } else { *m };
    }
    let largest = fold(masked, |a, b| if b > a { b } else { a }).max(state.largest);
    for (i, (s, m)) in scores.iter_mut().zip(masked).enumerate() {
        let weight = exp(m - largest);
        *s = if i >= seen.start && i < seen.end { weight } else { 0.0 };
    }
    let factor = exp(state.largest - largest);
    state.total = state.total * factor + fold(*scores, |a, b| a + b);
    state.largest = largest;
    factor
}

/// Combines 16 values, halves with halves.
#[inline(always)]
fn fold(mut x: [f32; N_LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = N_LANES / 2;
    while width > 0 {
        for i in 0..width {
            x[i] = combine(x[i], x[i + width]);
        }
        width /= 2;
    }
    x[0]
}
