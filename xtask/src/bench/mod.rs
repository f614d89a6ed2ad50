//! `cargo xtask bench`: onefold beside llama.cpp on the same files, threads and tests, in turns, in one run. Rows are
//! shown as they come and make one table at the end. How something is measured is known in the modules below;
//! `bench/README.md` tells it to people.

mod llama;
mod load;
mod models;
mod roofline;
mod server;
mod speed;
mod streams;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum, value_parser};
use hw::Machine;
use serde_json::json;
use weights::synthetic::Quant;

use crate::{peer, python::Python, tidy};
use models::Model;
use roofline::Meter;
use table::Row;

/// Threads of a server.
const N_SERVER_THREADS: u32 = 2;
/// Token ids that mean ordinary text in the vocabularies of all models.
const ORDINARY_TOKENS: std::ops::Range<u64> = 1_000..30_000;

/// What to measure; without options, everything, which takes an hour or two.
#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Models
    #[arg(long, value_enum, value_delimiter = ',', default_value = "smollm2,1b")]
    models: Vec<models::Name>,
    /// Number formats of their matrices; servers are measured with the first
    #[arg(long, value_delimiter = ',', default_value = "Q4_0,Q4_1,Q8_0,Q4_K_M,BF16")]
    formats: Vec<Quant>,
    /// Tests
    #[arg(long, value_enum, value_delimiter = ',', default_value = "decode,prefill,streams,load")]
    tests: Vec<Test>,
    /// Counted runs of each test
    #[arg(long, default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    repeat: u32,
    /// The program; the one in the target folder's release when absent
    #[arg(long)]
    onefold: Option<PathBuf>,
    /// llama.cpp's server; the one that `cargo xtask peer` built when absent
    #[arg(long)]
    llama_server: Option<PathBuf>,
    /// Write every run there
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Kinds of tests.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Test {
    /// 128 tokens, one after the other
    Decode,
    /// A prompt of 512 tokens
    Prefill,
    /// 1 to 16 clients of a server
    Streams,
    /// From a server's start to its first token
    Load,
}

/// All that measuring needs.
struct Bench {
    tests: Vec<Test>,
    n_runs: u32,
    onefold: PathBuf,
    python: Python,
    /// There if a test needs it.
    llama_server: Option<PathBuf>,
    meter: Meter,
}

/// Rows so far, and what could not be measured.
#[derive(Default)]
struct Results {
    rows: Vec<Row>,
    failures: Vec<String>,
}

/// Measures and prints a Markdown table.
pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    let metadata = tidy::metadata()?;
    let target = Path::new(metadata["target_directory"].as_str().context("cargo names no target_directory")?);
    let bench = Bench::new(args, target)?;
    let machine = machine(&bench)?;
    eprintln!("{machine}");
    let folder = target.join("bench/models");
    let models = models::prepare(&args.models, &args.formats, &folder, &bench.onefold, &bench.python)?;
    let mut results = Results::default();
    for model in &models {
        bench.measure(model, model.quant == args.formats[0], &mut results);
    }
    println!("{machine}; medians of {} runs (lowest-highest)\n", bench.n_runs);
    println!("{}", table::markdown(&results.rows));
    results.failures.iter().for_each(|failure| println!("not measured: {failure}"));
    if let Some(file) = &args.json {
        let all =
            json!({"machine": machine, "rows": table::json(&results.rows), "failures": results.failures});
        fs::write(file, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Bench {
    fn new(args: &BenchArgs, target: &Path) -> Result<Bench> {
        let onefold = args.onefold.clone().unwrap_or_else(|| target.join("release/onefold"));
        ensure!(onefold.exists(), "{} is not there\nhint: cargo build --release", onefold.display());
        let llama_server = args.llama_server.clone().map_or_else(peer::server, Ok)?;
        let needs_server = args.tests.iter().any(|test| matches!(test, Test::Streams | Test::Load));
        ensure!(
            llama_server.exists() || !needs_server,
            "{} is not there\nhint: cargo xtask peer, or leave out its tests with --tests decode,prefill",
            llama_server.display()
        );
        Ok(Bench {
            tests: args.tests.clone(),
            n_runs: args.repeat,
            onefold,
            python: Python::with_llama_cpp()?,
            llama_server: needs_server.then_some(llama_server),
            meter: Meter::build(target)?,
        })
    }

    /// Every test of one model; what fails is noted, and the rest goes on.
    fn measure(&self, model: &Model, is_served: bool, results: &mut Results) {
        let has = |test| self.tests.contains(&test);
        if has(Test::Decode) || has(Test::Prefill) {
            match speed::run(self, model) {
                Ok(rows) => rows.into_iter().for_each(|row| results.add(row)),
                Err(why) => results.fail(model, &why),
            }
        }
        if has(Test::Streams)
            && is_served
            && let Err(why) = streams::run(self, model, |row| results.add(row))
        {
            results.fail(model, &why);
        }
        if has(Test::Load) && is_served {
            match load::run(self, model) {
                Ok(row) => results.add(row),
                Err(why) => results.fail(model, &why),
            }
        }
    }
}

impl Results {
    fn add(&mut self, row: Row) {
        eprintln!("{row}");
        self.rows.push(row);
    }

    fn fail(&mut self, model: &Model, why: &anyhow::Error) {
        let failure = format!("{}: {why:#}", model.title());
        eprintln!("{failure}");
        self.failures.push(failure);
    }
}

impl Test {
    /// As other benchmarks name it.
    fn name(self) -> String {
        format!("{}{}", self.short_name(), self.n_tokens())
    }

    fn short_name(self) -> &'static str {
        if self == Test::Prefill { "pp" } else { "tg" }
    }

    fn n_tokens(self) -> u32 {
        if self == Test::Prefill { 512 } else { 128 }
    }
}

/// Prompts of random ordinary tokens, none like another: no server has seen one before.
struct Prompts(u64);

impl Prompts {
    fn new() -> Prompts {
        Prompts(1)
    }

    fn next(&mut self, n: usize) -> Vec<u32> {
        let token = |_| {
            // a linear congruential generator's high bits (Knuth, MMIX)
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (ORDINARY_TOKENS.start + (self.0 >> 33) % (ORDINARY_TOKENS.end - ORDINARY_TOKENS.start)) as u32
        };
        (0..n).map(token).collect()
    }
}

/// What was measured on what: processor, system, versions.
fn machine(bench: &Bench) -> Result<String> {
    let machine = Machine::probe();
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success());
        output.map_or_else(String::new, |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let is_changed = !git(&["status", "--porcelain"]).is_empty();
    let version = "import llama_cpp; print(llama_cpp.__version__)";
    Ok(format!(
        "{} with {} cores ({}), {}; onefold {}{}; llama.cpp of llama-cpp-python {}",
        machine.cpu.as_deref().unwrap_or("unknown processor"),
        machine.n_cores(),
        machine.vectors,
        machine.os.as_deref().unwrap_or("unknown system"),
        git(&["rev-parse", "--short", "HEAD"]),
        if is_changed { " with changes" } else { "" },
        bench.python.call(&["-c", version])?.trim(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_ordinary_and_never_the_same() {
        let mut prompts = Prompts::new();
        let all: Vec<_> = (0..500).map(|_| prompts.next(8)).collect();
        assert!(all.iter().flatten().all(|token| ORDINARY_TOKENS.contains(&u64::from(*token))));
        let first_tokens: std::collections::BTreeSet<_> = all.iter().map(|prompt| &prompt[..2]).collect();
        assert_eq!(first_tokens.len(), all.len(), "no prompt begins like another");
    }
}
