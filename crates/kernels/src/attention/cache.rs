//! Keys and values of one layer, in blocks that sequences share out among themselves. Knows slots, not sequences'
//! contents.
//!
//! Half floats, `[n_blocks, n_kv_heads, keys then values]`. A block's keys of one head lie as [head_dim, block_len]:
//! 16 keys side by side fill a vector, so scores need no sums across lanes. Its values lie as
//! [block_len, head_dim rounded up to 16]. Blocks that were never written take no memory.

use base::{Bytes, SeqSlice};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

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
        let value = &mut values[offset * padded_dim..][..v.len()];
        value.reinterpret_cast_mut::<f16>().convert_from_f32_slice(v);
        let column = keys[offset..].iter_mut().step_by(block_len);
        for (to, k) in column.zip(k) {
            *to = f16::from_f32(*k).to_bits();
        }
    }
}
