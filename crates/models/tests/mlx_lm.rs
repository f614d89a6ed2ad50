//! Our logits against those of mlx-lm on the same F32 weights, backend by backend: a whole prompt, a prompt in chunks
//! and then decode with the KV cache, a ragged batch of which mlx-lm runs every sequence alone. `ONEFOLD_PYTHON` names
//! a Python that has mlx-lm; without it all tests are ignored, counted.

mod common;

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
};

use backend::{CpuBackend, Isa, MlxBackend, MlxGroup, MlxOptions};
use base::DType;
use collective::Solo;
use common::{CASES, Ours, Sequence, sequences, sequences_of};
use kernels::Pool;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use plan::BackendKind;
use serde_json::json;
use tempfile::TempDir;
use weights::synthetic::{Recipe, Rope};

/// Largest difference of any logit.
const MAX_DELTA: f32 = 1e-4;
/// With a KV cache of 16 bits, of any in the better quarter of the rows.
const MAX_DELTA_QUARTER: f32 = 5e-4;
/// Largest difference of any logit with a KV cache of 16 bits. Both sides round keys and values alike, but one that lies
/// between two half floats and differs in its last bit of f32 may fall to either, and later rows see it.
const MAX_DELTA_ROUNDED: f32 = 5e-3;
/// Some logit must be at least as large, or agreement would mean little.
const MIN_LARGEST_LOGIT: f32 = 5.0;

/// A backend, and how exactly it must agree.
#[derive(Clone, Copy)]
struct Device {
    name: &'static str,
    make: Make,
    /// The number format in which it keeps keys and values: mlx-lm is made to do so too.
    kv: &'static str,
    /// Largest difference of any logit.
    max_delta: f32,
}

#[derive(Clone, Copy)]
enum Make {
    Cpu,
    Mlx { fuse: bool },
}

const DEVICES: [Device; 3] = [
    Device { name: "cpu", make: Make::Cpu, kv: "float16", max_delta: MAX_DELTA_ROUNDED },
    Device { name: "mlx", make: Make::Mlx { fuse: false }, kv: "float32", max_delta: MAX_DELTA },
    Device { name: "mlx, fused", make: Make::Mlx { fuse: true }, kv: "float32", max_delta: MAX_DELTA },
];

fn main() {
    let args = Arguments { test_threads: Some(1), ..Arguments::from_args() }; // MLX belongs to the main thread
    let oracle = Arc::new(Oracle { python: env::var_os("ONEFOLD_PYTHON"), answers: OnceLock::new() });
    let mut trials = Vec::new();
    for device in DEVICES {
        for (model, _) in family() {
            for (i, case) in CASES.iter().enumerate() {
                let oracle = Arc::clone(&oracle);
                let name = format!("{model} on {}, {}", device.name, case.name);
                trials.push(Trial::ignorable_test(name, move || oracle.judge(&device, model, i)));
            }
        }
    }
    libtest_mimic::run(&args, trials).exit();
}

/// The tiny models that have a Hugging Face form.
fn family() -> impl Iterator<Item = (&'static str, Recipe)> {
    let all = Recipe::tiny_family().into_iter().chain(Recipe::expert_family());
    all.filter(|(_, recipe)| recipe.rope != Rope::PerPair)
}

/// mlx-lm, asked once about all models and sequences.
struct Oracle {
    python: Option<OsString>,
    answers: OnceLock<Result<Answers, String>>,
}

struct Answers {
    /// Holds a folder for each model.
    folder: TempDir,
    /// Logits `[n_tokens, vocab]` of every sequence, by model and format of the KV cache.
    logits: BTreeMap<(&'static str, &'static str), Vec<Vec<f32>>>,
}

/// A model, the format of the KV cache, the file for the logits.
type Run = (&'static str, &'static str, PathBuf);

impl Oracle {
    /// Compares one backend with mlx-lm on one model in one case.
    fn judge(&self, device: &Device, model: &'static str, case: usize) -> Result<Completion, Failed> {
        let Some(python) = &self.python else {
            return Ok(Completion::ignored_with("ONEFOLD_PYTHON names no Python with mlx-lm"));
        };
        let answers = self.answers.get_or_init(|| ask(python)).as_ref()?;
        let expected = &answers.logits[&(model, device.kv)];
        let these = sequences_of(case);
        let (path, sequences) = (answers.folder.path().join(model), &sequences()[these.clone()]);
        let found = match device.make {
            Make::Cpu => {
                let backend = CpuBackend::new(Pool::new(&[]), Isa::detect(), Box::new(Solo));
                Ours::load(&path, BackendKind::Cpu, backend)?.logits(sequences)?
            }
            Make::Mlx { fuse } => {
                let options = MlxOptions { memory: None, activations: DType::F32, fuse };
                let backend = MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo)))?;
                Ours::load(&path, BackendKind::Mlx, backend)?.logits(sequences)?
            }
        };
        let pairs = expected[these].iter().zip(&found);
        let rows =
            pairs.map(|(expected, found)| row_deltas(expected, found)).collect::<Result<Vec<_>, _>>()?;
        judge_rows(device, rows.concat())
    }
}

