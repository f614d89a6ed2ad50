//! `cargo xtask make-model`: the command line of `weights::synthetic`. It turns options into a recipe and has the
//! recipe written.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use weights::synthetic::{Arch, Quant, Recipe};

/// What to write. An option that is not given is taken from the preset.
#[derive(Args)]
pub(crate) struct MakeModelArgs {
    /// The file to write, or the directory for `--format hf`
    out: PathBuf,
    /// Where the sizes start from
    #[arg(long, value_enum, default_value = "tiny")]
    preset: Preset,
    /// File format
    #[arg(long, value_enum, default_value = "gguf")]
    format: Format,
    /// Architecture: llama, qwen2, qwen3, deepseek_v3, qwen3_moe or glm4_moe
    #[arg(long)]
    arch: Option<Arch>,
    /// Number format of the matrices: F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K Q4_K_M
    #[arg(long)]
    quant: Option<Quant>,
    /// Layers
    #[arg(long)]
    layers: Option<u32>,
    /// Width of the hidden state
    #[arg(long)]
    hidden: Option<u32>,
    /// Query heads
    #[arg(long)]
    heads: Option<u32>,
    /// Key and value heads
    #[arg(long)]
    kv_heads: Option<u32>,
    /// Width of one head; if only --hidden or --heads is given, hidden / heads
    #[arg(long)]
    head_dim: Option<u32>,
    /// Width of the feed-forward layer
    #[arg(long)]
    ffn: Option<u32>,
    /// Entries of the vocabulary
    #[arg(long)]
    vocab: Option<u32>,
    /// Longest context, in tokens
    #[arg(long)]
    context: Option<u32>,
    /// Use the embedding table as output head
    #[arg(long)]
    tie: bool,
    /// Fixes all values
    #[arg(long)]
    seed: Option<u64>,
    /// Safetensors files to share the weights out over (`--format hf`)
    #[arg(long, default_value_t = 1)]
    shards: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Preset {
    /// A few hundred kB
    Tiny,
    /// The benchmark model: 1.1 billion parameters, llama, Q4_0
    #[value(name = "1b")]
    OneBillion,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One GGUF file
    Gguf,
    /// A Hugging Face directory with safetensors
    Hf,
}

/// Writes the model and says what it is.
pub(crate) fn run(args: &MakeModelArgs) -> Result<()> {
    let recipe = args.recipe();
    let start = Instant::now();
    match args.format {
        Format::Gguf => {
            ensure!(args.shards == 1, "--shards {}: expected 1 for GGUF\nhint: add --format hf", args.shards);
            recipe.write_gguf(&args.out)?;
        }
        Format::Hf => recipe.write_hf_shards(&args.out, args.shards)?,
    }
    println!(
        "{}: {} {}, {:.1} million parameters, {} as GGUF, seed {}, {:.1} s",
        args.out.display(),
        recipe.arch,
        recipe.quant,
        recipe.n_parameters() as f64 / 1e6,
        recipe.n_bytes(),
        recipe.seed,
        start.elapsed().as_secs_f64(),
    );
    Ok(())
}

impl MakeModelArgs {
    fn recipe(&self) -> Recipe {
        let preset = match self.preset {
            Preset::Tiny => Recipe::tiny(Arch::Llama),
            Preset::OneBillion => Recipe::one_billion(),
        };
        let (hidden, n_heads) = (self.hidden.unwrap_or(preset.hidden), self.heads.unwrap_or(preset.n_heads));
        let head_dim = match (self.hidden, self.heads) {
            (None, None) => preset.head_dim,
            _ => hidden / n_heads.max(1),
        };
        Recipe {
            arch: self.arch.unwrap_or(preset.arch),
            n_layers: self.layers.unwrap_or(preset.n_layers),
            hidden,
            n_heads,
            n_kv_heads: self.kv_heads.unwrap_or(preset.n_kv_heads),
            head_dim: self.head_dim.unwrap_or(head_dim),
            ffn: self.ffn.unwrap_or(preset.ffn),
            vocab: self.vocab.unwrap_or(preset.vocab),
            quant: self.quant.unwrap_or(preset.quant),
            context: self.context.unwrap_or(preset.context),
            tied: self.tie || preset.tied,
            rope: preset.rope,
            seed: self.seed.unwrap_or(preset.seed),
        }
    }
}
