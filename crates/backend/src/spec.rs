//! Shapes and constants of the operations: what a layer hands to a backend beside its tensors.

use kernels::RopeStyle;
pub use kernels::{RouterSpec, Scoring};

/// How positions turn into rotations of query and key heads.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Which values of a head form a pair.
    pub style: RopeStyle,
    /// Angle per position of each pair, `[rot_dim / 2]`; `rot_dim` may be less than the head's width.
    pub inv_freq: Vec<f32>,
    /// Multiplies sine and cosine (YaRN's attention factor); 1 otherwise.
    pub factor: f32,
}

/// Shape of the attention of this rank.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads of this rank.
    pub n_heads: usize,
    /// Key and value heads of this rank.
    pub n_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Multiplies `q·k` before the softmax.
    pub scale: f32,
    /// A query sees this many latest positions, its own included; all of them when absent.
    pub window: Option<u32>,
}

/// Shape of the latent attention of this rank (DeepSeek-V2, 2024, section 2.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MlaSpec {
    /// Query heads of this rank.
    pub n_heads: usize,
    /// Width of a head's part without rotation.
    pub nope_dim: usize,
    /// Width of a head's rotated part; the keys of all heads share theirs.
    pub rope_dim: usize,
    /// Width of a head's values.
    pub v_dim: usize,
    /// Width of the latent from which keys and values of all heads are projected.
    pub latent_dim: usize,
    /// Multiplies `q·k` before the softmax.
    pub scale: f32,
}

/// What the cache of a layer holds for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheRow {
    /// Keys and values of every head of this rank.
    Heads {
        /// Key and value heads of this rank.
        n_kv_heads: usize,
        /// Width of a head.
        head_dim: usize,
    },
    /// The latent and the shared rotary key, on every rank whole.
    Latent {
        /// Width of the latent.
        latent_dim: usize,
        /// Width of the rotary key.
        rope_dim: usize,
    },
}

/// Size of the paged KV cache of this rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Layers of this rank's stage.
    pub n_layers: usize,
    /// Blocks in each layer.
    pub n_blocks: usize,
    /// Tokens in a block.
    pub block_len: usize,
    /// A token's entry.
    pub row: CacheRow,
}
