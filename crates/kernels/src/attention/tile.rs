//! Attention of a tile of queries to the keys of a run: online softmax over spans of 64 keys, each a fixed sequence of
//! roundings whatever other queries are in the tile. Knows no caches and no threads.

use std::array::from_fn;
use std::ops::Range;

use base::SeqSlice;

use super::found::Found;
use crate::activation::exp;
use crate::lanes::{self, Lanes, N_LANES};

/// Keys of one step of the online softmax. Spans begin at multiples of this.
pub(super) const SPAN: usize = 64;
/// Keys that lie side by side: one vector of scores.
pub(super) const PIECE: usize = N_LANES;
pub(super) const N_PIECES: usize = SPAN / PIECE;
/// Queries that the kernel takes together.
const QUERIES: usize = 6;
/// Most queries of a tile.
pub(super) const MAX_TILE: usize = 48;

/// Queries of one sequence: the same rows for each of some KV heads.
pub(super) struct Tile<'a> {
    pub(super) seq: &'a SeqSlice,
    /// The sequence's first row in the batch.
    pub(super) first_row: usize,
    pub(super) kv_heads: Range<usize>,
    /// Query heads of a KV head.
    pub(super) group: usize,
    /// For each KV head; query i is row i / group of the sequence, head i % group of the group.
    pub(super) queries: Range<usize>,
    pub(super) window: Option<u32>,
}

impl Tile<'_> {
    /// Queries for all KV heads.
    pub(super) fn n_queries(&self) -> usize {
        self.kv_heads.len() * self.queries.len()
    }

    /// Positions that some query sees.
    pub(super) fn keys(&self) -> Range<usize> {
        self.visible(self.queries.start).start..self.visible(self.queries.end - 1).end
    }

    /// Row in the batch and head of the tile's i-th query, counted KV head after KV head.
    #[inline(always)]
    pub(super) fn place(&self, i: usize) -> (usize, usize) {
        let kv_head = self.kv_heads.start + i / self.queries.len();
        let query = self.queries.start + i % self.queries.len();
        (self.first_row + query / self.group, kv_head * self.group + query % self.group)
    }

    /// Positions that a query sees; it counts as in `queries`.
    #[inline(always)]
    fn visible(&self, query: usize) -> Range<usize> {
        let end = (self.seq.context_len - self.seq.n_rows) as usize + query / self.group + 1;
        end.saturating_sub(self.window.map_or(end, |w| w.max(1) as usize))..end
    }
}

/// Where a tile's queries come from, and the keys and values they see.
pub(super) trait Source: Sync {
    /// What keys and values are read as.
    type Element: Element;

    /// Floats of a query and of a key.
    fn key_dim(&self) -> usize;
    /// Floats of a value and of an output.
    fn value_dim(&self) -> usize;
    /// Floats of scratch memory that a tile needs.
    fn scratch_len(&self) -> usize;
    /// Puts into the scratch what all spans need.
    fn prepare(&self, tile: &Tile<'_>, scratch: &mut [f32]);
    /// The tile's i-th query, `key_dim` floats.
    fn query<'a>(&'a self, tile: &Tile<'_>, i: usize, scratch: &'a [f32]) -> &'a [f32];
    /// A KV head's span that begins at position `first`, as far as it lies in `keys`: its pointers are valid for the
    /// pieces that overlap with these.
    fn span(
        &self,
        tile: &Tile<'_>,
        kv_head: usize,
        first: usize,
        keys: &Range<usize>,
        scratch: &mut [f32],
    ) -> Span<Self::Element>;
    /// Where the output of the tile's i-th query begins.
    fn output(&self, tile: &Tile<'_>, i: usize) -> usize;
}

/// Keys and values of a span.
pub(super) struct Span<E> {
    pub(super) pieces: [Piece<E>; N_PIECES],
    /// What is needed some time later, to be fetched meanwhile; any pointers.
    pub(super) ahead: [Piece<E>; N_PIECES],
    /// Elements from one row of a piece's keys to the next.
    pub(super) key_step: usize,
}

/// 16 keys and their values.
#[derive(Clone, Copy)]
pub(super) struct Piece<E> {
    /// [key_dim, PIECE], rows at the span's step.
    pub(super) keys: *const E,
    /// [PIECE, value_dim rounded up to 16]
    pub(super) values: *const E,
}

/// What keys and values are stored as.
pub(super) trait Element: Copy {
    unsafe fn load<L: Lanes>(p: *const Self) -> L::F;
}

/// Bits of half floats.
impl Element for u16 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const u16) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::load_f16(p) }
    }
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<L: Lanes>(p: *const f32) -> L::F {
        // SAFETY: the caller's promise.
        unsafe { L::load(p) }
    }
}

