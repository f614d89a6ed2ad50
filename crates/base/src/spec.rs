//! What a planner needs to know of a model: counts and sizes, no names. Filled by whoever reads the checkpoint.

use std::ops::Range;

use crate::Bytes;

/// Sizes of one decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelSpec {
    /// Width of the hidden state.
    pub hidden: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; query heads are shared out over them evenly.
    pub n_kv_heads: u32,
    /// Width of one head.
    pub head_dim: u32,
    /// FFN columns that shards are ranges of: of one expert where most layers have experts, whose dense layers and shared
    /// experts are then cut at the same places in proportion.
    pub ffn: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Longest context the model was made for, in tokens.
    pub max_context: u32,
    /// KV heads that must stay together, so that a cut falls between blocks of the weights' format.
    pub head_unit: u32,
    /// FFN columns that must stay together, for the same reason.
    pub ffn_unit: u32,
    /// Bytes of the weights of each layer, in order; its length is the number of layers.
    pub layers: Vec<LayerBytes>,
    /// Bytes of the embedding table.
    pub embedding: Bytes,
    /// Bytes of the output head; `None` when it is the embedding table itself.
    pub head: Option<Bytes>,
    /// Values that the cache holds of a token in a layer, whole on every rank, instead of the keys and values of heads.
    pub latent: Option<u32>,
}

/// Bytes of one layer by how they are shared out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerBytes {
    /// Attention projections, shared out by KV heads.
    pub attention: Bytes,
    /// Feed-forward projections, shared out by FFN columns.
    pub ffn: Bytes,
    /// Norms and the like, held whole by every rank of the stage.
    pub replicated: Bytes,
}

impl ModelSpec {
    /// Number of layers.
    pub fn n_layers(&self) -> u32 {
        self.layers.len() as u32
    }

    /// Bytes of keys and values of one token in one layer for one KV head (16-bit values).
    pub fn kv_bytes_per_head(&self) -> Bytes {
        Bytes(2 * 2 * u64::from(self.head_dim))
    }
}

/// A rank's slice of every layer of its stage (half-open ranges).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// KV heads, and with them their query heads.
    pub kv_heads: Range<u32>,
    /// FFN columns.
    pub ffn: Range<u32>,
    /// Vocabulary rows of the embedding and the head.
    pub vocab: Range<u32>,
}
