//! Models with random weights in the real file formats, so that tests and benchmarks need no download. A recipe and
//! its seed fix every byte; the GGUF file and the Hugging Face directory of one recipe hold the same network.
//! It writes what such files hold; how a model computes with it is not known here.

mod gguf;
mod hf;
mod packed;
mod random;
mod tensors;
mod vocabulary;

use std::{fmt, fs, io, path::Path, str::FromStr};

use base::{Bytes, DType};

use crate::WriteError;
pub use packed::Packing;
use tensors::Planned;

/// The smallest vocabulary: every byte and the special tokens.
pub const MIN_VOCAB: u32 = vocabulary::N_FIXED;
/// How far a scaled rope reaches beyond the original context.
pub const ROPE_FACTOR: f32 = 4.0;
/// Context before scaling, in tokens.
pub const ROPE_ORIGINAL_CONTEXT: u32 = 64;
/// Largest width, head count, vocabulary or context of a recipe; no real model comes near.
const MAX_SIZE: u32 = 1 << 24;
/// Most layers of a recipe.
const MAX_LAYERS: u32 = 10_000;
/// Most safetensors files of one model; their names have five digits.
const MAX_SHARDS: u32 = 99_999;

/// Everything that fixes a random model.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Which architecture's tensors and keys.
    pub arch: Arch,
    /// Layers.
    pub n_layers: u32,
    /// Width of the hidden state.
    pub hidden: u32,
    /// Query heads.
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: u32,
    /// Width of one head; even.
    pub head_dim: u32,
    /// Width of the feed-forward layer.
    pub ffn: u32,
    /// Entries of the vocabulary.
    pub vocab: u32,
    /// Number formats of the matrices; norms and biases are F32 in GGUF.
    pub quant: Quant,
    /// Longest context the model claims to be made for, in tokens.
    pub context: u32,
    /// How positions are stretched.
    pub rope: Rope,
    /// The output head is the embedding table.
    pub tied: bool,
    /// Fixes all values.
    pub seed: u64,
}

/// Architectures that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the names are the architectures' own
pub enum Arch {
    Llama,
    Qwen2,
    Qwen3,
    DeepseekV3,
    Qwen3Moe,
    Glm4Moe,
}

/// Widths and counts of latent attention and experts, which follow from a recipe's others.
#[derive(Clone, Copy)]
struct Experts {
    n: u32,
    top_k: u32,
    n_groups: u32,
    n_top_groups: u32,
    /// First layers that have none.
    n_dense_layers: u32,
    /// Width of one.
    ffn: u32,
    n_shared: u32,
    scale: f32,
}

/// Latents' widths are multiples of this, so that every 32-value format fits.
const LATENT_UNIT: u32 = 32;

/// How a model stretches its positions, each way with one fixed set of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rope {
    /// Not at all.
    Plain,
    /// All of them divided by [`ROPE_FACTOR`].
    Linear,
    /// YaRN by [`ROPE_FACTOR`] from [`ROPE_ORIGINAL_CONTEXT`] tokens.
    Yarn,
    /// A factor for each pair of values, as GGUF files of Llama 3.1 have it; such a recipe has no Hugging Face form.
    PerPair,
}

/// Number formats of a model's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quant {
    /// One format for all.
    Uniform(DType),
    /// The usual mix of that name: Q4_K, with the head and part of the values and down projections in Q6_K.
    Q4KM,
}

