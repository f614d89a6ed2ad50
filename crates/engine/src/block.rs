//! The paged KV cache as a table of blocks: who holds which block, and which token prefix a full block stands
//! for, so that a later sequence with the same prefix shares it. It knows neither requests nor the KV bytes.
//!
//! A prefix is found by a chain of exact keys: a block's key is its parent's prefix number (numbers are never
//! reused) and its own tokens, and the map compares both. Two prefixes can thus never be taken for each other,
//! whatever their hashes. A table's full blocks are always the ones the map finds (`publish` sees to that) and a
//! table is released from its end, so a block is evicted only after every block that continues it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base::{BlockId, TokenId};

/// Blocks, their reference counts, the free list and the prefix cache.
#[derive(Debug)]
pub(crate) struct BlockManager {
    block_len: usize,
    blocks: Vec<Block>,
    /// Free blocks by the time of their release; blocks that hold no prefix come first, at time 0.
    free: BTreeSet<(u64, BlockId)>,
    /// Full blocks, in use or free, by the prefix they complete.
    cached: HashMap<Arc<Prefix>, BlockId>,
    /// Logical time: releases so far.
    n_releases: u64,
    n_prefixes: u64,
}

#[derive(Debug, Default)]
struct Block {
    /// Tables that hold this block.
    n_refs: u32,
    /// Its entry in the free list while `n_refs` is 0.
    freed_at: u64,
    prefix: Option<(PrefixId, Arc<Prefix>)>,
}

/// Number of one published prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PrefixId(u64);

/// A prefix that ends with a full block.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Prefix {
    parent: Option<PrefixId>,
    tokens: Vec<TokenId>,
}

/// The blocks of a sequence that may run.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Its block table, for all tokens it has.
    pub(crate) blocks: Vec<BlockId>,
    /// Its first tokens whose keys and values the blocks hold already.
    pub(crate) n_cached: usize,
}

impl BlockManager {
    /// `n_blocks` free blocks of `block_len` tokens; `block_len` is at least 1.
    pub(crate) fn new(n_blocks: u32, block_len: u32) -> BlockManager {
        BlockManager {
            block_len: block_len as usize,
            blocks: (0..n_blocks).map(|_| Block::default()).collect(),
            free: (0..n_blocks).map(|b| (0, BlockId(b))).collect(),
            cached: HashMap::new(),
            n_releases: 0,
            n_prefixes: 0,
        }
    }

    /// Blocks held by at least one table.
    pub(crate) fn n_used(&self) -> usize {
        self.blocks.len() - self.free.len()
    }

    /// A block table for `tokens`, as much of it as possible from the prefix cache, or `None` if fewer than
    /// `n_spare` blocks would stay free. At least the last token is left to compute, so that it has logits.
    pub(crate) fn admit(&mut self, tokens: &[TokenId], n_spare: usize) -> Option<Admission> {
        let mut blocks = self.find(&tokens[..tokens.len().saturating_sub(1)]);
        let n_hits = blocks.len();
        let n_new = tokens.len().div_ceil(self.block_len) - n_hits;
        let n_revived = blocks.iter().filter(|b| self.block(**b).n_refs == 0).count();
        if self.free.len() < n_revived + n_new + n_spare {
            return None;
        }
        for block in &blocks {
            self.retain(*block);
        }
        for _ in 0..n_new {
            self.grow(&mut blocks);
        }
        Some(Admission { blocks, n_cached: n_hits * self.block_len })
    }

    /// Appends a free block to a table; evicts the prefix that was released longest ago if need be.
    /// `false` if every block is in use.
    pub(crate) fn grow(&mut self, table: &mut Vec<BlockId>) -> bool {
        let Some((_, id)) = self.free.pop_first() else { return false };
        let block = self.block_mut(id);
        block.n_refs = 1;
        if let Some((_, prefix)) = block.prefix.take() {
            self.cached.remove(&prefix);
        }
        table.push(id);
        true
    }

    /// Makes block `index` of a table findable once it is full: `tokens` are the sequence's tokens. The blocks
    /// before it have been published. If another block stands for the same prefix already, the table takes
    /// that one and gives its own back.
    pub(crate) fn publish(&mut self, table: &mut [BlockId], index: usize, tokens: &[TokenId]) {
        let parent = index.checked_sub(1).and_then(|before| self.block(table[before]).prefix.as_ref());
        let prefix = Arc::new(Prefix {
            parent: parent.map(|(id, _)| *id),
            tokens: tokens[index * self.block_len..][..self.block_len].to_vec(),
        });
        match self.cached.get(&prefix).copied() {
            Some(known) if known != table[index] => {
                self.retain(known);
                self.release_one(table[index]);
                table[index] = known;
            }
            Some(_) => {}
            None => {
                let id = PrefixId(self.n_prefixes);
                self.n_prefixes += 1;
                self.block_mut(table[index]).prefix = Some((id, prefix.clone()));
                self.cached.insert(prefix, table[index]);
            }
        }
    }

    /// Gives a table's blocks back. Published ones stay findable until they are needed.
    pub(crate) fn release(&mut self, table: Vec<BlockId>) {
        for block in table.into_iter().rev() {
            self.release_one(block);
        }
    }

    /// The longest chain of published blocks that `tokens` begin with.
    fn find(&self, tokens: &[TokenId]) -> Vec<BlockId> {
        let mut parent = None;
        let mut found = Vec::new();
        for tokens in tokens.chunks_exact(self.block_len) {
            let key = Prefix { parent, tokens: tokens.to_vec() };
            let Some(block) = self.cached.get(&key) else { break };
            parent = self.block(*block).prefix.as_ref().map(|(id, _)| *id);
            found.push(*block);
        }
        found
    }

