//! Causal attention of a batch's queries over the paged cache, grouped-query, with online softmax (Dao et al. 2022,
//! "FlashAttention") and, where queries are few, split over the keys (Dao et al. 2023, "Flash-Decoding"). Keys come in
//! spans and runs that begin at fixed positions, each a fixed sequence of roundings: so a row's result depends neither
//! on the other rows nor on how its prompt was cut into chunks nor on the number of threads.

mod cache;
mod found;
mod latent;
mod share;
mod tile;

use base::SeqSlice;

pub use cache::KvCache;
pub use latent::{LatentCache, latent_attention};

use crate::{Isa, Pool};
use cache::Heads;
use share::Batch;

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
    let n_rows: usize = seqs.iter().map(|s| s.n_rows as usize).sum();
    assert_eq!(q.len(), out.len(), "values of q and out");
    if q.is_empty() {
        return;
    }
    assert!(n_rows > 0 && q.len().is_multiple_of(n_rows * cache.head_dim), "queries of {n_rows} rows");
    let n_heads = q.len() / n_rows / cache.head_dim;
    let n_kv_heads = cache.n_kv_heads;
    assert!(n_heads.is_multiple_of(n_kv_heads), "{n_heads} heads over {n_kv_heads} KV heads");
    let (source, group) = (Heads { q, cache, n_heads }, n_heads / n_kv_heads);
    Batch { source: &source, seqs, n_kv_heads, group, window, scale }.run(pool, isa, out);
}