/// Why a recipe cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A number of the recipe is of no use.
    #[error("{what}: expected {expected}, found {found}")]
    Size {
        /// Which one.
        what: &'static str,
        /// What would do.
        expected: String,
        /// What the recipe says.
        found: u64,
    },
    /// A row is not whole blocks.
    #[error(
        "tensor {tensor}: expected rows of a multiple of {block_len} values for {dtype}, found {n_cols}\n\
         hint: choose sizes that are multiples of {block_len}, or another format"
    )]
    Row {
        /// The tensor.
        tensor: String,
        /// Its format.
        dtype: DType,
        /// Values in a block of that format.
        block_len: usize,
        /// Values in a row.
        n_cols: usize,
    },
    /// A format that safetensors does not have.
    #[error(
        "a Hugging Face directory holds F32, F16 or BF16, found {found}\n\
         hint: write this format as GGUF"
    )]
    HfDType {
        /// The recipe's format.
        found: Quant,
    },
    /// An architecture whose GGUF files are not known here.
    #[error("a GGUF file of {found}: expected another architecture\nhint: write a Hugging Face directory")]
    GgufArch {
        /// The recipe's architecture.
        found: Arch,
    },
    /// A rope that a Hugging Face configuration has no words for.
    #[error(
        "a Hugging Face directory has no factors for each pair of values\nhint: write this recipe as GGUF"
    )]
    HfRope,
    /// A name that is none.
    #[error("expected one of {expected}, found {found:?}")]
    Name {
        /// All names.
        expected: String,
        /// What was given.
        found: String,
    },
    /// The file cannot be written.
    #[error("cannot write {path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

impl Recipe {
    /// A model of a few hundred kB in F32. Its sizes are multiples of 32, so every 32-value format fits.
    pub fn tiny(arch: Arch) -> Recipe {
        Recipe {
            arch,
            n_layers: 2,
            hidden: 64,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 16,
            ffn: 192,
            vocab: 512,
            quant: Quant::Uniform(DType::F32),
            context: 512,
            rope: Rope::Plain,
            tied: false,
            seed: 1,
        }
    }

