//! How the threads share out a batch's attention: queries, KV heads and, where these are few, runs of keys. Every run
//! of 256 keys has a softmax of its own, and the runs are merged in their order by whichever thread ends last: so it
//! does not matter who computes what. Knows no caches.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use base::SeqSlice;

use super::found::Found;
use super::tile::{LINE_BYTES, MAX_TILE, SPAN, Source, Tile, attend};
use crate::lanes::{Kernel, Lanes, N_LANES};
use crate::pool::Shared;
use crate::{Isa, Pool};

/// Keys of a run. Runs begin at multiples of this.
const RUN: usize = 4 * SPAN;
/// Items for each thread, so that the last ones end at about the same time.
const ITEMS_PER_THREAD: usize = 8;
/// Work of an item that takes only some microseconds: smaller ones would not pay.
const SMALL_WORK: usize = 16;

/// Attention of all rows of a batch. Work is counted in queries times runs.
pub(super) struct Batch<'a, S> {
    pub(super) source: &'a S,
    pub(super) seqs: &'a [SeqSlice],
    pub(super) n_kv_heads: usize,
    /// Query heads of a KV head.
    pub(super) group: usize,
    pub(super) window: Option<u32>,
    pub(super) scale: f32,
}

impl<S: Source> Batch<'_, S> {
    /// Computes it; `out` is where the source says that outputs lie, all of them below its length.
    pub(super) fn run(&self, pool: &Pool, isa: Isa, out: &mut [f32]) {
        let most_work = self.most_work(pool.n_threads());
        let end = self.bands(most_work).last().map(|band| (band.counters.end, band.found.end));
        let (n_counters, found_len) = end.unwrap_or_default();
        let own_len = 2 * self.found_len(MAX_TILE) + self.source.scratch_len();

        let mut scratch = pool.scratch.borrow_mut();
        let all_found = n_counters.next_multiple_of(N_LANES);
        let (len, start) = (all_found + found_len, N_LANES);
        let needed = start + len + own_len * pool.n_threads();
        if scratch.attention.len() < needed {
            scratch.attention.resize(needed, 0.0);
        }
        let start = scratch.attention.as_ptr().align_offset(LINE_BYTES).min(start);
        let memory = &mut scratch.attention[start..];
        // Zero as numbers, and as the integers that they are used as.
        memory[..n_counters].fill(0.0);
        let (memory, out) = (Shared(memory.as_mut_ptr()), Shared(out.as_mut_ptr()));
        let next = AtomicUsize::new(0);
        pool.run(|part, _| {
            let (memory, out) = (&memory, &out);
            // SAFETY: each part has its own range of the scratch memory.
            let own = unsafe { memory.slice(len + part * own_len, own_len) };
            let mut mine = next.fetch_add(1, Ordering::Relaxed);
            for band in self.bands(most_work) {
                while mine < band.items.end {
                    let index = mine - band.items.start;
                    // SAFETY: memory begins with all bands' counters, then comes what they find; only this part has
                    // this item.
                    unsafe {
                        let counters = memory.0.add(band.counters.start);
                        let found = memory.0.add(all_found + band.found.start);
                        isa.call(Item { batch: self, band: &band, index, counters, found, own, out: out.0 });
                    }
                    mine = next.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }

    /// Work that an item should not exceed.
    fn most_work(&self, n_threads: usize) -> usize {
        if n_threads == 1 {
            return usize::MAX;
        }
        let work: usize = self.tiles().map(|tile| tile.n_queries() * runs(&tile).len()).sum();
        let of_thread = work.div_ceil(n_threads);
        of_thread.div_ceil(ITEMS_PER_THREAD).max(of_thread.min(SMALL_WORK))
    }

    /// Floats for what n queries find.
    fn found_len(&self, n: usize) -> usize {
        Found::len(self.source.value_dim(), n)
    }

    /// The batch's queries, of all KV heads; those of a sequence with the most keys first, as they take longest.
    fn tiles(&self) -> impl Iterator<Item = Tile<'_>> {
        let mut end = 0;
        self.seqs.iter().flat_map(move |seq| {
            let (first_row, n) = (end, seq.n_rows as usize * self.group);
            end += seq.n_rows as usize;
            (0..n.div_ceil(MAX_TILE)).rev().map(move |i| {
                let queries = i * MAX_TILE..n.min((i + 1) * MAX_TILE);
                let (group, window) = (self.group, self.window);
                Tile { seq, first_row, kv_heads: 0..self.n_kv_heads, group, queries, window }
            })
        })
    }

    /// The same, cut into items: by KV heads as little as possible, since these lie side by side in memory.
    fn bands(&self, most_work: usize) -> impl Iterator<Item = Band<'_>> {
        let (mut n_items, mut n_counters, mut n_found) = (0, 0, 0);
        self.tiles().map(move |tile| {
            let (n, runs) = (tile.queries.len(), runs(&tile));
            let tile_heads = (most_work.min(MAX_TILE) / n).clamp(1, self.n_kv_heads);
            let item_runs = (most_work / (n * tile_heads)).clamp(1, runs.len());
            let (n_tiles, tile_items) =
                (self.n_kv_heads.div_ceil(tile_heads), runs.len().div_ceil(item_runs));
            let n_split = if tile_items > 1 { n_tiles } else { 0 };
            let found_len = self.found_len(n * tile_heads);
            let extend = |end: &mut usize, by: usize| {
                *end += by;
                *end - by..*end
            };
            Band {
                items: extend(&mut n_items, n_tiles * tile_items),
                counters: extend(&mut n_counters, n_split),
                found: extend(&mut n_found, n_split * runs.len() * found_len),
                tile_heads,
                tile_items,
                item_runs,
                found_len,
                runs,
                all: tile,
            }
        })
    }
}

/// Numbers of the runs in which a tile sees keys.
fn runs(tile: &Tile<'_>) -> Range<usize> {
    let keys = tile.keys();
    keys.start / RUN..keys.end.div_ceil(RUN)
}

/// Some queries and all KV heads: tiles of some heads each, and items of some runs each.
struct Band<'a> {
    all: Tile<'a>,
    runs: Range<usize>,
    /// KV heads of a tile; the last one may have fewer.
    tile_heads: usize,
    /// Runs of an item; the last one may have fewer.
    item_runs: usize,
    /// Items of each tile.
    tile_items: usize,
    /// Floats for what a tile finds in a run.
    found_len: usize,
    /// Among the items of the batch: one tile's after the other's.
    items: Range<usize>,
    /// Among the counters: one for each tile, if these have several items.
    counters: Range<usize>,
    /// In memory, if tiles have several items: [n_tiles, n_runs, found_len].
    found: Range<usize>,
}

