//! The numbers of a `config.json` as the cost model's shape, for models whose files are not here and for architectures that this
//! program does not run. It reads counts and number formats; no weight and no tensor name.

use base::Bytes;
use plan::shape::{AttentionShape, ExpertShape, Format, Formats, IndexerShape, Shape};
use plan::{Experts, ModelCost};
use serde_json::Value;

use crate::{Architecture, ModelError, config};

/// Upper bound of every count, so that sums of products stay within 64 bits.
const MAX_COUNT: u32 = 1 << 20;
/// Upper bound of a model's weights.
const MAX_PARAMS: f64 = 1e15;
/// Bits of a scale of 8-bit blocks of 128 × 128, one of 32 bits for each.
const FP8_BLOCK: (u32, u32, u32) = (8, 128 * 128, 32);

/// Sizes and costs of the model that a `config.json` describes. Unknown architectures are refused by name: a size that leaves out
/// what a family adds would be wrong without a word. `stored` are the bytes of a file that holds the same weights in a format of
/// its own, spread evenly over them.
pub fn cost_of_config(json: &Value, stored: Option<Bytes>) -> Result<ModelCost, ModelError> {
    // newer checkpoints keep the language model's numbers beside those of images
    let json = if json["text_config"].is_object() { &json["text_config"] } else { json };
    let name = json["model_type"].as_str().ok_or_else(|| config::bad("model_type", "a name", "nothing"))?;
    let family = Family::find(name)?;
    let mut shape = shape(json, family)?;
    check_size(&shape)?;
    if let Some(bytes) = stored {
        let bits = bytes.0 as f64 * 8.0 / shape.cost().n_params().max(1) as f64;
        shape.formats = Formats::all(Format { bits, is_quantised: bits < 16.0, group_size: BLOCK_LEN });
    }
    Ok(ModelCost { is_runnable: Architecture::find(name).is_ok(), ..shape.cost() })
}

/// Values that the formats of whole files keep together.
const BLOCK_LEN: u32 = 32;

/// What a family's numbers are called.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// Heads, dense layers.
    Dense,
    /// Heads, routed experts in all layers but some.
    Experts,
    /// Latent attention, routed experts after the first layers.
    Latent,
}

impl Family {
    fn find(name: &str) -> Result<Family, ModelError> {
        match name {
            "llama" | "mistral" | "qwen2" | "qwen3" => Ok(Family::Dense),
            "qwen3_moe" => Ok(Family::Experts),
            "deepseek_v3" | "deepseek_v32" | "kimi_k2" | "glm_moe_dsa" => Ok(Family::Latent),
            _ => Err(ModelError::Architecture {
                found: name.to_owned(),
                supported: "for planning: llama, mistral, qwen2, qwen3, qwen3_moe, deepseek_v3, deepseek_v32, kimi_k2, \
                            glm_moe_dsa"
                    .to_owned(),
            }),
        }
    }
}

fn shape(json: &Value, family: Family) -> Result<Shape, ModelError> {
    let n = Numbers { json };
    let n_heads = n.need("num_attention_heads")?;
    let n_kv_heads = if family == Family::Latent {
        n_heads
    } else {
        n.optional("num_key_value_heads")?.unwrap_or(n_heads)
    };
    if !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("a divisor of {n_heads} attention heads");
        return Err(config::bad("num_key_value_heads", &expected, n_kv_heads));
    }
    let hidden = n.need("hidden_size")?;
    let grouped = || -> Result<AttentionShape, ModelError> {
        let head_dim = n.optional("head_dim")?.unwrap_or((hidden / n_heads).max(1));
        Ok(AttentionShape::Grouped { head_dim })
    };
    Ok(Shape {
        n_layers: n.at_most("num_hidden_layers", plan::MAX_LAYERS as u32)?,
        hidden,
        n_heads,
        n_kv_heads,
        attention: if family == Family::Latent { latent(&n)? } else { grouped()? },
        indexer: indexer(&n)?,
        ffn: n.need("intermediate_size")?,
        experts: experts(&n, family)?,
        vocab: n.need("vocab_size")?,
        is_tied: json["tie_word_embeddings"].as_bool().unwrap_or(false),
        max_context: n.at_most("max_position_embeddings", 1 << 30)?,
        formats: formats(json)?,
    })
}

fn latent(n: &Numbers) -> Result<AttentionShape, ModelError> {
    Ok(AttentionShape::Latent {
        q_rank: n.need("q_lora_rank")?,
        kv_rank: n.need("kv_lora_rank")?,
        nope_dim: n.need("qk_nope_head_dim")?,
        rope_dim: n.need("qk_rope_head_dim")?,
        v_dim: n.need("v_head_dim")?,
    })
}

fn indexer(n: &Numbers) -> Result<Option<IndexerShape>, ModelError> {
    let (heads, head_dim) = (n.optional("index_n_heads")?, n.optional("index_head_dim")?);
    Ok(heads.zip(head_dim).map(|(n_heads, head_dim)| IndexerShape { n_heads, head_dim }))
}

