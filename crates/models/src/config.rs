//! A model's hyper-parameters, read from GGUF metadata or a `config.json` and checked before anything is allocated.

use backend::{RopeSpec, RopeStyle, RouterSpec};
use serde_json::Value;
use weights::{Checkpoint, GgufMetadata, Source};

use crate::{Architecture, ModelError, deepseek_v3, names::Side, qwen3_moe, rope, rope::Scaling};

/// Hyper-parameters of a decoder.
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
    /// Width of a head; of its values where attention is latent.
    pub head_dim: u32,
    /// Width of a dense feed-forward layer.
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
    /// Whether queries, keys and values must have biases.
    pub qkv_biases: bool,
    /// Whether heads of queries and keys are normalised.
    pub head_norms: bool,
    /// Latent attention, where the model has it.
    pub latent: Option<Latent>,
    /// Mixture of experts, where the model has it.
    pub experts: Option<Experts>,
}

/// Latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct Latent {
    /// Width of the queries' latent; without one they are projected at once.
    pub q_rank: Option<u32>,
    /// Width of the latent of keys and values.
    pub kv_rank: u32,
    /// Width of a head's part without rotation.
    pub nope_dim: u32,
    /// Width of a head's rotated part.
    pub rope_dim: u32,
    /// Width of a head's values.
    pub v_dim: u32,
    /// Multiplies `q·k` before the softmax.
    pub scale: f32,
}

/// Mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// Experts of a layer that are chosen among.
    pub n: u32,
    /// Width of each.
    pub ffn: u32,
    /// Width of all experts together that every token goes to; 0 for none.
    pub shared_ffn: u32,
    /// First layers, which have a dense feed-forward layer instead.
    pub n_dense_layers: u32,
    /// Whether scores are corrected for choosing.
    pub is_corrected: bool,
    /// How they are chosen.
    pub router: RouterSpec,
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
        let latent = |f: fn(&Latent) -> u32| self.latent.as_ref().map_or(0, f);
        let experts = |f: fn(&Experts) -> u32| self.experts.as_ref().map_or(0, f);
        let n = match side {
            Side::Hidden => self.hidden,
            Side::Head => self.head_dim,
            Side::QueryHeads => self.n_heads * self.head_dim,
            Side::KvHeads => self.n_kv_heads * self.head_dim,
            Side::Ffn => self.ffn,
            Side::Vocab => self.vocab,
            Side::QueryLatent => latent(|l| l.q_rank.unwrap_or(0)),
            Side::KvLatent => latent(|l| l.kv_rank),
            Side::KvLatentAndRope => latent(|l| l.kv_rank + l.rope_dim),
            Side::LatentQueries => self.n_heads * latent(|l| l.nope_dim + l.rope_dim),
            Side::LatentKeysAndValues => self.n_heads * latent(|l| l.nope_dim + l.v_dim),
            Side::LatentValues => self.n_heads * latent(|l| l.v_dim),
            Side::LatentKey => latent(|l| l.nope_dim),
            Side::LatentValue => latent(|l| l.v_dim),
            Side::Experts => experts(|e| e.n),
            Side::ExpertFfn => experts(|e| e.ffn),
            Side::SharedFfn => experts(|e| e.shared_ffn),
        };
        n as usize
    }

    /// The experts of a layer, if it has any.
    pub(crate) fn experts_of(&self, layer: u32) -> Option<&Experts> {
        self.experts.as_ref().filter(|e| layer >= e.n_dense_layers)
    }

    /// The width whose columns shards are ranges of; other feed-forward layers are cut in proportion.
    pub(crate) fn shard_ffn(&self) -> u32 {
        self.experts.as_ref().map_or(self.ffn, |e| e.ffn)
    }

    fn check(&self) -> Result<(), ModelError> {
        at_most(&[
            ("layers", self.n_layers, MAX_LAYERS),
            ("hidden size", self.hidden, MAX_COUNT),
            ("attention heads", self.n_heads, 1 << 12),
            ("KV heads", self.n_kv_heads, self.n_heads),
            ("head size", self.head_dim, MAX_HEAD_DIM),
            ("feed-forward size", self.ffn, MAX_COUNT),
            ("vocabulary size", self.vocab, MAX_COUNT),
            ("context length", self.max_context, 1 << 30),
        ])?;
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(bad(
                "KV heads",
                &format!("a divisor of {} attention heads", self.n_heads),
                self.n_kv_heads,
            ));
        }
        self.latent.as_ref().map_or(Ok(()), Latent::check)?;
        self.experts.as_ref().map_or(Ok(()), |e| e.check(self))?;
        let (n_pairs, width) =
            (self.rope.inv_freq.len() as u32, self.latent.as_ref().map_or(self.head_dim, |l| l.rope_dim));
        if n_pairs == 0 || n_pairs * 2 > width {
            return Err(bad("rotated values", &format!("2 to the head size {width}"), n_pairs * 2));
        }
        Ok(())
    }
}

