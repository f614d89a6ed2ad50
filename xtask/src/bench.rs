//! `cargo xtask bench`: onefold beside llama.cpp on the same file, threads and tests, in turns, in one run. Prints one table with
//! medians, spread and ratios.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use crate::python::Python;

/// What to measure.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// GGUF files
    #[arg(required = true)]
    models: Vec<PathBuf>,
    /// The program; `target/release/onefold` when absent
    #[arg(long)]
    onefold: Option<PathBuf>,
    /// Tokens of the prompt in the prefill test
    #[arg(short = 'p', default_value_t = 512)]
    prompt: u32,
    /// Tokens of the decode test
    #[arg(short = 'n', default_value_t = 128)]
    generate: u32,
    /// Counted runs of each test
    #[arg(long, default_value_t = 5)]
    repeat: u32,
}

/// How each side is run.
struct Setup {
    name: &'static str,
    tp: u32,
    threads: u32,
    /// Threads of llama.cpp, which has one process.
    peer_threads: u32,
}

const SETUPS: [Setup; 3] = [
    Setup { name: "1 thread", tp: 1, threads: 1, peer_threads: 1 },
    Setup { name: "2 threads", tp: 1, threads: 2, peer_threads: 2 },
    Setup { name: "2 ranks × 1 thread", tp: 2, threads: 1, peer_threads: 2 },
];

/// Measures and prints a Markdown table.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    let python = Python::with_llama_cpp()?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = args.onefold.clone().unwrap_or_else(|| root.join("../target/release/onefold"));
    ensure!(program.exists(), "{} is not there\nhint: cargo build --release", program.display());
    println!("| model | setup | test | onefold tok/s (min-max) | llama.cpp tok/s (min-max) | ratio |");
    println!("|---|---|---|---|---|---|");
    for model in &args.models {
        for setup in &SETUPS {
            let ours = onefold(&program, model, setup, args)?;
            let theirs = llama_cpp(&python, root, model, setup, args)?;
            print_rows(model, setup, &ours, &theirs)?;
        }
    }
    Ok(())
}

fn onefold(program: &Path, model: &Path, setup: &Setup, args: &BenchArgs) -> Result<Value> {
    let output = Command::new(program)
        .arg("bench")
        .arg(model)
        .args(["--json", "--tp", &setup.tp.to_string(), "--threads", &setup.threads.to_string()])
        .args(["-p", &args.prompt.to_string(), "-n", &args.generate.to_string()])
        .args(["--repeat", &args.repeat.to_string(), "--context", "1024"])
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn llama_cpp(python: &Python, root: &Path, model: &Path, setup: &Setup, args: &BenchArgs) -> Result<Value> {
    let script = root.join("bench/llama_cpp_bench.py");
    let model = model.to_str().context("the model's path is not text")?;
    let (threads, prompt) = (setup.peer_threads.to_string(), args.prompt.to_string());
    let (generate, repeat) = (args.generate.to_string(), args.repeat.to_string());
    let printed = python
        .run(&script, &[model, "--threads", &threads, "-p", &prompt, "-n", &generate, "--repeat", &repeat])?;
    Ok(serde_json::from_str(&printed)?)
}

fn print_rows(model: &Path, setup: &Setup, ours: &Value, theirs: &Value) -> Result<()> {
    let tests = |side: &Value| side["tests"].as_array().cloned().unwrap_or_default();
    for (a, b) in tests(ours).iter().zip(&tests(theirs)) {
        let (a_rates, b_rates) = (Rates::read(a)?, Rates::read(b)?);
        println!(
            "| {} | {} | {} | {} | {} | {:.2} |",
            model.file_stem().unwrap_or_default().to_string_lossy(),
            setup.name,
            a["test"].as_str().unwrap_or_default(),
            a_rates.text(),
            b_rates.text(),
            a_rates.median / b_rates.median
        );
    }
    Ok(())
}

struct Rates {
    median: f64,
    min: f64,
    max: f64,
}

impl Rates {
    fn read(test: &Value) -> Result<Rates> {
        let mut rates: Vec<f64> =
            test["tok_s"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        ensure!(!rates.is_empty(), "a test without runs: {test}");
        rates.sort_by(f64::total_cmp);
        let n = rates.len();
        Ok(Rates { median: (rates[(n - 1) / 2] + rates[n / 2]) / 2.0, min: rates[0], max: rates[n - 1] })
    }

    fn text(&self) -> String {
        format!("{:.1} ({:.1}-{:.1})", self.median, self.min, self.max)
    }
}
