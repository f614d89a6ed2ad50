//! `cargo xtask golden`: has engines that nobody here wrote answer fixed prompts and keeps their answers as files, so that
//! tests can compare without them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use weights::synthetic::Recipe;

use crate::python::Python;

/// Which models to answer with.
#[derive(Args)]
pub(crate) struct GoldenArgs {
    /// SmolLM2-135M-Instruct in Q4_1, as `onefold pull smollm2` prints its path
    smollm2: PathBuf,
}

const RANDOM_PROMPTS: &str = "8";

/// Writes all golden files.
pub(crate) fn run(args: &GoldenArgs) -> Result<()> {
    let python = Python::with_llama_cpp()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = root.join("golden");
    let out = root.join("../crates/cli/tests/golden");
    let prompts = scripts.join("prompts.txt");
    fs::create_dir_all(&out)?;

    let models = root.join("../target/golden");
    fs::create_dir_all(&models)?;
    eprintln!("texts and their tokens");
    python.run(&scripts.join("text.py"), &[text(&args.smollm2)])?;

    let answer = |model: &Path, file: &str, options: &[&str]| {
        let out = out.join(file);
        let mut all = vec![text(model), text(&out)];
        all.extend(options);
        eprintln!("{}", out.display());
        python.run(&scripts.join("models.py"), &all).map(drop)
    };
    for (name, recipe) in Recipe::tiny_family() {
        let model = models.join(format!("{name}.gguf"));
        recipe.write_gguf(&model)?;
        answer(&model, &format!("{name}.json"), &["--random", RANDOM_PROMPTS])?;
    }
    let exact = models.join("smollm2-135m-f32.gguf");
    python.run(&scripts.join("dequantize.py"), &[text(&args.smollm2), text(&exact)])?;
    let prompts = ["--prompts", text(&prompts)];
    answer(&args.smollm2, "smollm2-135m.json", &[&prompts[..], &["--exact", text(&exact)]].concat())?;
    answer(&exact, "smollm2-135m-f32.json", &prompts)?;
    fs::remove_file(&exact)?;
    Ok(())
}

/// A path as an argument; ours are all text.
fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}
