//! The table of weights: how each is called in either kind of file, and its shape. How a weight is cut for tensor
//! parallelism follows from its shape: along whichever side is heads, FFN columns or vocabulary.

/// One weight of a decoder.
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
    /// Latent attention: queries down to their latent, its norm, and up to the heads.
    QDown,
    QDownNorm,
    QUp,
    /// Latent attention: queries of a model that has no latent of them.
    QWhole,
    /// Latent attention: the latent of keys and values, followed by the rotary key; the norm of the former.
    KvDown,
    KvDownNorm,
    KvUp,
    /// The same as a stack of keys' up-projections with rows and columns exchanged, and one of values', a matrix for each head.
    KeyUp,
    ValueUp,
    LatentO,
    /// The gate that chooses among experts, and what corrects its choice.
    Router,
    RouterCorrection,
    /// One of the experts, or the stack of all of them.
    ExpertGate,
    ExpertUp,
    ExpertDown,
    /// Experts that every token goes to, as one.
    SharedGate,
    SharedUp,
    SharedDown,
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
    /// FFN columns of a dense layer.
    Ffn,
    /// Vocabulary.
    Vocab,
    /// Latent of the queries: never cut.
    QueryLatent,
    /// Latent of keys and values: never cut.
    KvLatent,
    /// That latent and the rotary key: never cut.
    KvLatentAndRope,
    /// Queries of all heads of latent attention, both parts of each.
    LatentQueries,
    /// Keys, without their rotary part, and values of all heads of latent attention.
    LatentKeysAndValues,
    /// Values of all heads of latent attention.
    LatentValues,
    /// One head's keys without their rotary part; never cut.
    LatentKey,
    /// One head's values; never cut.
    LatentValue,
    /// Routed experts: never cut.
    Experts,
    /// FFN columns of a routed expert.
    ExpertFfn,
    /// FFN columns of all shared experts.
    SharedFfn,
}

impl Side {
    /// Those that are cut with the heads.
    pub(crate) const OF_HEADS: [Side; 5] =
        [Side::QueryHeads, Side::KvHeads, Side::LatentQueries, Side::LatentKeysAndValues, Side::LatentValues];
    /// Those that are cut with the FFN columns.
    pub(crate) const OF_FFN: [Side; 3] = [Side::Ffn, Side::ExpertFfn, Side::SharedFfn];
}

/// A row of the table. `{}` in a name stands for the layer, `{e}` for the expert.
pub(crate) struct Entry {
    pub(crate) gguf: &'static str,
    pub(crate) hf: &'static str,
    /// Shape, outermost first: `[n_out, n_in]` for a matrix, one side for a vector. Of an expert's weight, which GGUF
    /// files keep in one tensor for all, without the side of the experts.
    pub(crate) shape: &'static [Side],
}