/// What the tile's queries find in some keys of one run.
///
/// # Safety
/// The source keeps its promises, and the family's instructions are there.
#[inline(always)]
pub(super) unsafe fn attend<L: Lanes, S: Source>(
    source: &S,
    tile: &Tile<'_>,
    keys: Range<usize>,
    scale: f32,
    found: &mut Found<'_>,
    scratch: &mut [f32],
) {
    found.clear();
    let n = tile.queries.len();
    let n_together = n.div_ceil(n.div_ceil(QUERIES));
    let mut visible = [const { 0..0 }; MAX_TILE];
    for (visible, query) in visible.iter_mut().zip(tile.queries.clone()) {
        *visible = tile.visible(query);
    }
    for first in (keys.start / SPAN * SPAN..keys.end).step_by(SPAN) {
        // All heads of a span, as these lie side by side in memory.
        for (nth, kv_head) in tile.kv_heads.clone().enumerate() {
            let span = source.span(tile, kv_head, first, &keys, scratch);
            for (g, visible) in visible[..n].chunks(n_together).enumerate() {
                // Later queries see later keys.
                let seen = within(&(visible[0].start..visible[visible.len() - 1].end), first);
                if !seen.is_empty() {
                    let i = nth * n + g * n_together;
                    let step = Step { i, first, span: &span, seen, fetch: g == 0, scale };
                    // SAFETY: the caller's promise.
                    unsafe { run::<L, S>(source, tile, visible, step, found, scratch) };
                }
            }
        }
    }
}

/// Calls the kernel for queries that see some of a span.
#[inline(always)]
unsafe fn run<L: Lanes, S: Source>(
    source: &S,
    tile: &Tile<'_>,
    visible: &[Range<usize>],
    step: Step<'_, S::Element>,
    found: &mut Found<'_>,
    scratch: &[f32],
) {
    macro_rules! sizes {
        ($($r:literal),*) => {
            $(if let Some(visible) = visible.as_array() {
                let q = from_fn(|r| source.query(tile, step.i + r, scratch).as_ptr());
                let rows = Rows::<_, $r> { q, key_dim: source.key_dim(), visible, step, found };
                // SAFETY: the caller's promise.
                return unsafe { L::call(rows) };
            })*
        };
    }
    sizes!(1, 2, 3, 4, 5, 6);
    unreachable!("no kernel for {} queries", visible.len());
}

/// A step of the online softmax of some queries.
struct Step<'a, E> {
    /// The first of the queries.
    i: usize,
    /// The span's first position.
    first: usize,
    span: &'a Span<E>,
    /// Those of the span's keys that one of the queries sees.
    seen: Range<usize>,
    /// Whether to fetch what lies ahead.
    fetch: bool,
    scale: f32,
}

/// R queries of a KV head and a span.
struct Rows<'a, 'f, E, const R: usize> {
    q: [*const f32; R],
    key_dim: usize,
    /// Positions that they see.
    visible: &'a [Range<usize>; R],
    step: Step<'a, E>,
    found: &'a mut Found<'f>,
}

