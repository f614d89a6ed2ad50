//! Causal attention of a batch's queries over the paged cache, grouped-query, with online softmax (Dao et al. 2022,
//! "FlashAttention"). Keys come in groups of 16 positions, in order, each a fixed sequence of roundings: so a row's
//! result depends neither on the other rows nor on how its prompt was cut into chunks.

mod cache;
mod latent;
mod rows;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::SeqSlice;

pub use cache::KvCache;
pub use latent::{LatentCache, latent_attention};

use crate::{Isa, Pool};
use rows::{MAX_TILE_ROWS, Tile, scratch_len};

/// out [n_rows, n_heads, head_dim] = softmax(q [n_rows, n_heads, head_dim] · keysᵀ · scale) · values, where a row at
/// position p sees the positions up to p, or the last `window` of these. Keys and values of the batch's own rows
/// are in the cache already. Query heads h · n_heads / n_kv_heads .. belong to KV head h.
///
/// # Panics
/// If the shapes do not fit each other or a block table is too short.
#[allow(clippy::too_many_arguments)] // one operation, and every one of them is needed
pub fn attention(
    pool: &Pool,
    isa: Isa,
    q: &[f32],
    cache: &KvCache,
    seqs: &[SeqSlice],
    scale: f32,
    window: Option<u32>,
    out: &mut [f32],
) {
    isa.check();
    let n_rows: usize = seqs.iter().map(|s| s.n_rows as usize).sum();
    assert_eq!(q.len(), out.len(), "values of q and out");
    if q.is_empty() {
        return;
    }
    assert!(n_rows > 0 && q.len().is_multiple_of(n_rows * cache.head_dim), "queries of {n_rows} rows");
    let n_heads = q.len() / n_rows / cache.head_dim;
    assert!(n_heads.is_multiple_of(cache.n_kv_heads), "{n_heads} heads over {} KV heads", cache.n_kv_heads);
    let group = n_heads / cache.n_kv_heads;

    let scratch_len = scratch_len(cache);
    let mut scratch = pool.scratch.borrow_mut();
    let needed = scratch_len * pool.n_threads();
    if scratch.attention.len() < needed {
        scratch.attention.resize(needed, 0.0);
    }
    let scratch = Shared(scratch.attention.as_mut_ptr());
    let out = Shared(out.as_mut_ptr());
    let next = AtomicUsize::new(0);
    pool.run(|part, _| {
        let (scratch, out) = (&scratch, &out);
        // SAFETY: each part has its own range of the scratch.
        let scratch =
            unsafe { std::slice::from_raw_parts_mut(scratch.0.add(part * scratch_len), scratch_len) };
        let mut mine = next.fetch_add(1, Ordering::Relaxed);
        for (i, (row, seq, kv_head, rows)) in tiles(seqs, cache.n_kv_heads, group).enumerate() {
            if i != mine {
                continue;
            }
            mine = next.fetch_add(1, Ordering::Relaxed);
            let tile = Tile { q, cache, seq, row, kv_head, group, rows, scale, window, out: out.0 };
            // SAFETY: shapes were checked above, and only this part has this tile's number.
            unsafe { isa.call(rows::Kernel { tile: &tile, scratch }) };
        }
    });
}

/// What the parts share out: (first row of the sequence in the batch, sequence, KV head, range of its queries for
/// that head, counted row after row and head after head).
fn tiles(
    seqs: &[SeqSlice],
    n_kv_heads: usize,
    group: usize,
) -> impl Iterator<Item = (usize, &SeqSlice, usize, Range<usize>)> {
    let mut end = 0;
    seqs.iter().flat_map(move |seq| {
        let (row, n) = (end, seq.n_rows as usize * group);
        end += seq.n_rows as usize;
        let ranges = move || (0..n).step_by(MAX_TILE_ROWS).map(move |i| i..n.min(i + MAX_TILE_ROWS));
        (0..n_kv_heads).flat_map(move |head| ranges().map(move |rows| (row, seq, head, rows)))
    })
}

/// A slice that several threads write, each its own elements.
struct Shared(*mut f32);

// SAFETY: whoever dereferences it proves that the elements are its own.
unsafe impl Sync for Shared {}