impl Weight {
    pub(crate) fn entry(self) -> Entry {
        use Side::{
            ExpertFfn, Experts, Ffn, Head, Hidden, KvHeads, KvLatent, KvLatentAndRope, LatentKey,
            LatentKeysAndValues, LatentQueries, LatentValue, LatentValues, QueryHeads, QueryLatent,
            SharedFfn, Vocab,
        };
        let (gguf, hf, shape): (_, _, &'static [Side]) = match self {
            Weight::Embedding => ("token_embd.weight", "model.embed_tokens.weight", &[Vocab, Hidden]),
            Weight::Norm => ("output_norm.weight", "model.norm.weight", &[Hidden]),
            Weight::Head => ("output.weight", "lm_head.weight", &[Vocab, Hidden]),
            Weight::AttentionNorm => ("attn_norm.weight", "input_layernorm.weight", &[Hidden]),
            Weight::Q => ("attn_q.weight", "self_attn.q_proj.weight", &[QueryHeads, Hidden]),
            Weight::K => ("attn_k.weight", "self_attn.k_proj.weight", &[KvHeads, Hidden]),
            Weight::V => ("attn_v.weight", "self_attn.v_proj.weight", &[KvHeads, Hidden]),
            Weight::O => ("attn_output.weight", "self_attn.o_proj.weight", &[Hidden, QueryHeads]),
            Weight::QBias => ("attn_q.bias", "self_attn.q_proj.bias", &[QueryHeads]),
            Weight::KBias => ("attn_k.bias", "self_attn.k_proj.bias", &[KvHeads]),
            Weight::VBias => ("attn_v.bias", "self_attn.v_proj.bias", &[KvHeads]),
            Weight::QNorm => ("attn_q_norm.weight", "self_attn.q_norm.weight", &[Head]),
            Weight::KNorm => ("attn_k_norm.weight", "self_attn.k_norm.weight", &[Head]),
            Weight::MlpNorm => ("ffn_norm.weight", "post_attention_layernorm.weight", &[Hidden]),
            Weight::Gate => ("ffn_gate.weight", "mlp.gate_proj.weight", &[Ffn, Hidden]),
            Weight::Up => ("ffn_up.weight", "mlp.up_proj.weight", &[Ffn, Hidden]),
            Weight::Down => ("ffn_down.weight", "mlp.down_proj.weight", &[Hidden, Ffn]),
            Weight::QDown => ("attn_q_a.weight", "self_attn.q_a_proj.weight", &[QueryLatent, Hidden]),
            Weight::QDownNorm => ("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", &[QueryLatent]),
            Weight::QUp => ("attn_q_b.weight", "self_attn.q_b_proj.weight", &[LatentQueries, QueryLatent]),
            Weight::QWhole => ("attn_q.weight", "self_attn.q_proj.weight", &[LatentQueries, Hidden]),
            Weight::KvDown => {
                ("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", &[KvLatentAndRope, Hidden])
            }
            Weight::KvDownNorm => ("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", &[KvLatent]),
            Weight::KvUp => {
                ("attn_kv_b.weight", "self_attn.kv_b_proj.weight", &[LatentKeysAndValues, KvLatent])
            }
            Weight::KeyUp => ("attn_k_b.weight", "self_attn.embed_q.weight", &[KvLatent, LatentKey]),
            Weight::ValueUp => ("attn_v_b.weight", "self_attn.unembed_out.weight", &[LatentValue, KvLatent]),
            Weight::LatentO => ("attn_output.weight", "self_attn.o_proj.weight", &[Hidden, LatentValues]),
            Weight::Router => ("ffn_gate_inp.weight", "mlp.gate.weight", &[Experts, Hidden]),
            Weight::RouterCorrection => ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", &[Experts]),
            Weight::ExpertGate => {
                ("ffn_gate_exps.weight", "mlp.experts.{e}.gate_proj.weight", &[ExpertFfn, Hidden])
            }
            Weight::ExpertUp => {
                ("ffn_up_exps.weight", "mlp.experts.{e}.up_proj.weight", &[ExpertFfn, Hidden])
            }
            Weight::ExpertDown => {
                ("ffn_down_exps.weight", "mlp.experts.{e}.down_proj.weight", &[Hidden, ExpertFfn])
            }
            Weight::SharedGate => {
                ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", &[SharedFfn, Hidden])
            }
            Weight::SharedUp => {
                ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", &[SharedFfn, Hidden])
            }
            Weight::SharedDown => {
                ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", &[Hidden, SharedFfn])
            }
        };
        Entry { gguf, hf, shape }
    }

    /// Whether each layer has its own.
    pub(crate) fn is_of_layer(self) -> bool {
        !matches!(self, Weight::Embedding | Weight::Norm | Weight::Head)
    }

    /// Whether all heads' are stacked in one tensor.
    pub(crate) fn is_of_head(self) -> bool {
        matches!(self, Weight::KeyUp | Weight::ValueUp)
    }

    /// Whether each routed expert has its own.
    pub(crate) fn is_of_expert(self) -> bool {
        matches!(self, Weight::ExpertGate | Weight::ExpertUp | Weight::ExpertDown)
    }
}
