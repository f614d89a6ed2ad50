//! Keys and values of one layer, in blocks that sequences share out among themselves. Knows slots, not sequences'
//! contents.
//!
//! Half floats, `[n_blocks, n_kv_heads, keys then values]`. A block's keys of one head lie as [head_dim, block_len]:
//! 16 keys side by side fill a vector, so scores need no sums across lanes. Its values lie as
//! [block_len, head_dim rounded up to 16]. Blocks that were never written take no memory.

use std::array::from_fn;
use std::ops::Range;
use std::ptr::null;

use base::{Bytes, SeqSlice};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::tile::{N_PIECES, PIECE, Piece, SPAN, Source, Span, Tile};
use crate::lanes::N_LANES;

/// The KV cache of one layer.
pub struct KvCache {
    /// Bits of half floats: zeros of an integer type come from the system untouched.
    bits: Vec<u16>,
    n_blocks: usize,
    pub(super) block_len: usize,
    pub(super) n_kv_heads: usize,
    pub(super) head_dim: usize,
}

impl KvCache {
    /// A cache of zeros.
    ///
    /// # Panics
    /// If `block_len` is not a multiple of 16.
    pub fn new(n_blocks: usize, block_len: usize, n_kv_heads: usize, head_dim: usize) -> KvCache {
        assert!(block_len > 0 && block_len.is_multiple_of(N_LANES), "block_len {block_len}: expected 16 n");
        let cache = KvCache { bits: Vec::new(), n_blocks, block_len, n_kv_heads, head_dim };
        let len = n_blocks * n_kv_heads * cache.head_len();
        KvCache { bits: vec![0; len], ..cache }
    }

    /// Memory it takes when every block is in use.
    pub fn bytes(&self) -> Bytes {
        Bytes(2 * self.bits.len() as u64)
    }

    /// Positions in a block.
    pub fn block_len(&self) -> usize {
        self.block_len
    }

    /// The slot (block · block_len + offset) of every row of a batch; old contents go.
    ///
    /// # Panics
    /// If a block table is too short for its context.
    pub fn slots(&self, seqs: &[SeqSlice], slots: &mut Vec<u32>) {
        slots.clear();
        let block_len = self.block_len as u32;
        for seq in seqs {
            slots.extend((seq.context_len - seq.n_rows..seq.context_len).map(|position| {
                seq.blocks[(position / block_len) as usize].0 * block_len + position % block_len
            }));
        }
    }

    /// Rounds k, v [n_rows, n_kv_heads, head_dim] to half floats and stores row i in slots[i].
    ///
    /// # Panics
    /// If lengths differ or there is no such slot.
    pub fn write(&mut self, k: &[f32], v: &[f32], slots: &[u32]) {
        let row_len = self.n_kv_heads * self.head_dim;
        assert_eq!((k.len(), v.len()), (slots.len() * row_len, slots.len() * row_len), "keys and values");
        for (i, slot) in slots.iter().enumerate() {
            let (block, offset) = (*slot as usize / self.block_len, *slot as usize % self.block_len);
            assert!(block < self.n_blocks, "block {block} of {}", self.n_blocks);
            for head in 0..self.n_kv_heads {
                let row = i * row_len + head * self.head_dim..i * row_len + (head + 1) * self.head_dim;
                self.write_head(block, head, offset, &k[row.clone()], &v[row]);
            }
        }
    }

    /// Values in a row of a block's values.
    pub(super) fn padded_dim(&self) -> usize {
        self.head_dim.next_multiple_of(N_LANES)
    }

    /// Keys [head_dim, block_len] and values [block_len, padded_dim] of a head in a block.
    pub(super) fn head(&self, block: usize, head: usize) -> (&[u16], &[u16]) {
        let bits = &self.bits[(block * self.n_kv_heads + head) * self.head_len()..][..self.head_len()];
        bits.split_at(self.head_dim * self.block_len)
    }

    fn head_len(&self) -> usize {
        self.block_len * (self.head_dim + self.padded_dim())
    }