    /// Tiny models that differ in all that a forward pass must get right, with names; golden files are made of them.
    pub fn tiny_family() -> [(&'static str, Recipe); 6] {
        let scaled = |rope: Rope| Recipe { rope, ..Recipe::tiny(Arch::Llama) };
        [
            ("tiny-llama", Recipe::tiny(Arch::Llama)),
            ("tiny-llama-linear", scaled(Rope::Linear)),
            ("tiny-llama-yarn", scaled(Rope::Yarn)),
            ("tiny-llama-per-pair", scaled(Rope::PerPair)),
            ("tiny-qwen2", Recipe::tiny(Arch::Qwen2)),
            ("tiny-qwen3", Recipe::tiny(Arch::Qwen3)),
        ]
    }

    /// The same of models with experts.
    pub fn expert_family() -> [(&'static str, Recipe); 4] {
        let tiny = Recipe::tiny(Arch::DeepseekV3);
        [
            ("tiny-deepseek", Recipe { n_layers: 3, ..tiny.clone() }),
            ("tiny-deepseek-yarn", Recipe { rope: Rope::Yarn, ..tiny }),
            ("tiny-qwen3-moe", Recipe::tiny(Arch::Qwen3Moe)),
            ("tiny-glm4-moe", Recipe::tiny(Arch::Glm4Moe)),
        ]
    }

    /// Experts of the architectures that have them.
    fn experts(&self) -> Option<Experts> {
        let chosen_in_groups = Experts {
            n: 8,
            top_k: 3,
            n_groups: 4,
            n_top_groups: 2,
            n_dense_layers: 1,
            ffn: self.ffn / 2,
            n_shared: 1,
            scale: 2.5,
        };
        match self.arch {
            Arch::Llama | Arch::Qwen2 | Arch::Qwen3 => None,
            Arch::DeepseekV3 => Some(chosen_in_groups),
            Arch::Glm4Moe => Some(Experts { n_groups: 1, n_top_groups: 1, ..chosen_in_groups }),
            Arch::Qwen3Moe => Some(Experts {
                n_groups: 1,
                n_top_groups: 1,
                n_dense_layers: 0,
                n_shared: 0,
                scale: 1.0,
                ..chosen_in_groups
            }),
        }
    }

    /// Width of the latent of keys and values.
    fn kv_rank(&self) -> u32 {
        (self.hidden / 2 / LATENT_UNIT).max(1) * LATENT_UNIT
    }

    /// Width of the latent of queries.
    fn q_rank(&self) -> u32 {
        self.kv_rank() + LATENT_UNIT
    }

    /// Width of the rotated part of a head with latent attention, beside `head_dim` values without rotation.
    fn rope_dim(&self) -> u32 {
        self.head_dim / 4 * 2
    }

    /// The benchmark model: a llama of 1.1 billion parameters in Q4_0.
    pub fn one_billion() -> Recipe {
        Recipe {
            arch: Arch::Llama,
            n_layers: 16,
            hidden: 2048,
            n_heads: 32,
            n_kv_heads: 8,
            head_dim: 64,
            ffn: 8192,
            vocab: 32_768,
            quant: Quant::Uniform(DType::Q4_0),
            context: 8192,
            rope: Rope::Plain,
            tied: false,
            seed: 1,
        }
    }

    /// Number of parameters.
    pub fn n_parameters(&self) -> u64 {
        tensors::plan(self).iter().map(|t| t.info.n_values().unwrap_or(0) as u64).sum()
    }

    /// Bytes of all tensors as GGUF.
    pub fn n_bytes(&self) -> Bytes {
        Bytes(tensors::plan(self).iter().map(|t| t.info.n_bytes().unwrap_or(0) as u64).sum())
    }

    /// Writes a GGUF file.
    pub fn write_gguf(&self, path: impl AsRef<Path>) -> Result<(), RecipeError> {
        if !self.arch.has_gguf() {
            return Err(RecipeError::GgufArch { found: self.arch });
        }
        gguf::write(self, &self.checked_plan()?, path.as_ref())
    }

    /// Writes a Hugging Face directory with one safetensors file; creates the directory.
    pub fn write_hf(&self, dir: impl AsRef<Path>) -> Result<(), RecipeError> {
        self.write_hf_shards(dir, 1)
    }

    /// The same with the weights in `n_shards` files and an index.
    pub fn write_hf_shards(&self, dir: impl AsRef<Path>, n_shards: u32) -> Result<(), RecipeError> {
        if matches!(self.quant, Quant::Q4KM) || matches!(self.quant, Quant::Uniform(d) if d.block_len() > 1) {
            return Err(RecipeError::HfDType { found: self.quant });
        }
        if self.rope == Rope::PerPair {
            return Err(RecipeError::HfRope);
        }
        let planned = self.checked_plan()?;
        check("--shards", u64::from(n_shards), 1, u64::from(MAX_SHARDS).min(planned.len() as u64))?;
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(|source| RecipeError::Io { path: dir.to_owned(), source })?;
        hf::write(self, &planned, dir, n_shards)
    }

    /// Writes a Hugging Face directory with one safetensors file in which matrices are codes with scales apart.
    pub fn write_hf_packed(&self, dir: impl AsRef<Path>, packing: Packing) -> Result<(), RecipeError> {
        let (planned, dir) = (self.checked_plan()?, dir.as_ref());
        fs::create_dir_all(dir).map_err(|source| RecipeError::Io { path: dir.to_owned(), source })?;
        packed::write(self, &planned, dir, packing)
    }

    fn checked_plan(&self) -> Result<Vec<Planned>, RecipeError> {
        self.check_sizes()?;
        let planned = tensors::plan(self);
        for Planned { info, .. } in &planned {
            let n_cols = info.shape.last().copied().unwrap_or(0);
            if info.n_bytes().is_none() {
                let (dtype, block_len) = (info.dtype, info.dtype.block_len());
                return Err(RecipeError::Row { tensor: info.name.clone(), dtype, block_len, n_cols });
            }
        }
        Ok(planned)
    }

    fn check_sizes(&self) -> Result<(), RecipeError> {
        let sizes = [
            ("layers", self.n_layers, 1, MAX_LAYERS),
            ("hidden", self.hidden, 1, MAX_SIZE),
            ("heads", self.n_heads, 1, MAX_SIZE),
            ("kv-heads", self.n_kv_heads, 1, self.n_heads),
            ("head-dim", self.head_dim, 2, MAX_SIZE),
            ("ffn", self.ffn, 1, MAX_SIZE),
            ("vocab", self.vocab, MIN_VOCAB, MAX_SIZE),
            ("context", self.context, 1, MAX_SIZE),
        ];
        for (what, found, least, most) in sizes {
            check(what, u64::from(found), u64::from(least), u64::from(most))?;
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            let expected = format!("a divisor of {} heads", self.n_heads);
            return Err(RecipeError::Size { what: "kv-heads", expected, found: u64::from(self.n_kv_heads) });
        }
        if !self.head_dim.is_multiple_of(2) {
            let expected = "an even number".to_owned();
            return Err(RecipeError::Size { what: "head-dim", expected, found: u64::from(self.head_dim) });
        }
        let width = u64::from(self.n_heads) * u64::from(self.head_dim);
        if self.arch == Arch::Qwen2 && width != u64::from(self.hidden) {
            let expected = format!("{width}, the width of all heads, as qwen2 files cannot say another");
            return Err(RecipeError::Size { what: "hidden", expected, found: u64::from(self.hidden) });
        }
        Ok(())
    }
}

fn check(what: &'static str, found: u64, least: u64, most: u64) -> Result<(), RecipeError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(RecipeError::Size { what, expected: format!("{least} to {most}"), found })
}

impl Arch {
    /// Every architecture.
    pub const ALL: [Arch; 6] =
        [Arch::Llama, Arch::Qwen2, Arch::Qwen3, Arch::DeepseekV3, Arch::Qwen3Moe, Arch::Glm4Moe];

    /// Its name in a `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Llama => "llama",
            Arch::Qwen2 => "qwen2",
            Arch::Qwen3 => "qwen3",
            Arch::DeepseekV3 => "deepseek_v3",
            Arch::Qwen3Moe => "qwen3_moe",
            Arch::Glm4Moe => "glm4_moe",
        }
    }