impl<E: Element, const R: usize> lanes::Kernel for Rows<'_, '_, E, R> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(mut self) {
        let mut weights = [[0.0; SPAN]; R];
        // SAFETY: the caller's promise.
        unsafe {
            let (mut piece, end) = (self.step.seen.start / PIECE, self.step.seen.end.div_ceil(PIECE));
            while piece < end {
                piece += match end - piece {
                    4.. if const { 4 * R <= L::SUMS } => self.score::<L, 4>(piece, &mut weights),
                    2.. if const { 2 * R <= L::SUMS } => self.score::<L, 2>(piece, &mut weights),
                    _ => self.score::<L, 1>(piece, &mut weights),
                };
            }
            let factors = self.soften::<L>(&mut weights);
            let dim = self.found.value_dim();
            let mut d = 0;
            while d < dim {
                d += match (dim - d) / N_LANES {
                    4.. if const { 4 * R <= L::SUMS } => self.weigh::<L, 4>(d, &weights, &factors),
                    2.. if const { 2 * R <= L::SUMS } => self.weigh::<L, 2>(d, &weights, &factors),
                    _ => self.weigh::<L, 1>(d, &weights, &factors),
                };
            }
        }
    }
}

impl<E: Element, const R: usize> Rows<'_, '_, E, R> {
    /// scale · q · key for the keys of C pieces, seen or not; lanes are keys. Returns C.
    #[inline(always)]
    unsafe fn score<L: Lanes, const C: usize>(&self, piece: usize, scores: &mut [[f32; SPAN]; R]) -> usize {
        let Span { pieces, ahead, key_step } = self.step.span;
        // SAFETY: the caller's pieces have so many keys.
        unsafe {
            let mut dots = [[L::splat(0.0); C]; R];
            let keys = Columns {
                at: from_fn(|c| pieces[piece + c].keys),
                ahead: from_fn(|c| ahead[piece + c].keys),
                row_step: *key_step,
                column_step: 0,
            };
            multiply::<L, E, R, C>(&mut dots, self.q, &keys, self.key_dim, self.step.fetch);
            let scale = L::splat(self.step.scale);
            for (dots, scores) in dots.iter().zip(scores) {
                for (c, dot) in dots.iter().enumerate() {
                    L::store(scores.as_mut_ptr().add((piece + c) * PIECE), L::mul(*dot, scale));
                }
            }
        }
        C
    }

    /// Turns scores into weights relative to the largest score so far and adds them to the totals; returns the
    /// factors for earlier sums.
    #[inline(always)]
    unsafe fn soften<L: Lanes>(&mut self, scores: &mut [[f32; SPAN]; R]) -> [f32; R] {
        let (mut old, mut new, mut factors) = ([0.0; R], [0.0; R], [0.0; R]);
        for r in 0..R {
            hide(&mut scores[r], self.seen_by(r), f32::NEG_INFINITY);
            old[r] = *self.found.largest(self.step.i + r);
            // SAFETY: the family's instructions are there.
            new[r] = old[r].max(unsafe { largest::<L>(&scores[r]) });
            *self.found.largest(self.step.i + r) = new[r];
        }
        for r in 0..R {
            factors[r] = exp(old[r] - new[r]);
        }
        for r in 0..R {
            for score in &mut scores[r] {
                *score = exp(*score - new[r]);
            }
            hide(&mut scores[r], self.seen_by(r), 0.0);
            let totals = self.found.totals(self.step.i + r);
            for (lane, total) in totals.iter_mut().enumerate() {
                let sum = (1..N_PIECES).fold(scores[r][lane], |sum, p| sum + scores[r][p * PIECE + lane]);
                *total = total.mul_add(factors[r], sum);
            }
        }
        factors
    }

    /// Those of the span's keys that the r-th query sees.
    #[inline(always)]
    fn seen_by(&self, r: usize) -> Range<usize> {
        within(&self.visible[r], self.step.first)
    }

