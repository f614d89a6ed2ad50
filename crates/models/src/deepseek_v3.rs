//! DeepSeek-V3, V3.1 and R1, Kimi-K2 and the text networks of its successors, Moonlight: latent attention, first layers that are
//! dense, then experts that a gate with corrected scores chooses among, and shared ones. Layers that predict several tokens, which
//! follow the last one in some files, are not used.
//! Sources: DeepSeek-AI, "DeepSeek-V2" (2024), section 2.1; "DeepSeek-V3 technical report" (2024), section 2.1; Moonshot AI,
//! "Kimi K2" (2025).

use backend::{Backend, MlaSpec, RouterSpec, Scoring};

use crate::{
    ModelError,
    config::{Experts, Gguf, Json, Latent, bad},
    decoder::{self, StepContext},
    experts,
    loader::Loader,
    names::{Side, Weight},
    rope::yarn_mscale,
    tensors::Tensors,
};

// arguments

/// Added to the mean square in the norms of both latents, whatever the other norms have.
const LATENT_NORM_EPS: f32 = 1e-6;

/// Widths of latent attention by the names of a `config.json`.
pub(crate) fn latent(json: &Json<'_>) -> Result<Latent, ModelError> {
    let (nope_dim, rope_dim) = (json.need("qk_nope_head_dim")?, json.need("qk_rope_head_dim")?);
    let number = |key: &str| json.scaling().and_then(|scaling| scaling[key].as_f64()).unwrap_or(0.0) as f32;
    let sharper = yarn_mscale(number("factor"), number("mscale_all_dim"));
    Ok(Latent {
        q_rank: json.optional("q_lora_rank"),
        kv_rank: json.need("kv_lora_rank")?,
        nope_dim,
        rope_dim,
        v_dim: json.need("v_head_dim")?,
        scale: sharper * sharper / (nope_dim.saturating_add(rope_dim) as f32).sqrt(),
    })
}

/// Experts by the names of a `config.json`.
pub(crate) fn routed_experts(json: &Json<'_>) -> Result<Experts, ModelError> {
    json.only("scoring_func", "sigmoid")?;
    json.only("topk_method", "noaux_tc")?;
    if let Some(found) = json.optional("moe_layer_freq").filter(|&n| n != 1) {
        return Err(bad("moe_layer_freq", "1", found));
    }
    let ffn = json.need("moe_intermediate_size")?;
    Ok(Experts {
        n: json.need("n_routed_experts")?,
        ffn,
        shared_ffn: json.optional("n_shared_experts").unwrap_or(0).saturating_mul(ffn),
        n_dense_layers: json.optional("first_k_dense_replace").unwrap_or(0),
        is_corrected: true,
        router: RouterSpec {
            scoring: Scoring::Sigmoid,
            n_groups: json.optional("n_group").unwrap_or(1) as usize,
            n_top_groups: json.optional("topk_group").unwrap_or(1) as usize,
            top_k: json.need("num_experts_per_tok")? as usize,
            normalise: json.0["norm_topk_prob"].as_bool().unwrap_or(true),
            scale: json.number("routed_scaling_factor", 1.0)? as f32,
        },
    })
}

/// Widths of latent attention by the names of a GGUF file.
pub(crate) fn gguf_latent(keys: &Gguf<'_>) -> Result<Latent, ModelError> {
    // files whose up-projections lie apart keep the cache's widths under the plain names
    let width = |name: &str| match keys.optional(&format!("{name}_mla"))? {
        Some(width) => Ok(width),
        None => keys.need(name),
    };
    let (key_dim, rope_dim) = (width("attention.key_length")?, keys.need("rope.dimension_count")?);
    // the format has a tenth of `mscale_all_dim`
    let mscale = 10.0 * keys.number("rope.scaling.yarn_log_multiplier", 0.0)?;
    let sharper = yarn_mscale(keys.number("rope.scaling.factor", 1.0)?, mscale);
    Ok(Latent {
        q_rank: keys.optional("attention.q_lora_rank")?,
        kv_rank: keys.need("attention.kv_lora_rank")?,
        nope_dim: key_dim.saturating_sub(rope_dim),
        rope_dim,
        v_dim: width("attention.value_length")?,
        scale: sharper * sharper / (key_dim as f32).sqrt(),
    })
}

