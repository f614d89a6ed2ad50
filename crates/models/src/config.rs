//! A model's hyper-parameters, read from GGUF metadata or a `config.json` and checked before anything is allocated.

use backend::{RopeSpec, RopeStyle};
use weights::{Checkpoint, GgufMetadata, Source};

use crate::{Architecture, ModelError, names::Side, rope, rope::Scaling};

/// Hyper-parameters of a dense decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Layers.
    pub n_layers: u32,
    /// Width of the hidden state.
    pub hidden: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads.
    pub n_kv_heads: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Longest context, in tokens.
    pub max_context: u32,
    /// Added to the mean square in RMSNorm.
    pub norm_eps: f32,
    /// Sliding attention window, in tokens.
    pub window: Option<u32>,
    /// Rotations of queries and keys.
    pub rope: RopeSpec,
}

/// Upper bound of every count in a configuration, so that a hostile file cannot ask for the moon.
const MAX_COUNT: u32 = 1 << 24;
/// Upper bound of a head's width.
const MAX_HEAD_DIM: u32 = 1 << 12;
/// Upper bound of layers.
const MAX_LAYERS: u32 = 4096;
/// YaRN's usual bounds of the interpolated wavelengths, in rotations over the original context.
const BETA_FAST: f32 = 32.0;
const BETA_SLOW: f32 = 1.0;

impl Config {
    /// Reads architecture and hyper-parameters.
    pub(crate) fn read(checkpoint: &Checkpoint) -> Result<(Architecture, Config), ModelError> {
        let (architecture, config) = match checkpoint.metadata() {
            Source::Gguf(metadata) => from_gguf(metadata, checkpoint)?,
            Source::Hf { config, .. } => from_json(config)?,
        };
        config.check()?;
        Ok((architecture, config))
    }

    /// Length of one side of a weight.
    pub(crate) fn side(&self, side: Side) -> usize {
        let n = match side {
            Side::Hidden => self.hidden,
            Side::Head => self.head_dim,
            Side::QueryHeads => self.n_heads * self.head_dim,
            Side::KvHeads => self.n_kv_heads * self.head_dim,
            Side::Ffn => self.ffn,
            Side::Vocab => self.vocab,
        };
        n as usize
    }

