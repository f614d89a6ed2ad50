//! Multi-head latent attention (DeepSeek-V2, 2024, section 2.1) in its absorbed form: all heads attend to the same keys,
//! a latent and a rotary part, and the latents are the values too. Plain Rust that vectorises; keys come in groups of 16
//! positions, so a row's result depends neither on the other rows nor on how its prompt was cut into chunks.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::{Bytes, SeqSlice};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::Shared;
use super::rows::{MAX_TILE_ROWS, State, soften};
use crate::elementwise::dot;
use crate::isa::per_isa;
use crate::lanes::N_LANES;
use crate::{Isa, Pool};

/// Latents and rotary keys of one layer, in blocks that sequences share out among themselves: half floats,
/// `[n_blocks, block_len, latent_dim + rope_dim]`. Blocks that were never written take no memory.
pub struct LatentCache {
    bits: Vec<u16>,
    n_blocks: usize,
    block_len: usize,
    latent_dim: usize,
    rope_dim: usize,
}

impl LatentCache {
    /// A cache of zeros.
    ///
    /// # Panics
    /// If `block_len` is not a multiple of 16.
    pub fn new(n_blocks: usize, block_len: usize, latent_dim: usize, rope_dim: usize) -> LatentCache {
        assert!(block_len > 0 && block_len.is_multiple_of(N_LANES), "block_len {block_len}: expected 16 n");
        let bits = vec![0; n_blocks * block_len * (latent_dim + rope_dim)];
        LatentCache { bits, n_blocks, block_len, latent_dim, rope_dim }
    }

    /// Memory it takes when every block is in use.
    pub fn bytes(&self) -> Bytes {
        Bytes(2 * self.bits.len() as u64)
    }

    /// Rounds latents [n_rows, latent_dim] and rotary keys [n_rows, rope_dim] to half floats and stores row i in
    /// slots[i].
    ///
    /// # Panics
    /// If the shapes do not fit or there is no such slot.
    pub fn write(&mut self, latents: &[f32], keys: &[f32], slots: &[u32]) {
        let (latent_dim, rope_dim) = (self.latent_dim, self.rope_dim);
        assert_eq!(
            (latents.len(), keys.len()),
            (slots.len() * latent_dim, slots.len() * rope_dim),
            "latents and keys"
        );
        for (i, &slot) in slots.iter().enumerate() {
            assert!((slot as usize) < self.n_blocks * self.block_len, "slot {slot}");
            let row = &mut self.bits[slot as usize * (latent_dim + rope_dim)..][..latent_dim + rope_dim];
            let (latent, key) = row.reinterpret_cast_mut::<f16>().split_at_mut(latent_dim);
            latent.convert_from_f32_slice(&latents[i * latent_dim..][..latent_dim]);
            key.convert_from_f32_slice(&keys[i * rope_dim..][..rope_dim]);
        }
    }

    fn width(&self) -> usize {
        self.latent_dim + self.rope_dim
    }

    /// to [n, latent_dim + rope_dim] = the entries of a sequence from position `first` on, all in one block.
    fn read(&self, seq: &SeqSlice, first: usize, to: &mut [f32]) {
        let slot = seq.blocks[first / self.block_len].0 as usize * self.block_len + first % self.block_len;
        let bits = &self.bits[slot * self.width()..][..to.len()];
        bits.reinterpret_cast::<f16>().convert_to_f32_slice(to);
    }
}

/// out [n_heads, n_rows, latent_dim] = softmax((q_latent · latentsᵀ + q_rope · keysᵀ) · scale) · latents, where a row
/// at position p sees the positions up to p. q_latent is [n_heads, n_rows, latent_dim], q_rope
/// [n_heads, n_rows, rope_dim]. The batch's own rows are in the cache already.
///
/// # Panics
/// If the shapes do not fit each other or a block table is too short.
#[allow(clippy::too_many_arguments)] // one operation, and every one of them is needed
pub fn latent_attention(
    pool: &Pool,
    isa: Isa,
    q_latent: &[f32],
    q_rope: &[f32],
    cache: &LatentCache,
    seqs: &[SeqSlice],
    scale: f32,
    out: &mut [f32],
) {
    let n_rows: usize = seqs.iter().map(|s| s.n_rows as usize).sum();
    assert_eq!(q_latent.len(), out.len(), "values of q_latent and out");
    if q_latent.is_empty() {
        return;
    }
    assert!(
        n_rows > 0 && q_latent.len().is_multiple_of(n_rows * cache.latent_dim),
        "queries of {n_rows} rows"
    );
    let n_heads = q_latent.len() / n_rows / cache.latent_dim;
    assert_eq!(q_rope.len(), n_heads * n_rows * cache.rope_dim, "rotary queries of {n_heads} heads");

    let scratch_len = N_LANES * cache.width() + MAX_TILE_ROWS * cache.latent_dim;
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
        for (i, (row, seq, queries)) in tiles(seqs, n_heads).enumerate() {
            if i != mine {
                continue;
            }
            mine = next.fetch_add(1, Ordering::Relaxed);
            let tile = Tile { q_latent, q_rope, cache, seq, row, n_rows, n_heads, queries, scale };
            attend(isa, &tile, scratch);
            let sums = scratch[N_LANES * cache.width()..].chunks_exact(cache.latent_dim);
            for (query, sums) in tile.queries.clone().zip(sums) {
                let at = tile.place(query) * cache.latent_dim;
                // SAFETY: places are below n_heads × n_rows, and only this part has this tile's number.
                unsafe { out.0.add(at).copy_from_nonoverlapping(sums.as_ptr(), sums.len()) };
            }
        }
    });
}