impl Latent {
    fn check(&self) -> Result<(), ModelError> {
        at_most(&[
            ("latent of the queries", self.q_rank.unwrap_or(1), MAX_COUNT),
            ("latent of keys and values", self.kv_rank, 1 << 14),
            ("head size without rotation", self.nope_dim, MAX_HEAD_DIM),
            ("head size with rotation", self.rope_dim, MAX_HEAD_DIM),
            ("head size of values", self.v_dim, MAX_HEAD_DIM),
        ])
    }
}

impl Experts {
    fn check(&self, config: &Config) -> Result<(), ModelError> {
        let RouterSpec { n_groups, n_top_groups, top_k, .. } = self.router;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        at_most(&[
            ("experts", self.n, 1 << 14),
            ("expert size", self.ffn, config.ffn),
            ("groups of experts", count(n_groups), self.n),
            ("groups to choose from", count(n_top_groups), count(n_groups)),
        ])?;
        if !self.n.is_multiple_of(count(n_groups)) {
            return Err(bad("groups of experts", &format!("a divisor of {} experts", self.n), n_groups));
        }
        at_most(&[("experts of a token", count(top_k), self.n / count(n_groups) * count(n_top_groups))])?;
        if self.shared_ffn != 0 && !(self.ffn..=MAX_COUNT).contains(&self.shared_ffn) {
            let expected = format!("0 or {} to {MAX_COUNT}", self.ffn);
            return Err(bad("size of shared experts", &expected, self.shared_ffn));
        }
        Ok(())
    }
}

/// Whether counts lie between 1 and their bounds.
fn at_most(counts: &[(&str, u32, u32)]) -> Result<(), ModelError> {
    match counts.iter().find(|(_, found, max)| *found == 0 || found > max) {
        Some((key, found, max)) => Err(bad(key, &format!("1 to {max}"), found)),
        None => Ok(()),
    }
}

/// A value that is not what it should be.
pub(crate) fn bad(key: &str, expected: &str, found: impl std::fmt::Display) -> ModelError {
    ModelError::Config { key: key.to_owned(), expected: expected.to_owned(), found: found.to_string() }
}

/// Keys of a GGUF file's architecture.
pub(crate) struct Gguf<'a> {
    pub(crate) metadata: &'a GgufMetadata,
    architecture: &'a str,
}

impl Gguf<'_> {
    fn key(&self, suffix: &str) -> String {
        format!("{}.{suffix}", self.architecture)
    }

    pub(crate) fn need(&self, suffix: &str) -> Result<u32, ModelError> {
        Ok(self.metadata.u32(&self.key(suffix))?)
    }

    pub(crate) fn optional(&self, suffix: &str) -> Result<Option<u32>, ModelError> {
        Ok(self.metadata.optional(&self.key(suffix), GgufMetadata::u32)?)
    }

    pub(crate) fn number(&self, suffix: &str, default: f32) -> Result<f32, ModelError> {
        Ok(self.metadata.optional(&self.key(suffix), GgufMetadata::f32)?.unwrap_or(default))
    }

    pub(crate) fn flag(&self, suffix: &str) -> Result<bool, ModelError> {
        Ok(self.metadata.optional(&self.key(suffix), GgufMetadata::bool)?.unwrap_or(false))
    }

    /// Refuses any other number than the one this build knows.
    pub(crate) fn only(&self, suffix: &str, known: u32) -> Result<(), ModelError> {
        match self.optional(suffix)? {
            Some(found) if found != known => Err(bad(&self.key(suffix), &known.to_string(), found)),
            _ => Ok(()),
        }
    }
}