    fn write_head(&mut self, block: usize, head: usize, offset: usize, k: &[f32], v: &[f32]) {
        let (len, block_len, padded_dim) = (self.head_len(), self.block_len, self.padded_dim());
        let bits = &mut self.bits[(block * self.n_kv_heads + head) * len..][..len];
        let (keys, values) = bits.split_at_mut(k.len() * block_len);
        round(v, &mut values[offset * padded_dim..][..v.len()]);
        let mut column = keys[offset..].iter_mut().step_by(block_len);
        for k in k.chunks(ROUNDED_LEN) {
            let rounded = &mut [0; ROUNDED_LEN][..k.len()];
            round(k, rounded);
            column.by_ref().zip(rounded).for_each(|(to, k)| *to = *k);
        }
    }
}

/// Values that are rounded together.
const ROUNDED_LEN: usize = 64;

/// bits [n] = the half floats next to x [n]; what is too large for one becomes the largest, so that no weight of zero
/// meets an infinite value.
pub(super) fn round(x: &[f32], bits: &mut [u16]) {
    let largest = f32::from(f16::MAX);
    for (x, bits) in x.chunks(ROUNDED_LEN).zip(bits.chunks_mut(ROUNDED_LEN)) {
        let limited = &mut [0.0; ROUNDED_LEN][..x.len()];
        limited.iter_mut().zip(x).for_each(|(to, x)| *to = x.clamp(-largest, largest));
        bits.reinterpret_cast_mut::<f16>().convert_from_f32_slice(limited);
    }
}

/// A batch's queries and the keys and values they see.
pub(super) struct Heads<'a> {
    /// [n_rows, n_heads, head_dim]
    pub(super) q: &'a [f32],
    pub(super) cache: &'a KvCache,
    pub(super) n_heads: usize,
}

impl Heads<'_> {
    /// The piece from a position on, if it overlaps with `keys`.
    #[inline(always)]
    fn piece(&self, tile: &Tile<'_>, kv_head: usize, first: usize, keys: &Range<usize>) -> Piece<u16> {
        if first >= keys.end || first + PIECE <= keys.start {
            return Piece { keys: null(), values: null() };
        }
        let block_len = self.cache.block_len;
        let (block, offset) = (tile.seq.blocks[first / block_len], first % block_len);
        let (k, v) = self.cache.head(block.0 as usize, kv_head);
        Piece { keys: k[offset..].as_ptr(), values: v[offset * self.cache.padded_dim()..].as_ptr() }
    }

    /// What to fetch with a head's i-th piece: the next span of all heads, in the order in which it lies in memory.
    /// Where there is none, the next head.
    #[inline(always)]
    fn ahead(&self, tile: &Tile<'_>, kv_head: usize, first: usize, i: usize) -> Piece<u16> {
        let heads = &tile.kv_heads;
        let (next, keys) = (first + SPAN, tile.keys());
        if next < keys.end {
            let nth = (kv_head - heads.start) * N_PIECES + i;
            self.piece(tile, heads.start + nth % heads.len(), next + nth / heads.len() * PIECE, &keys)
        } else {
            self.piece(tile, (kv_head + 1).min(heads.end - 1), first + i * PIECE, &keys)
        }
    }
}

impl Source for Heads<'_> {
    type Element = u16;

    #[inline(always)]
    fn key_dim(&self) -> usize {
        self.cache.head_dim
    }

    #[inline(always)]
    fn value_dim(&self) -> usize {
        self.cache.head_dim
    }

    fn scratch_len(&self) -> usize {
        0
    }

    #[inline(always)]
    fn prepare(&self, _: &Tile<'_>, _: &mut [f32]) {}

    #[inline(always)]
    fn query<'a>(&'a self, tile: &Tile<'_>, i: usize, _: &'a [f32]) -> &'a [f32] {
        &self.q[self.output(tile, i)..][..self.cache.head_dim]
    }

    #[inline(always)]
    fn span(
        &self,
        tile: &Tile<'_>,
        kv_head: usize,
        first: usize,
        keys: &Range<usize>,
        _: &mut [f32],
    ) -> Span<u16> {
        Span {
            pieces: from_fn(|i| self.piece(tile, kv_head, first + i * PIECE, keys)),
            ahead: from_fn(|i| self.ahead(tile, kv_head, first, i)),
            key_step: self.cache.block_len,
        }
    }

    #[inline(always)]
    fn output(&self, tile: &Tile<'_>, i: usize) -> usize {
        let (row, head) = tile.place(i);
        (row * self.n_heads + head) * self.cache.head_dim
    }
}