/// Some or all runs of a tile. Unsafe to run: the band's memory is valid, and no other part has this item.
struct Item<'a, S> {
    batch: &'a Batch<'a, S>,
    band: &'a Band<'a>,
    /// Which of the band's.
    index: usize,
    /// Of the band: items of each tile that are done.
    counters: *mut f32,
    /// Of the band.
    found: *mut f32,
    /// Of the part: for what two tiles find, then the source's scratch.
    own: &'a mut [f32],
    out: *mut f32,
}

impl<S: Source> Kernel for Item<'_, S> {
    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Item { batch, band, .. } = self;
        let (nth, item) = (self.index / band.tile_items, self.index % band.tile_items);
        let first_head = nth * band.tile_heads;
        let kv_heads = first_head..batch.n_kv_heads.min(first_head + band.tile_heads);
        let tile = Tile { kv_heads, queries: band.all.queries.clone(), ..band.all };
        let (value_dim, n) = (batch.source.value_dim(), tile.n_queries());

        let (own, scratch) = self.own.split_at_mut(2 * batch.found_len(MAX_TILE));
        batch.source.prepare(&tile, scratch);
        let mut attend = |run: usize, found: &mut Found<'_>| {
            let keys = tile.keys();
            let keys = keys.start.max(run * RUN)..keys.end.min((run + 1) * RUN);
            // SAFETY: the caller's promise.
            unsafe { attend::<L, S>(batch.source, &tile, keys, batch.scale, found, scratch) };
        };
        if band.tile_items == 1 {
            let (first, later) = own.split_at_mut(band.found_len);
            let mut all = Found::new(first, value_dim, n);
            let mut found = Found::new(later, value_dim, n);
            attend(band.runs.start, &mut all);
            for run in band.runs.clone().skip(1) {
                attend(run, &mut found);
                all.merge(&found);
            }
            // SAFETY: the caller's promise.
            return unsafe { finish(batch.source, &tile, &mut all, self.out) };
        }
        // SAFETY: an item touches what its own runs find until all items are done; then only the last one does.
        unsafe {
            let found = |i: usize| {
                let at = self.found.add((nth * band.runs.len() + i) * band.found_len);
                Found::new(std::slice::from_raw_parts_mut(at, band.found_len), value_dim, n)
            };
            let end = band.runs.len().min((item + 1) * band.item_runs);
            for i in item * band.item_runs..end {
                attend(band.runs.start + i, &mut found(i));
            }
            let n_done =
                AtomicU32::from_ptr(self.counters.add(nth).cast()).fetch_add(1, Ordering::AcqRel) + 1;
            if n_done as usize == band.tile_items {
                let mut all = found(0);
                (1..band.runs.len()).for_each(|i| all.merge(&found(i)));
                finish(batch.source, &tile, &mut all, self.out);
            }
        }
    }
}

/// Outputs of a tile.
///
/// # Safety
/// The places that the source names are valid, and nobody else uses them.
#[inline(always)]
unsafe fn finish<S: Source>(source: &S, tile: &Tile<'_>, found: &mut Found<'_>, out: *mut f32) {
    for i in 0..tile.n_queries() {
        // SAFETY: the caller's promise.
        let out =
            unsafe { std::slice::from_raw_parts_mut(out.add(source.output(tile, i)), source.value_dim()) };
        found.finish(i, out);
    }
}
