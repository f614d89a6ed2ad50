//! How many bytes a shard of a stage takes. It knows sizes, not where a cut is wise.

use std::ops::Range;

use base::{Bytes, ModelSpec, Shard};

use crate::{BLOCK_LEN_TOKENS, KV_VALUE_BYTES};

/// Bytes of a stage's weights, summed over its layers, by how they are shared out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StageBytes {
    pub(crate) attention: Bytes,
    pub(crate) ffn: Bytes,
    pub(crate) vocab: Bytes,
    pub(crate) replicated: Bytes,
}

impl StageBytes {
    /// The weights of `layers`, with the embedding and the head where the stage has them. A head that is the
    /// embedding itself counts once where both are held.
    pub(crate) fn of(model: &ModelSpec, layers: Range<u32>, embeds: bool, heads: bool) -> StageBytes {
        let mut sum = StageBytes::default();
        for layer in &model.layers[layers.start as usize..layers.end as usize] {
            sum.attention += layer.attention;
            sum.ffn += layer.ffn;
            sum.replicated += layer.replicated;
        }
        if embeds {
            sum.vocab += model.embedding;
        }
        if heads {
            sum.vocab += head_bytes(model, embeds);
        }
        sum
    }

    /// The part of them that a shard holds.
    pub(crate) fn of_shard(&self, model: &ModelSpec, shard: &Shard) -> Bytes {
        part(self.attention, &shard.kv_heads, model.n_kv_heads)
            + part(self.ffn, &shard.ffn, model.ffn)
            + part(self.vocab, &shard.vocab, model.vocab)
            + self.replicated
    }
}

/// Bytes the head adds to a stage.
pub(crate) fn head_bytes(model: &ModelSpec, embeds: bool) -> Bytes {
    match model.head {
        Some(head) => head,
        None if embeds => Bytes(0),
        None => model.embedding,
    }
}

/// The share of `total` that falls on `range` of `n`; the shares of a partition add up to `total` exactly.
pub(crate) fn part(total: Bytes, range: &Range<u32>, n: u32) -> Bytes {
    let upto = |end: u32| (u128::from(total.0) * u128::from(end) / u128::from(n)) as u64;
    Bytes(upto(range.end) - upto(range.start))
}

/// Bytes of `n_blocks` KV blocks of a shard.
pub(crate) fn kv_bytes(model: &ModelSpec, layers: &Range<u32>, shard: &Shard, n_blocks: u32) -> Bytes {
    let per_layer = match model.latent {
        Some(n_values) => u128::from(KV_VALUE_BYTES) * u128::from(n_values),
        None => u128::from(model.kv_bytes_per_head().0) * shard.kv_heads.len() as u128,
    };
    let per_token = per_layer * layers.len() as u128;
    let bytes = per_token.saturating_mul(u128::from(n_blocks) * u128::from(BLOCK_LEN_TOKENS));
    Bytes(u64::try_from(bytes).unwrap_or(u64::MAX))
}
