//! The models that are measured, in every number format: made once, kept below the target folder. SmolLM2 is quantised
//! by llama.cpp itself, the random one is written by `weights`. Also what reading and multiplying one token's weights
//! means in bytes and operations. Nothing here knows how fast anything is.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use weights::{
    Checkpoint, Source,
    synthetic::{Quant, Recipe},
};

use crate::python::Python;

/// Models from this size on do not fit any cache: they are held against the machine's own limits.
const LARGE_BYTES: u64 = 600_000_000;
/// What the file calls a control token.
const CONTROL_TOKEN: i32 = 3;

/// Which model.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Name {
    /// SmolLM2-135M-Instruct
    #[value(name = "smollm2")]
    SmolLm2,
    /// A random llama of 1.1 billion parameters
    #[value(name = "1b")]
    OneBillion,
}

/// One file.
pub(super) struct Model {
    pub(super) name: Name,
    pub(super) quant: Quant,
    pub(super) path: PathBuf,
    /// Whether it is held against the machine's limits.
    pub(super) is_large: bool,
    /// Bytes of the matrices that a decode step reads whole: all but an embedding table that is no output head.
    pub(super) decode_bytes: u64,
    /// Values in the matrices that every token of a prompt is multiplied with; the output head sees the last one only.
    pub(super) prefill_values: u64,
    /// Tokens that may end an answer.
    pub(super) control_tokens: Vec<u32>,
}

impl Name {
    /// As a table names it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Name::SmolLm2 => "SmolLM2-135M",
            Name::OneBillion => "random llama 1.1 B",
        }
    }

    fn file_stem(self) -> &'static str {
        match self {
            Name::SmolLm2 => "smollm2-135m",
            Name::OneBillion => "llama-1b",
        }
    }
}

impl Model {
    /// As a table names it.
    pub(super) fn title(&self) -> String {
        format!("{} {}", self.name.title(), self.quant)
    }

    fn open(name: Name, quant: Quant, path: PathBuf) -> Result<Model> {
        let checkpoint = Checkpoint::open(&path)?;
        let (mut decode_bytes, mut prefill_values) = (0, 0);
        for tensor in checkpoint.tensor_names() {
            let tensor = checkpoint.tensor(tensor)?;
            let (is_table, is_head) = (tensor.name == "token_embd.weight", tensor.name == "output.weight");
            if tensor.shape.len() == 2 && !(is_table && checkpoint.contains("output.weight")) {
                decode_bytes += tensor.bytes.len() as u64;
                if !is_table && !is_head {
                    prefill_values += tensor.shape.iter().product::<usize>() as u64;
                }
            }
        }
        let Source::Gguf(metadata) = checkpoint.metadata() else {
            anyhow::bail!("{}: expected a GGUF file", path.display());
        };
        let kinds = metadata.i32_array("tokenizer.ggml.token_type")?;
        let control_tokens = (0u32..).zip(kinds).filter(|(_, kind)| *kind == CONTROL_TOKEN).map(|(id, _)| id);
        let control_tokens = control_tokens.collect();
        let is_large = fs::metadata(&path)?.len() >= LARGE_BYTES;
        Ok(Model { name, quant, path, is_large, decode_bytes, prefill_values, control_tokens })
    }
}

/// Every model in every format, made if it is not in `folder` yet. `onefold` fetches SmolLM2, `python` quantises it.
pub(super) fn prepare(
    names: &[Name],
    quants: &[Quant],
    folder: &Path,
    onefold: &Path,
    python: &Python,
) -> Result<Vec<Model>> {
    fs::create_dir_all(folder)?;
    let mut models = Vec::new();
    for &name in names {
        let path = |quant: Quant| folder.join(format!("{}-{quant}.gguf", name.file_stem()));
        let missing: Vec<_> = quants.iter().filter(|quant| !path(**quant).exists()).copied().collect();
        if !missing.is_empty() {
            let made = missing.iter().map(Quant::to_string).collect::<Vec<_>>().join(", ");
            eprintln!("making {} in {made}", name.title());
            match name {
                Name::SmolLm2 => quantise_smollm2(&missing, folder, path, onefold, python)?,
                Name::OneBillion => {
                    for quant in missing {
                        let recipe = Recipe { quant, ..Recipe::one_billion() };
                        whole(&path(quant), |part| Ok(recipe.write_gguf(part)?))?;
                    }
                }
            }
        }
        for &quant in quants {
            models.push(Model::open(name, quant, path(quant))?);
        }
    }
    Ok(models)
}

/// From the file that everybody can fetch, by way of what it means in F32.
fn quantise_smollm2(
    quants: &[Quant],
    folder: &Path,
    path: impl Fn(Quant) -> PathBuf,
    onefold: &Path,
    python: &Python,
) -> Result<()> {
    let pull = Command::new(onefold).args(["pull", "smollm2"]).output()?;
    let errors = String::from_utf8_lossy(&pull.stderr);
    ensure!(pull.status.success(), "{} pull smollm2 failed: {errors}", onefold.display());
    let fetched = String::from_utf8(pull.stdout).context("a path that is not text")?;
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR"));
    let exact = folder.join("smollm2-135m-F32.gguf");
    python.run(&scripts.join("golden/dequantize.py"), &[fetched.trim(), text(&exact)?])?;
    for &quant in quants {
        let (script, format) = (scripts.join("bench/quantize.py"), quant.to_string());
        whole(&path(quant), |part| python.run(&script, &[text(&exact)?, text(part)?, &format]).map(drop))?;
    }
    fs::remove_file(&exact)?;
    Ok(())
}

/// Has a file written under another name and renames it, so that half a file is never taken for a whole one.
fn whole(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let part = path.with_extension("part");
    write(&part)?;
    Ok(fs::rename(part, path)?)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: expected a path that is text", path.display()))
}

#[cfg(test)]
mod tests {
    use base::DType;
    use weights::synthetic::Arch;

    use super::*;

    fn open(recipe: &Recipe, file: &str) -> Model {
        let path = std::env::temp_dir().join(format!("onefold-xtask-{}-{file}.gguf", std::process::id()));
        recipe.write_gguf(&path).unwrap();
        let model = Model::open(Name::OneBillion, recipe.quant, path.clone());
        fs::remove_file(path).unwrap();
        model.unwrap()
    }

    #[test]
    fn a_token_reads_every_matrix_but_a_table_that_is_no_head() {
        let recipe = Recipe { quant: Quant::Uniform(DType::F32), ..Recipe::tiny(Arch::Llama) };
        let (table, norms) = (u64::from(recipe.vocab * recipe.hidden), u64::from(5 * recipe.hidden));
        let untied = open(&recipe, "untied");
        assert_eq!(untied.decode_bytes, recipe.n_bytes().0 - 4 * (table + norms));
        assert_eq!(untied.prefill_values, recipe.n_parameters() - 2 * table - norms);
        let recipe = Recipe { tied: true, ..recipe };
        let tied = open(&recipe, "tied");
        assert_eq!(tied.decode_bytes, recipe.n_bytes().0 - 4 * norms);
        assert_eq!(tied.prefill_values, untied.prefill_values);
        assert!(!tied.is_large);
        assert_eq!(tied.control_tokens.len(), 3);
    }
}