fn from_gguf(m: &GgufMetadata, checkpoint: &Checkpoint) -> Result<(Architecture, Config), ModelError> {
    let name = m.str("general.architecture")?;
    let architecture = Architecture::find(name)?;
    let keys = Gguf { metadata: m, architecture: name };
    let (latent, experts) = match architecture {
        Architecture::DeepseekV3 => {
            (Some(deepseek_v3::gguf_latent(&keys)?), Some(deepseek_v3::gguf_experts(&keys)?))
        }
        Architecture::Qwen3Moe => (None, Some(qwen3_moe::gguf_experts(&keys)?)),
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => (None, None),
        Architecture::Glm4Moe => {
            return Err(bad("general.architecture", "one that is read from GGUF files", name));
        }
    };
    let (hidden, n_heads) = (keys.need("embedding_length")?, keys.need("attention.head_count")?);
    let head_dim = keys.optional("attention.key_length")?.unwrap_or(hidden / n_heads.max(1));
    let theta = keys.number("rope.freq_base", 10_000.0)?;
    let rot_dim = keys.optional("rope.dimension_count")?.unwrap_or(head_dim);
    let style = match architecture {
        Architecture::Llama | Architecture::DeepseekV3 => RopeStyle::Interleaved,
        _ => RopeStyle::Half,
    };
    let n_kv_heads = keys.optional("attention.head_count_kv")?.filter(|_| latent.is_none());
    let config = Config {
        n_layers: keys.need("block_count")?,
        hidden,
        n_heads,
        n_kv_heads: n_kv_heads.unwrap_or(n_heads),
        head_dim: latent.as_ref().map_or(head_dim, |latent| latent.v_dim),
        ffn: keys.need("feed_forward_length")?,
        vocab: checkpoint.tensor("token_embd.weight")?.shape.first().map_or(0, |&n| n as u32),
        max_context: keys.need("context_length")?,
        norm_eps: m.f32(&keys.key("attention.layer_norm_rms_epsilon"))?,
        window: keys.optional("attention.sliding_window")?.filter(|&w| w > 0),
        rope: rope_spec(style, rot_dim, theta, &gguf_scaling(&keys, checkpoint, rot_dim)?),
        qkv_biases: architecture == Architecture::Qwen2,
        head_norms: matches!(architecture, Architecture::Qwen3 | Architecture::Qwen3Moe),
        latent,
        experts,
    };
    Ok((architecture, config))
}

fn gguf_scaling(keys: &Gguf<'_>, checkpoint: &Checkpoint, rot_dim: u32) -> Result<Scaling, ModelError> {
    let m = keys.metadata;
    const FACTORS: &str = "rope_freqs.weight";
    if checkpoint.contains(FACTORS) {
        let factors = checkpoint.vector(FACTORS)?;
        if factors.len() != rot_dim as usize / 2 {
            return Err(bad(FACTORS, &format!("{} factors", rot_dim / 2), factors.len()));
        }
        return Ok(Scaling::PerPair(factors));
    }
    let kind_key = keys.key("rope.scaling.type");
    let kind = m.optional(&kind_key, GgufMetadata::str)?.unwrap_or("none");
    if kind == "none" {
        return Ok(Scaling::None);
    }
    let factor = m.f32(&keys.key("rope.scaling.factor"))?;
    match kind {
        "linear" => Ok(Scaling::Linear { factor }),
        "yarn" => {
            let extra = keys.number("rope.scaling.attn_factor", 1.0)?;
            // what latent attention scales its scores by instead
            let elsewhere =
                rope::yarn_mscale(factor, 10.0 * keys.number("rope.scaling.yarn_log_multiplier", 0.0)?);
            Ok(Scaling::Yarn {
                factor,
                original_context: keys.need("rope.scaling.original_context_length")? as f32,
                beta_fast: BETA_FAST,
                beta_slow: BETA_SLOW,
                attention_factor: extra * rope::yarn_mscale(factor, 1.0) / elsewhere,
            })
        }
        other => Err(bad(&kind_key, "none, linear or yarn", other)),
    }
}

/// A configuration's counts and numbers by name.
pub(crate) struct Json<'a>(pub(crate) &'a Value);

impl Json<'_> {
    pub(crate) fn optional(&self, key: &str) -> Option<u32> {
        self.0[key].as_u64().and_then(|n| u32::try_from(n).ok())
    }

    pub(crate) fn need(&self, key: &str) -> Result<u32, ModelError> {
        self.optional(key).ok_or_else(|| bad(key, "a count", &self.0[key]))
    }

    /// A number, or what stands for it when it is left out.
    pub(crate) fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match &self.0[key] {
            Value::Null => Ok(default),
            value => value.as_f64().ok_or_else(|| bad(key, "a number", value)),
        }
    }

    /// A truth value; false when it is left out.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or(false)
    }

    /// Refuses any other value than the one this build knows; leaving it out says the same.
    pub(crate) fn only(&self, key: &str, known: &str) -> Result<(), ModelError> {
        match &self.0[key] {
            Value::Null => Ok(()),
            Value::String(found) if found == known => Ok(()),
            other => Err(bad(key, known, other)),
        }
    }

    /// The object that scales rotations; newer configurations keep theta there too.
    pub(crate) fn scaling(&self) -> Option<&Value> {
        [&self.0["rope_scaling"], &self.0["rope_parameters"]].into_iter().find(|v| v.is_object())
    }
}