    /// sums = factor · sums + weights · values in columns d.. of C vectors; lanes are columns. Returns their number.
    #[inline(always)]
    unsafe fn weigh<L: Lanes, const C: usize>(
        &mut self,
        d: usize,
        weights: &[[f32; SPAN]; R],
        factors: &[f32; R],
    ) -> usize {
        let Step { i, span, ref seen, fetch, .. } = self.step;
        let dim = self.found.value_dim();
        let at: [*mut f32; R] = from_fn(|r| self.found.values(i + r)[d..][..C * N_LANES].as_mut_ptr());
        // SAFETY: `at` has C vectors each, and the caller's pieces so many values.
        unsafe {
            let mut sums = [[L::splat(0.0); C]; R];
            for r in 0..R {
                let factor = L::splat(factors[r]);
                for (c, sum) in sums[r].iter_mut().enumerate() {
                    *sum = L::mul(L::load(at[r].add(c * N_LANES)), factor);
                }
            }
            for piece in seen.start / PIECE..seen.end.div_ceil(PIECE) {
                let keys = seen.start.max(piece * PIECE)..seen.end.min((piece + 1) * PIECE);
                let offset = keys.start % PIECE * dim + d;
                let column = |values: *const E, c| values.wrapping_add(offset + c * N_LANES);
                let values = Columns {
                    at: from_fn(|c| column(span.pieces[piece].values, c)),
                    ahead: from_fn(|c| column(span.ahead[piece].values, c)),
                    row_step: dim,
                    column_step: N_LANES,
                };
                let weights = from_fn(|r| weights[r].as_ptr().add(keys.start));
                multiply::<L, E, R, C>(&mut sums, weights, &values, keys.len(), fetch);
            }
            for (at, sums) in at.iter().zip(&sums) {
                for (c, sum) in sums.iter().enumerate() {
                    L::store(at.add(c * N_LANES), *sum);
                }
            }
        }
        C * N_LANES
    }
}

/// Rows of C vectors, and of what lies ahead.
struct Columns<E, const C: usize> {
    at: [*const E; C],
    ahead: [*const E; C],
    /// Elements from row to row.
    row_step: usize,
    /// Elements from column to column, 0 if each is a place of its own.
    column_step: usize,
}

/// sums [R, C vectors] += a [R, n] · b [n, C vectors]
#[inline(always)]
unsafe fn multiply<L: Lanes, E: Element, const R: usize, const C: usize>(
    sums: &mut [[L::F; C]; R],
    a: [*const f32; R],
    b: &Columns<E, C>,
    n: usize,
    fetch: bool,
) {
    let line = LINE_BYTES / size_of::<E>();
    for k in 0..n {
        // SAFETY: the family's instructions are there.
        let mut row = [unsafe { L::splat(0.0) }; C];
        for (c, row) in row.iter_mut().enumerate() {
            if fetch && (k * b.row_step + c * b.column_step).is_multiple_of(line) {
                // SAFETY: the family's instructions are there.
                unsafe { L::prefetch(b.ahead[c].wrapping_add(k * b.row_step).cast()) };
            }
            // SAFETY: the caller's pointers cover n rows.
            *row = unsafe { E::load::<L>(b.at[c].add(k * b.row_step)) };
        }
        for (sums, a) in sums.iter_mut().zip(&a) {
            // SAFETY: as above.
            let a = unsafe { L::splat(*a.add(k)) };
            for (sum, b) in sums.iter_mut().zip(&row) {
                // SAFETY: the family's instructions are there.
                *sum = unsafe { L::fma(a, *b, *sum) };
            }
        }
    }
}

/// Bytes of a memory line.
pub(super) const LINE_BYTES: usize = 64;

/// Those of some positions that lie in the span from `first` on, counted from there.
#[inline(always)]
fn within(positions: &Range<usize>, first: usize) -> Range<usize> {
    positions.start.saturating_sub(first).min(SPAN)..positions.end.saturating_sub(first).min(SPAN)
}

/// Overwrites what a query does not see.
#[inline(always)]
fn hide(scores: &mut [f32; SPAN], seen: Range<usize>, value: f32) {
    if seen != (0..SPAN) {
        let (start, end) = (seen.start as i32, seen.end as i32);
        for (i, score) in (0i32..).zip(scores) {
            *score = if i >= start && i < end { *score } else { value };
        }
    }
}

#[inline(always)]
unsafe fn largest<L: Lanes>(scores: &[f32; SPAN]) -> f32 {
    // SAFETY: the family's instructions are there.
    unsafe {
        let mut lanes = L::load(scores.as_ptr());
        for piece in 1..N_PIECES {
            lanes = L::max(lanes, L::load(scores.as_ptr().add(piece * PIECE)));
        }
        L::largest(lanes)
    }
}