    fn retain(&mut self, id: BlockId) {
        let block = self.block_mut(id);
        block.n_refs += 1;
        if block.n_refs == 1 {
            let freed_at = block.freed_at;
            self.free.remove(&(freed_at, id));
        }
    }

    fn release_one(&mut self, id: BlockId) {
        self.n_releases += 1;
        let now = self.n_releases;
        let block = self.block_mut(id);
        debug_assert!(block.n_refs > 0, "{id} is released more often than it is held");
        block.n_refs -= 1;
        if block.n_refs == 0 {
            block.freed_at = if block.prefix.is_some() { now } else { 0 };
            let freed_at = block.freed_at;
            self.free.insert((freed_at, id));
        }
    }

    fn block(&self, id: BlockId) -> &Block {
        &self.blocks[id.0 as usize]
    }

    fn block_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id.0 as usize]
    }
}

#[cfg(test)]
impl BlockManager {
    /// Panics unless every count, the free list and the prefix cache agree with the tables in use.
    pub(crate) fn check(&self, tables: &[&[BlockId]]) {
        let mut n_refs = vec![0; self.blocks.len()];
        for block in tables.iter().flat_map(|t| t.iter()) {
            n_refs[block.0 as usize] += 1;
        }
        for (i, block) in self.blocks.iter().enumerate() {
            let id = BlockId(i as u32);
            assert_eq!(block.n_refs, n_refs[i], "references of {id}");
            assert_eq!(self.free.contains(&(block.freed_at, id)), block.n_refs == 0, "{id} in the free list");
            let Some((_, prefix)) = &block.prefix else { continue };
            assert_eq!(self.cached.get(prefix), Some(&id), "the prefix of {id} is found");
            let Some(parent) = prefix.parent else { continue };
            let parent = self.blocks.iter().find(|b| b.prefix.as_ref().is_some_and(|(p, _)| *p == parent));
            let parent = parent.unwrap_or_else(|| panic!("{id} outlives its parent"));
            assert!(parent.n_refs >= block.n_refs, "{id} is held without its parent");
            assert!(block.n_refs > 0 || parent.n_refs > 0 || parent.freed_at > block.freed_at, "LRU of {id}");
        }
        assert_eq!(self.free.len(), n_refs.iter().filter(|n| **n == 0).count(), "free blocks");
        assert_eq!(self.cached.len(), self.blocks.iter().filter(|b| b.prefix.is_some()).count());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(ids: &[u32]) -> Vec<TokenId> {
        ids.iter().map(|t| TokenId(*t)).collect()
    }

    /// Admits and publishes all full blocks, as if the sequence had been computed.
    fn fill(m: &mut BlockManager, ids: &[u32]) -> Vec<BlockId> {
        let tokens = tokens(ids);
        let mut table = m.admit(&tokens, 0).unwrap().blocks;
        for i in 0..tokens.len() / m.block_len {
            m.publish(&mut table, i, &tokens);
        }
        m.check(&[&table]);
        table
    }

    #[test]
    fn a_released_prefix_is_found_until_it_is_reused() {
        let mut m = BlockManager::new(4, 2);
        let first = fill(&mut m, &[1, 2, 3, 4, 5]);
        m.release(first.clone());
        assert_eq!(m.n_used(), 0);
        let again = m.admit(&tokens(&[1, 2, 3, 4, 6]), 0).unwrap();
        assert_eq!((again.n_cached, &again.blocks[..2]), (4, &first[..2]));
        m.release(again.blocks);
        let other = fill(&mut m, &[9, 9, 9, 9, 9, 9]);
        assert_eq!(m.find(&tokens(&[1, 2, 3, 4])), first[..1], "the end of the old prefix went first");
        m.release(other);
    }

    #[test]
    fn a_hit_leaves_the_last_token() {
        let mut m = BlockManager::new(4, 2);
        let table = fill(&mut m, &[1, 2, 3, 4]);
        m.release(table);
        assert_eq!(m.admit(&tokens(&[1, 2, 3, 4]), 0).unwrap().n_cached, 2);
    }

    #[test]
    fn equal_tokens_after_different_prefixes_are_different() {
        let mut m = BlockManager::new(8, 2);
        let a = fill(&mut m, &[1, 1, 7, 7, 0]);
        m.release(a);
        let b = m.admit(&tokens(&[2, 2, 7, 7, 0]), 0).unwrap();
        assert_eq!(b.n_cached, 0);
    }

    #[test]
    fn tables_with_equal_prefixes_become_one() {
        let mut m = BlockManager::new(4, 2);
        let ids = tokens(&[1, 2, 3]);
        let mut a = m.admit(&ids, 0).unwrap().blocks;
        let mut b = m.admit(&ids, 0).unwrap().blocks;
        assert_ne!(a[0], b[0]);
        m.publish(&mut a, 0, &ids);
        m.publish(&mut b, 0, &ids);
        assert_eq!(a[0], b[0]);
        assert_eq!(m.n_used(), 3);
        m.check(&[&a, &b]);
    }

    #[test]
    fn admission_is_all_or_nothing() {
        let mut m = BlockManager::new(3, 2);
        let a = fill(&mut m, &[1, 2, 3]);
        m.release(a);
        assert!(m.admit(&tokens(&[1, 2, 3, 4]), 2).is_none(), "one hit, one new, two spare of three");
        assert_eq!(m.n_used(), 0);
        assert!(m.admit(&tokens(&[1, 2, 3, 4]), 1).is_some());
    }
}
