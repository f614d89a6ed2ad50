//! The table of weights: how each is called in either kind of file, and its shape. How a weight is cut for tensor
//! parallelism follows from its shape: along whichever side is heads, FFN columns or vocabulary.

/// One weight of a dense decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the field's own
pub(crate) enum Weight {
    Embedding,
    Norm,
    Head,
    AttentionNorm,
    Q,
    K,
    V,
    O,
    QBias,
    KBias,
    VBias,
    QNorm,
    KNorm,
    MlpNorm,
    Gate,
    Up,
    Down,
}

/// A side of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Width of the hidden state: never cut.
    Hidden,
    /// Width of one head: never cut.
    Head,
    /// All query heads: cut with their KV heads.
    QueryHeads,
    /// All KV heads.
    KvHeads,
    /// FFN columns.
    Ffn,
    /// Vocabulary.
    Vocab,
}

/// A row of the table. `{}` in a name stands for the layer.
pub(crate) struct Entry {
    pub(crate) gguf: &'static str,
    pub(crate) hf: &'static str,
    /// Shape, outermost first: `[n_out, n_in]` for a matrix, one side for a vector.
    pub(crate) shape: &'static [Side],
}

impl Weight {
    pub(crate) fn entry(self) -> Entry {
        use Side::{Ffn, Head, Hidden, KvHeads, QueryHeads, Vocab};
        let entry = |gguf, hf, shape| Entry { gguf, hf, shape };
        match self {
            Weight::Embedding => entry("token_embd.weight", "model.embed_tokens.weight", &[Vocab, Hidden]),
            Weight::Norm => entry("output_norm.weight", "model.norm.weight", &[Hidden]),
            Weight::Head => entry("output.weight", "lm_head.weight", &[Vocab, Hidden]),
            Weight::AttentionNorm => {
                entry("blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", &[Hidden])
            }
            Weight::Q => entry(
                "blk.{}.attn_q.weight",
                "model.layers.{}.self_attn.q_proj.weight",
                &[QueryHeads, Hidden],
            ),
            Weight::K => {
                entry("blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", &[KvHeads, Hidden])
            }
            Weight::V => {
                entry("blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", &[KvHeads, Hidden])
            }
            Weight::O => entry(
                "blk.{}.attn_output.weight",
                "model.layers.{}.self_attn.o_proj.weight",
                &[Hidden, QueryHeads],
            ),
            Weight::QBias => {
                entry("blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", &[QueryHeads])
            }
            Weight::KBias => entry("blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", &[KvHeads]),
            Weight::VBias => entry("blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", &[KvHeads]),
            Weight::QNorm => {
                entry("blk.{}.attn_q_norm.weight", "model.layers.{}.self_attn.q_norm.weight", &[Head])
            }
            Weight::KNorm => {
                entry("blk.{}.attn_k_norm.weight", "model.layers.{}.self_attn.k_norm.weight", &[Head])
            }
            Weight::MlpNorm => {
                entry("blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", &[Hidden])
            }
            Weight::Gate => {
                entry("blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", &[Ffn, Hidden])
            }
            Weight::Up => entry("blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", &[Ffn, Hidden]),
            Weight::Down => {
                entry("blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", &[Hidden, Ffn])
            }
        }
    }
}
