//! Multi-head latent attention (DeepSeek-V2, 2024, section 2.1) in its absorbed form: all heads attend to the same keys,
//! a latent and a rotary part, and the latents are the values too. Plain Rust that vectorises; keys come in groups of 16
//! positions, so a row's result depends neither on the other rows nor on how its prompt was cut into chunks.

use std::array::from_fn;
use std::ops::Range;

use base::{Bytes, SeqSlice};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::cache::round;
use super::share::Batch;
use super::tile::{MAX_TILE, PIECE, Piece, SPAN, Source, Span, Tile};
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
            let (latent, key) = row.split_at_mut(latent_dim);
            round(&latents[i * latent_dim..][..latent_dim], latent);
            round(&keys[i * rope_dim..][..rope_dim], key);
        }
    }

    fn width(&self) -> usize {
        self.latent_dim + self.rope_dim
    }

    /// What is stored for a position of a sequence.
    #[inline(always)]
    fn entry(&self, seq: &SeqSlice, position: usize) -> &[u16] {
        let slot =
            seq.blocks[position / self.block_len].0 as usize * self.block_len + position % self.block_len;
        &self.bits[slot * self.width()..][..self.width()]
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

    let source = Latents { q_latent, q_rope, cache, n_rows };
    Batch { source: &source, seqs, n_kv_heads: 1, group: n_heads, window: None, scale }.run(pool, isa, out);
}

/// A batch's queries, and the latents and keys they see.
struct Latents<'a> {
    /// [n_heads, n_rows, latent_dim]
    q_latent: &'a [f32],
    /// [n_heads, n_rows, rope_dim]
    q_rope: &'a [f32],
    cache: &'a LatentCache,
    n_rows: usize,
}

impl Latents<'_> {
    /// Which of the n_heads × n_rows queries the tile's i-th one is.
    #[inline(always)]
    fn index(&self, tile: &Tile<'_>, i: usize) -> usize {
        let (row, head) = tile.place(i);
        head * self.n_rows + row
    }

    /// Of the scratch memory: queries [MAX_TILE, width], a cache entry [width], keys [width, SPAN], values
    /// [SPAN, latent_dim rounded up to 16].
    #[inline(always)]
    fn split<'a>(&self, scratch: &'a mut [f32]) -> [&'a mut [f32]; 4] {
        let width = self.cache.width();
        let (queries, rest) = scratch.split_at_mut(MAX_TILE * width);
        let (entry, rest) = rest.split_at_mut(width);
        let (keys, values) = rest.split_at_mut(width * SPAN);
        [queries, entry, keys, values]
    }
}

impl Source for Latents<'_> {
    type Element = f32;

    #[inline(always)]
    fn key_dim(&self) -> usize {
        self.cache.width()
    }

    #[inline(always)]
    fn value_dim(&self) -> usize {
        self.cache.latent_dim
    }

    fn scratch_len(&self) -> usize {
        (MAX_TILE + 1 + SPAN) * self.cache.width() + SPAN * self.cache.latent_dim.next_multiple_of(N_LANES)
    }

    #[inline(always)]
    fn prepare(&self, tile: &Tile<'_>, scratch: &mut [f32]) {
        let LatentCache { latent_dim, rope_dim, .. } = *self.cache;
        let [queries, ..] = self.split(scratch);
        for (i, query) in queries.chunks_exact_mut(self.cache.width()).take(tile.queries.len()).enumerate() {
            let (latent, rope) = query.split_at_mut(latent_dim);
            latent.copy_from_slice(&self.q_latent[self.index(tile, i) * latent_dim..][..latent_dim]);
            rope.copy_from_slice(&self.q_rope[self.index(tile, i) * rope_dim..][..rope_dim]);
        }
    }

    #[inline(always)]
    fn query<'a>(&'a self, _: &Tile<'_>, i: usize, scratch: &'a [f32]) -> &'a [f32] {
        &scratch[i * self.cache.width()..][..self.cache.width()]
    }

    #[inline(always)]
    fn span(
        &self,
        tile: &Tile<'_>,
        _: usize,
        first: usize,
        keys: &Range<usize>,
        scratch: &mut [f32],
    ) -> Span<f32> {
        let cache = self.cache;
        let dim = cache.latent_dim.next_multiple_of(N_LANES);
        let [_, row, transposed, values] = self.split(scratch);
        for position in first.max(keys.start)..keys.end.min(first + SPAN) {
            let i = position - first;
            cache.entry(tile.seq, position).reinterpret_cast::<f16>().convert_to_f32_slice(row);
            values[i * dim..][..cache.latent_dim].copy_from_slice(&row[..cache.latent_dim]);
            for (key, to) in row.iter().zip(transposed[i..].iter_mut().step_by(SPAN)) {
                *to = *key;
            }
        }
        let pieces = from_fn(|i| Piece {
            keys: transposed[i * PIECE..].as_ptr(),
            values: values[i * PIECE * dim..].as_ptr(),
        });
        Span { pieces, ahead: pieces, key_step: SPAN }
    }

    #[inline(always)]
    fn output(&self, tile: &Tile<'_>, i: usize) -> usize {
        self.index(tile, i) * self.cache.latent_dim
    }
}