/// What the parts share out: (first row of the sequence in the batch, sequence, range of its queries, counted row
/// after row and head after head).
fn tiles(seqs: &[SeqSlice], n_heads: usize) -> impl Iterator<Item = (usize, &SeqSlice, Range<usize>)> {
    let mut end = 0;
    seqs.iter().flat_map(move |seq| {
        let (row, n) = (end, seq.n_rows as usize * n_heads);
        end += seq.n_rows as usize;
        (0..n).step_by(MAX_TILE_ROWS).map(move |i| (row, seq, i..n.min(i + MAX_TILE_ROWS)))
    })
}

/// Queries of one sequence.
struct Tile<'a> {
    q_latent: &'a [f32],
    q_rope: &'a [f32],
    cache: &'a LatentCache,
    seq: &'a SeqSlice,
    /// The sequence's first row in the batch.
    row: usize,
    /// Rows of the batch.
    n_rows: usize,
    n_heads: usize,
    /// Query i is row i / n_heads of the sequence, head i % n_heads.
    queries: Range<usize>,
    scale: f32,
}

impl Tile<'_> {
    /// Which of the n_heads × n_rows queries this is.
    #[inline(always)]
    fn place(&self, query: usize) -> usize {
        query % self.n_heads * self.n_rows + self.row + query / self.n_heads
    }

    /// Number of positions that a query sees.
    #[inline(always)]
    fn n_visible(&self, query: usize) -> usize {
        (self.seq.context_len - self.seq.n_rows) as usize + query / self.n_heads + 1
    }

    /// The query's dot products with the first keys [n, latent_dim + rope_dim], scaled.
    #[inline(always)]
    fn scores(&self, query: usize, keys: &[f32], n: usize) -> [f32; N_LANES] {
        let (latent_dim, rope_dim) = (self.cache.latent_dim, self.cache.rope_dim);
        let q_latent = &self.q_latent[self.place(query) * latent_dim..][..latent_dim];
        let q_rope = &self.q_rope[self.place(query) * rope_dim..][..rope_dim];
        let mut scores = [0.0; N_LANES];
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(self.cache.width())).take(n) {
            let (latent, rope) = key.split_at(latent_dim);
            *score = (dot(q_latent, latent) + dot(q_rope, rope)) * self.scale;
        }
        scores
    }
}

per_isa! {
    /// scratch = 16 keys [16, latent_dim + rope_dim], then the results of the tile's queries [.., latent_dim]
    fn attend(tile: &Tile<'_>, scratch: &mut [f32]) {
        let (width, latent_dim) = (tile.cache.width(), tile.cache.latent_dim);
        let (keys, sums) = scratch.split_at_mut(N_LANES * width);
        sums.fill(0.0);
        let mut states = [State::EMPTY; MAX_TILE_ROWS];
        let n_keys = tile.n_visible(tile.queries.end - 1);
        for first in (0..n_keys).step_by(N_LANES) {
            tile.cache.read(tile.seq, first, &mut keys[..N_LANES.min(n_keys - first) * width]);
            let queries = tile.queries.clone().zip(&mut states).zip(sums.chunks_exact_mut(latent_dim));
            for ((query, state), sums) in queries {
                let n_seen = tile.n_visible(query).saturating_sub(first).min(N_LANES);
                if n_seen == 0 {
                    continue;
                }
                let mut weights = tile.scores(query, keys, n_seen);
                let factor = soften(&mut weights, &(0..n_seen), state);
                sums.iter_mut().for_each(|sum| *sum *= factor);
                for (weight, key) in weights.iter().zip(keys.chunks_exact(width)).take(n_seen) {
                    for (sum, v) in sums.iter_mut().zip(&key[..latent_dim]) {
                        *sum = weight.mul_add(*v, *sum);
                    }
                }
            }
        }
        for (state, sums) in states.iter().zip(sums.chunks_exact_mut(latent_dim)).take(tile.queries.len()) {
            let inverse = 1.0 / state.total;
            sums.iter_mut().for_each(|sum| *sum *= inverse);
        }
    }
}