/// Experts by the names of a GGUF file.
pub(crate) fn gguf_experts(keys: &Gguf<'_>) -> Result<Experts, ModelError> {
    const SIGMOID: u32 = 2;
    keys.only("expert_gating_func", SIGMOID)?;
    let ffn = keys.need("expert_feed_forward_length")?;
    Ok(Experts {
        n: keys.need("expert_count")?,
        ffn,
        shared_ffn: keys.optional("expert_shared_count")?.unwrap_or(0).saturating_mul(ffn),
        n_dense_layers: keys.optional("leading_dense_block_count")?.unwrap_or(0),
        is_corrected: true,
        router: RouterSpec {
            scoring: Scoring::Sigmoid,
            n_groups: keys.optional("expert_group_count")?.unwrap_or(1) as usize,
            n_top_groups: keys.optional("expert_group_used_count")?.unwrap_or(1) as usize,
            top_k: keys.need("expert_used_count")? as usize,
            normalise: keys.flag("expert_weights_norm")?,
            scale: keys.number("expert_weights_scale", 1.0)?,
        },
    })
}

/// The weights of a layer.
pub(crate) fn layer_weights(tensors: Tensors<'_>, layer: u32) -> Vec<Weight> {
    let config = tensors.config;
    let mut weights = vec![Weight::AttentionNorm];
    match config.latent.as_ref().and_then(|latent| latent.q_rank) {
        Some(_) => weights.extend([Weight::QDown, Weight::QDownNorm, Weight::QUp]),
        None => weights.push(Weight::QWhole),
    }
    weights.extend([Weight::KvDown, Weight::KvDownNorm]);
    match tensors.contains(Weight::KeyUp, layer) {
        true => weights.extend([Weight::KeyUp, Weight::ValueUp]),
        false => weights.push(Weight::KvUp),
    }
    weights.extend([Weight::LatentO, Weight::MlpNorm]);
    weights.extend(experts::mlp_weights(config, layer));
    weights
}

// attention

/// Latent attention of one layer, this rank's heads. The cache holds the latent, on every rank whole.
pub(crate) struct Attention<B: Backend> {
    spec: MlaSpec,
    /// Of the input: queries' latent (or this rank's queries) `[q_rank, hidden]`, latent `[kv_rank, hidden]`, rotary key
    /// `[rope_dim, hidden]`.
    down: B::Linear,
    /// Norm `[q_rank]`, and `[heads_shard * (nope_dim + rope_dim), q_rank]`.
    q_up: Option<(B::Norm, B::Linear)>,
    kv_norm: B::Norm,   // [kv_rank]
    kv_up: B::LatentUp, // [heads_shard * (nope_dim + v_dim), kv_rank]
    o: B::Linear,       // [hidden, heads_shard * v_dim]
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        let spec = loader.mla_spec()?;
        let has_latent = loader.config.side(Side::QueryLatent) > 0;
        let both = spec.latent_dim + spec.rope_dim;
        Ok(Attention {
            spec,
            down: loader.linear_of_rows(
                &[
                    (if has_latent { Weight::QDown } else { Weight::QWhole }, None),
                    (Weight::KvDown, Some(0..spec.latent_dim)),
                    (Weight::KvDown, Some(spec.latent_dim..both)),
                ],
                layer,
            )?,
            q_up: match has_latent {
                true => Some((
                    loader.norm_with(Weight::QDownNorm, layer, LATENT_NORM_EPS)?,
                    loader.linear(&[Weight::QUp], layer)?,
                )),
                false => None,
            },
            kv_norm: loader.norm_with(Weight::KvDownNorm, layer, LATENT_NORM_EPS)?,
            kv_up: loader.latent_up(layer, &spec)?,
            o: loader.linear(&[Weight::LatentO], layer)?,
        })
    }

    fn forward(
        &self,
        b: &mut B,
        x: &B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError> {
        let [mut q, latent, k_rope] = b.matmul(x, &self.down)?;
        if let Some((norm, up)) = &self.q_up {
            let y = b.rms_norm(&q, norm)?;
            [q] = b.matmul(&y, up)?; // [n_rows, heads_shard * (nope_dim + rope_dim)]
        }
        let latent = b.rms_norm(&latent, &self.kv_norm)?; // [n_rows, kv_rank]
        let y = b.mla([q, latent, k_rope], &self.kv_up, &step.rope, slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, &self.o)?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}

// MLP, block, model and head are those of others

/// A stage of the model.
pub(crate) type Model<B> = decoder::Decoder<B, Attention<B>, experts::Mlp<B>>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What the published configurations say, and the scales that follow: 0.144680 for Kimi-K2, 0.135234 for DeepSeek-V3.
    #[test]
    fn scores_are_scaled_as_published() {
        for (factor, scale) in [(64.0, 0.144_680), (40.0, 0.135_234)] {
            let config = json!({
                "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
                "rope_scaling": {"type": "yarn", "factor": factor, "mscale": 1.0, "mscale_all_dim": 1.0},
            });
            let latent = latent(&Json(&config)).unwrap();
            assert!((latent.scale - scale).abs() < 1e-6, "{}", latent.scale);
        }
    }
}