fn ask(python: &OsString) -> Result<Answers, String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let mut runs: Vec<Run> = Vec::new();
    for (model, recipe) in family() {
        let path = folder.path().join(model);
        recipe.write_hf(&path).map_err(|e| e.to_string())?;
        for kv in ["float16", "float32"] {
            runs.push((model, kv, path.join(kv)));
        }
    }
    run_script(python, folder.path(), &runs)?;
    let read = |(model, kv, file): Run| Ok(((model, kv), read_logits(&file)?));
    let logits = runs.into_iter().map(read).collect::<Result<_, String>>()?;
    Ok(Answers { folder, logits })
}

fn run_script(python: &OsString, folder: &Path, runs: &[Run]) -> Result<(), String> {
    let sequence = |s: Sequence| {
        let tokens: Vec<u32> = s.tokens.iter().map(|t| t.0).collect();
        let chunks: Vec<u32> = s.rows.iter().copied().filter(|&n| n > 0).collect();
        json!({"tokens": tokens, "chunks": chunks})
    };
    let run = |(model, kv, file): &Run| json!({"model": folder.join(model), "kv": kv, "out": file});
    let request = json!({
        "runs": runs.iter().map(run).collect::<Vec<_>>(),
        "sequences": sequences().into_iter().map(sequence).collect::<Vec<_>>(),
    });
    let path = folder.join("request.json");
    fs::write(&path, request.to_string()).map_err(|e| e.to_string())?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/mlx/oracle.py");
    let output = Command::new(python).arg(script).arg(path).output();
    let output = output.map_err(|e| format!("cannot start {}: {e}", python.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The logits of all sequences, `[n_tokens, vocab]` each.
fn read_logits(file: &Path) -> Result<Vec<Vec<f32>>, String> {
    let bytes = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let all: Vec<f32> = bytes.as_chunks().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
    let sequences = sequences();
    let n_tokens: usize = sequences.iter().map(|s| s.tokens.len()).sum();
    let (vocab, mut rest) = (all.len() / n_tokens, &all[..]);
    let mut cut = |s: &Sequence| {
        let (logits, after) = rest.split_at(s.tokens.len() * vocab);
        rest = after;
        logits.to_vec()
    };
    Ok(sequences.iter().map(&mut cut).collect())
}

/// The largest difference of a logit in each row of a sequence, from logits `[n_tokens, vocab]`.
fn row_deltas(expected: &[f32], found: &[f32]) -> Result<Vec<f32>, Failed> {
    if expected.len() != found.len() {
        return Err(format!("expected {} logits, found {}", expected.len(), found.len()).into());
    }
    let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
    if largest < MIN_LARGEST_LOGIT {
        return Err(format!("the largest logit is {largest}, too small to tell anything").into());
    }
    let vocab = Recipe::tiny_family()[0].1.vocab as usize;
    let delta = |(a, b): (&[f32], &[f32])| {
        let deltas = a.iter().zip(b).map(|(a, b)| (a - b).abs());
        deltas.max_by(f32::total_cmp).unwrap_or(0.0) // NaN is the largest of all
    };
    Ok(expected.chunks(vocab).zip(found.chunks(vocab)).map(delta).collect())
}

fn judge_rows(device: &Device, mut deltas: Vec<f32>) -> Result<Completion, Failed> {
    deltas.sort_by(f32::total_cmp);
    let (quarter, worst) = (deltas[deltas.len() / 4], deltas[deltas.len() - 1]);
    for (rows, delta, max) in
        [("a quarter of the", quarter, MAX_DELTA_QUARTER), ("all", worst, device.max_delta)]
    {
        if delta.is_nan() || delta > max {
            return Err(format!("{rows} rows: expected logits within {max:e}, found {delta:e}").into());
        }
    }
    Ok(Completion::Completed)
}