fn experts(n: &Numbers, family: Family) -> Result<Option<ExpertShape>, ModelError> {
    if family == Family::Dense {
        return Ok(None);
    }
    let (key, n_dense_layers) = match family {
        Family::Latent => ("n_routed_experts", n.optional("first_k_dense_replace")?.unwrap_or(0)),
        _ => ("num_experts", n.json["mlp_only_layers"].as_array().map_or(0, |layers| layers.len() as u32)),
    };
    let (n_experts, n_active) = (n.need(key)?, n.need("num_experts_per_tok")?);
    if n_active > n_experts {
        return Err(config::bad("num_experts_per_tok", &format!("at most {n_experts} experts"), n_active));
    }
    let ffn = n.need("moe_intermediate_size")?;
    let n_shared = n.optional("n_shared_experts")?.unwrap_or(0);
    let shared_ffn = n_shared.saturating_mul(ffn).min(MAX_COUNT);
    Ok(Some(ExpertShape { count: Experts { n: n_experts, n_active }, ffn, shared_ffn, n_dense_layers }))
}

/// Number formats: MLX's `quantization`, or a `quantization_config`; 16 bits without either.
fn formats(json: &Value) -> Result<Formats, ModelError> {
    let mlx = &json["quantization"];
    if mlx.is_object() {
        let n = Numbers { json: mlx };
        let is_mx = mlx["mode"].as_str().is_some_and(|mode| mode.starts_with("mx"));
        let scale_bits = if is_mx { 8 } else { 32 }; // one exponent, or scale and bias
        let format = Format::grouped(n.at_most("bits", 16)?, n.need("group_size")?, scale_bits);
        return Ok(Formats::all(format));
    }
    let quantised = &json["quantization_config"];
    match quantised["quant_method"].as_str() {
        None => Ok(Formats::all(Format::BF16)),
        Some("fp8") => {
            let (bits, group_size, scale_bits) = FP8_BLOCK;
            let block = Format { group_size: 128, ..Format::grouped(bits, group_size, scale_bits) };
            Ok(Formats { vocab: Format::BF16, gate: Format::BF16, ..Formats::all(block) })
        }
        Some("compressed-tensors") => packed(&quantised["config_groups"]["group_0"]["weights"], quantised),
        Some(other) => {
            Err(config::bad("quantization_config.quant_method", "fp8 or compressed-tensors", other))
        }
    }
}

/// Integers with a scale of 16 bits for each group, in all linear layers but the ignored ones.
fn packed(weights: &Value, all: &Value) -> Result<Formats, ModelError> {
    let n = Numbers { json: weights };
    let format = Format::grouped(n.at_most("num_bits", 16)?, n.need("group_size")?, 16);
    let ignored = all["ignore"].as_array().map_or(&[][..], Vec::as_slice);
    let ignores =
        |part: &str| ignored.iter().any(|name| name.as_str().is_some_and(|name| name.contains(part)));
    let dense = if ignores("self_attn") { Format::BF16 } else { format };
    Ok(Formats { dense, experts: format, gate: Format::BF16, vocab: Format::BF16 })
}

/// Weights beyond reason would overflow, and no machine holds them.
fn check_size(shape: &Shape) -> Result<(), ModelError> {
    let columns =
        shape.experts.map_or(0.0, |e| f64::from(e.count.n) * f64::from(e.ffn) + f64::from(e.shared_ffn));
    let wide = columns + f64::from(shape.ffn);
    let (heads, hidden) = (f64::from(shape.n_heads), f64::from(shape.hidden));
    let widest = match shape.attention {
        AttentionShape::Grouped { head_dim } => heads * f64::from(head_dim) * hidden,
        AttentionShape::Latent { q_rank, kv_rank, nope_dim, rope_dim, v_dim } => {
            let rank = f64::from(q_rank.max(kv_rank)) + hidden;
            heads * f64::from(nope_dim.max(rope_dim).max(v_dim)) * rank
        }
    };
    let found =
        f64::from(shape.n_layers) * (wide * hidden * 3.0 + widest * 4.0) + f64::from(shape.vocab) * hidden;
    if found > MAX_PARAMS {
        return Err(config::bad("all sizes together", &format!("at most {MAX_PARAMS:e} weights"), found));
    }
    Ok(())
}

/// Counts by their keys.
struct Numbers<'a> {
    json: &'a Value,
}

impl Numbers<'_> {
    fn optional(&self, key: &str) -> Result<Option<u32>, ModelError> {
        match &self.json[key] {
            Value::Null => Ok(None),
            value => {
                let n = value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= 1 << 30);
                n.map(Some).ok_or_else(|| config::bad(key, "a count", value))
            }
        }
    }

    fn need(&self, key: &str) -> Result<u32, ModelError> {
        self.at_most(key, MAX_COUNT)
    }

    /// From 1 to `most`.
    fn at_most(&self, key: &str, most: u32) -> Result<u32, ModelError> {
        let found = self.optional(key)?.filter(|n| (1..=most).contains(n));
        found.ok_or_else(|| config::bad(key, &format!("1 to {most}"), &self.json[key]))
    }
}