/// The text network's part of a configuration.
pub(crate) fn text_network(json: &Value) -> &Value {
    json.get("text_config").filter(|nested| nested.is_object()).unwrap_or(json)
}

fn from_json(json: &Value) -> Result<(Architecture, Config), ModelError> {
    let json = Json(text_network(json));
    let name = json.0["model_type"].as_str().ok_or_else(|| bad("model_type", "a name", "nothing"))?;
    let architecture = Architecture::find(name)?;
    json.only("hidden_act", "silu")?;
    let latent = match architecture {
        Architecture::DeepseekV3 => Some(deepseek_v3::latent(&json)?),
        _ => None,
    };
    let experts = match architecture {
        Architecture::DeepseekV3 | Architecture::Glm4Moe => Some(deepseek_v3::routed_experts(&json)?),
        Architecture::Qwen3Moe => Some(qwen3_moe::experts(&json)?),
        Architecture::Llama | Architecture::Qwen2 | Architecture::Qwen3 => None,
    };

    let (hidden, n_heads) = (json.need("hidden_size")?, json.need("num_attention_heads")?);
    let head_dim = json.optional("head_dim").unwrap_or(hidden / n_heads.max(1));
    let max_context = json.need("max_position_embeddings")?;
    let scaling = json.scaling();
    let theta = json.0["rope_theta"].as_f64().or_else(|| scaling?["rope_theta"].as_f64()).unwrap_or(10_000.0);
    let scaling = scaling.map_or(Ok(Scaling::None), |s| json_scaling(s, max_context))?;
    let windowed = json.0["use_sliding_window"].as_bool().unwrap_or(architecture == Architecture::Llama);
    let (style, rot_dim) = match &latent {
        Some(latent) => (RopeStyle::Interleaved, latent.rope_dim),
        None => (RopeStyle::Half, partly_rotated(&json, head_dim)?),
    };
    let n_kv_heads = json.optional("num_key_value_heads").filter(|_| latent.is_none());
    let config = Config {
        n_layers: json.need("num_hidden_layers")?,
        hidden,
        n_heads,
        n_kv_heads: match latent {
            Some(_) => n_heads, // every head has keys and values of its own, out of one latent
            None => n_kv_heads.unwrap_or(n_heads),
        },
        head_dim: latent.as_ref().map_or(head_dim, |latent| latent.v_dim),
        ffn: json.need("intermediate_size")?,
        vocab: json.need("vocab_size")?,
        max_context,
        norm_eps: json.number("rms_norm_eps", 1e-6)? as f32,
        window: json.optional("sliding_window").filter(|_| windowed),
        rope: rope_spec(style, rot_dim, theta as f32, &scaling),
        qkv_biases: architecture == Architecture::Qwen2
            || (architecture == Architecture::Glm4Moe && json.flag("attention_bias")),
        head_norms: match architecture {
            Architecture::Qwen3 | Architecture::Qwen3Moe => true,
            Architecture::Glm4Moe => json.flag("use_qk_norm"),
            Architecture::Llama | Architecture::Qwen2 | Architecture::DeepseekV3 => false,
        },
        latent,
        experts,
    };
    Ok((architecture, config))
}

/// Values of a head that turn.
fn partly_rotated(json: &Json<'_>, head_dim: u32) -> Result<u32, ModelError> {
    const KEY: &str = "partial_rotary_factor";
    let inner = json.scaling().and_then(|scaling| scaling[KEY].as_f64()).unwrap_or(1.0);
    let part = json.number(KEY, inner)?;
    if !(0.0..=1.0).contains(&part) {
        return Err(bad(KEY, "0 to 1", part));
    }
    Ok((f64::from(head_dim) * part) as u32)
}

fn json_scaling(json: &Value, max_context: u32) -> Result<Scaling, ModelError> {
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
            let [mscale, all_dim] = [("mscale", 1.0), ("mscale_all_dim", 0.0)]
                .map(|(key, default)| number(key).unwrap_or(default));
            Ok(Scaling::Yarn {
                factor,
                original_context: original(),
                beta_fast: number("beta_fast").unwrap_or(BETA_FAST),
                beta_slow: number("beta_slow").unwrap_or(BETA_SLOW),
                attention_factor: number("attention_factor").unwrap_or_else(|| {
                    rope::yarn_mscale(factor, mscale) / rope::yarn_mscale(factor, all_dim)
                }),
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