    /// Whether it can be written as GGUF.
    pub fn has_gguf(self) -> bool {
        self != Arch::Glm4Moe
    }

    /// Its name in a GGUF file.
    pub fn gguf_name(self) -> &'static str {
        match self {
            Arch::DeepseekV3 => "deepseek2",
            Arch::Qwen3Moe => "qwen3moe",
            Arch::Glm4Moe => "glm4moe",
            _ => self.name(),
        }
    }

    /// Base of the rope frequencies.
    fn rope_theta(self) -> f32 {
        match self {
            Arch::Llama | Arch::DeepseekV3 => 10_000.0,
            Arch::Qwen2 | Arch::Qwen3 | Arch::Qwen3Moe | Arch::Glm4Moe => 1_000_000.0,
        }
    }
}

/// Added to the mean square in every norm.
const RMS_EPSILON: f32 = 1e-5;

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Arch {
    type Err = RecipeError;

    fn from_str(s: &str) -> Result<Arch, RecipeError> {
        Arch::ALL.into_iter().find(|arch| arch.name() == s).ok_or_else(|| RecipeError::Name {
            expected: Arch::ALL.map(Arch::name).join(" "),
            found: s.to_owned(),
        })
    }
}

impl fmt::Display for Quant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Quant::Uniform(dtype) => dtype.fmt(f),
            Quant::Q4KM => f.pad("Q4_K_M"),
        }
    }
}

impl FromStr for Quant {
    type Err = RecipeError;

    fn from_str(s: &str) -> Result<Quant, RecipeError> {
        let mut all = DType::ALL.into_iter().map(Quant::Uniform).chain([Quant::Q4KM]);
        all.find(|quant| quant.to_string() == s).ok_or_else(|| RecipeError::Name {
            expected: format!("{} Q4_K_M", DType::ALL.map(DType::name).join(" ")),
            found: s.to_owned(),
        })
    }
}
