//! Qwen3 with experts: Qwen3's attention, then experts that a softmax over all of a layer's chooses among; no shared ones.
//! Source: Yang et al., "Qwen3 technical report" (2025).

use backend::{RouterSpec, Scoring};
use serde_json::Value;

use crate::{
    Config, ModelError,
    config::{Experts, Gguf, Json, bad},
    decoder, experts,
    names::Weight,
    qwen3,
};

// arguments

/// Experts by the names of a `config.json`.
pub(crate) fn experts(json: &Json<'_>) -> Result<Experts, ModelError> {
    if let Some(found) = json.optional("decoder_sparse_step").filter(|&n| n != 1) {
        return Err(bad("decoder_sparse_step", "1", found));
    }
    match &json.0["mlp_only_layers"] {
        Value::Null => {}
        Value::Array(layers) if layers.is_empty() => {}
        other => return Err(bad("mlp_only_layers", "none", other)),
    }
    let normalise = json.0["norm_topk_prob"].as_bool().unwrap_or(false);
    let top_k = json.need("num_experts_per_tok")?;
    Ok(softmax(json.need("num_experts")?, json.need("moe_intermediate_size")?, top_k, normalise))
}

/// Experts by the names of a GGUF file, whose weights are always normalised.
pub(crate) fn gguf_experts(keys: &Gguf<'_>) -> Result<Experts, ModelError> {
    let (n, ffn) = (keys.need("expert_count")?, keys.need("expert_feed_forward_length")?);
    Ok(softmax(n, ffn, keys.need("expert_used_count")?, true))
}

fn softmax(n: u32, ffn: u32, top_k: u32, normalise: bool) -> Experts {
    let router = RouterSpec {
        scoring: Scoring::Softmax,
        n_groups: 1,
        n_top_groups: 1,
        top_k: top_k as usize,
        normalise,
        scale: 1.0,
    };
    Experts { n, ffn, shared_ffn: 0, n_dense_layers: 0, is_corrected: false, router }
}

/// The weights of a layer.
pub(crate) fn layer_weights(config: &Config, layer: u32) -> Vec<Weight> {
    let mut weights = vec![Weight::AttentionNorm, Weight::Q, Weight::QNorm, Weight::K, Weight::KNorm];
    weights.extend([Weight::V, Weight::O, Weight::MlpNorm]);
    weights.extend(experts::mlp_weights(config, layer));
    weights
}

// attention, MLP, block, model and head are those of others

/// A stage of the model.
pub(crate) type Model<B> = decoder::Decoder<B, qwen3::Attention<B>, experts::Mlp<B>>;