    fn check(&self) -> Result<(), ModelError> {
        let counts = [
            ("layers", self.n_layers, MAX_LAYERS),
            ("hidden size", self.hidden, MAX_COUNT),
            ("attention heads", self.n_heads, 1 << 12),
            ("KV heads", self.n_kv_heads, self.n_heads),
            ("head size", self.head_dim, MAX_HEAD_DIM),
            ("feed-forward size", self.ffn, MAX_COUNT),
            ("vocabulary size", self.vocab, MAX_COUNT),
            ("context length", self.max_context, 1 << 30),
        ];
        for (key, found, max) in counts {
            if found == 0 || found > max {
                return Err(bad(key, &format!("1 to {max}"), found));
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(bad(
                "KV heads",
                &format!("a divisor of {} attention heads", self.n_heads),
                self.n_kv_heads,
            ));
        }
        let n_pairs = self.rope.inv_freq.len() as u32;
        if n_pairs == 0 || n_pairs * 2 > self.head_dim {
            return Err(bad("rotated values", &format!("2 to the head size {}", self.head_dim), n_pairs * 2));
        }
        Ok(())
    }
}

/// A value that is not what it should be.
pub(crate) fn bad(key: &str, expected: &str, found: impl std::fmt::Display) -> ModelError {
    ModelError::Config { key: key.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

fn from_gguf(m: &GgufMetadata, checkpoint: &Checkpoint) -> Result<(Architecture, Config), ModelError> {
    let name = m.str("general.architecture")?;
    let architecture = Architecture::find(name)?;
    let key = |suffix: &str| format!("{name}.{suffix}");
    let need = |suffix: &str| m.u32(&key(suffix));
    let optional = |suffix: &str| m.optional(&key(suffix), GgufMetadata::u32);

    let (hidden, n_heads) = (need("embedding_length")?, need("attention.head_count")?);
    let head_dim = optional("attention.key_length")?.unwrap_or(hidden / n_heads.max(1));
    let theta = m.optional(&key("rope.freq_base"), GgufMetadata::f32)?.unwrap_or(10_000.0);
    let rot_dim = optional("rope.dimension_count")?.unwrap_or(head_dim);
    let style = match architecture {
        Architecture::Llama => RopeStyle::Interleaved,
        Architecture::Qwen2 | Architecture::Qwen3 => RopeStyle::Half,
    };
    let config = Config {
        n_layers: need("block_count")?,
        hidden,
        n_heads,
        n_kv_heads: optional("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        ffn: need("feed_forward_length")?,
        vocab: checkpoint.tensor("token_embd.weight")?.shape.first().map_or(0, |&n| n as u32),
        max_context: need("context_length")?,
        norm_eps: m.f32(&key("attention.layer_norm_rms_epsilon"))?,
        window: optional("attention.sliding_window")?.filter(|&w| w > 0),
        rope: rope_spec(style, rot_dim, theta, &gguf_scaling(m, &key, checkpoint, rot_dim)?),
    };
    Ok((architecture, config))
}

fn gguf_scaling(
    m: &GgufMetadata,
    key: &impl Fn(&str) -> String,
    checkpoint: &Checkpoint,
    rot_dim: u32,
) -> Result<Scaling, ModelError> {
    const FACTORS: &str = "rope_freqs.weight";
    if checkpoint.contains(FACTORS) {
        let factors = checkpoint.vector(FACTORS)?;
        if factors.len() != rot_dim as usize / 2 {
            return Err(bad(FACTORS, &format!("{} factors", rot_dim / 2), factors.len()));
        }
        return Ok(Scaling::PerPair(factors));
    }
    let kind_key = key("rope.scaling.type");
    let kind = m.optional(&kind_key, GgufMetadata::str)?.unwrap_or("none");
    if kind == "none" {
        return Ok(Scaling::None);
    }
    let factor = m.f32(&key("rope.scaling.factor"))?;
    match kind {
        "linear" => Ok(Scaling::Linear { factor }),
        "yarn" => {
            let extra = m.optional(&key("rope.scaling.attn_factor"), GgufMetadata::f32)?.unwrap_or(1.0);
            Ok(Scaling::Yarn {
                factor,
                original_context: m.u32(&key("rope.scaling.original_context_length"))? as f32,
                beta_fast: BETA_FAST,
                beta_slow: BETA_SLOW,
                attention_factor: extra * Scaling::yarn_attention_factor(factor),
            })
        }
        other => Err(bad(&kind_key, "none, linear or yarn", other)),
    }
}

fn from_json(json: &serde_json::Value) -> Result<(Architecture, Config), ModelError> {
    let name = json["model_type"].as_str().ok_or_else(|| bad("model_type", "a name", "nothing"))?;
    let architecture = Architecture::find(name)?;
    let optional = |key: &str| json[key].as_u64().and_then(|n| u32::try_from(n).ok());
    let need = |key: &str| optional(key).ok_or_else(|| bad(key, "a count", &json[key]));
    match json["hidden_act"].as_str() {
        None | Some("silu") => {}
        Some(other) => return Err(bad("hidden_act", "silu", other)),
    }

    let (hidden, n_heads) = (need("hidden_size")?, need("num_attention_heads")?);
    let head_dim = optional("head_dim").unwrap_or(hidden / n_heads.max(1));
    let max_context = need("max_position_embeddings")?;
    // newer configurations keep theta beside the scaling
    let scaling_json = [&json["rope_scaling"], &json["rope_parameters"]].into_iter().find(|v| v.is_object());
    let theta =
        json["rope_theta"].as_f64().or_else(|| scaling_json?["rope_theta"].as_f64()).unwrap_or(10_000.0);
    let scaling = scaling_json.map_or(Ok(Scaling::None), |s| json_scaling(s, max_context))?;
    let windowed = json["use_sliding_window"].as_bool().unwrap_or(architecture == Architecture::Llama);
    let config = Config {
        n_layers: need("num_hidden_layers")?,
        hidden,
        n_heads,
        n_kv_heads: optional("num_key_value_heads").unwrap_or(n_heads),
        head_dim,
        ffn: need("intermediate_size")?,
        vocab: need("vocab_size")?,
        max_context,
        norm_eps: json["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
        window: optional("sliding_window").filter(|_| windowed),
        rope: rope_spec(RopeStyle::Half, head_dim, theta as f32, &scaling),
    };
    Ok((architecture, config))
}

fn json_scaling(json: &serde_json::Value, max_context: u32) -> Result<Scaling, ModelError> {
    let number = |key: &str| json[key].as_f64().map(|n| n as f32);
    let need =
        |key: &str| number(key).ok_or_else(|| bad(&format!("rope_scaling.{key}"), "a number", &json[key]));
    let original = || number("original_max_position_embeddings").unwrap_or(max_context as f32);
    match json["rope_type"].as_str().or(json["type"].as_str()) {
        None | Some("default") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear { factor: need("factor")? }),
        Some("llama3") => Ok(Scaling::Llama3 {
            factor: need("factor")?,
            low: need("low_freq_factor")?,
            high: need("high_freq_factor")?,
            original_context: original(),
        }),
        Some("yarn") => {
            let factor = need("factor")?;
            Ok(Scaling::Yarn {
                factor,
                original_context: original(),
                beta_fast: number("beta_fast").unwrap_or(BETA_FAST),
                beta_slow: number("beta_slow").unwrap_or(BETA_SLOW),
                attention_factor: number("attention_factor")
                    .unwrap_or_else(|| Scaling::yarn_attention_factor(factor)),
            })
        }
        Some(other) => Err(bad("rope_scaling.rope_type", "default, linear, llama3 or yarn", other)),
    }
}

fn rope_spec(style: RopeStyle, rot_dim: u32, theta: f32, scaling: &Scaling) -> RopeSpec {
    RopeSpec {
        style,
        inv_freq: rope::inv_freq(rot_dim.min(MAX_HEAD_DIM), theta, scaling),
        factor: scaling.attention_factor(),
    }
}
