//! Whole engines over MLX: the CPU's tokens, alone and beside CPU ranks; one evaluation for each decode step, the next queued
//! before the last is read; a budget of graph nodes; and no growth over a thousand steps. MLX belongs to one thread of a
//! process, so the tests follow each other on the main thread.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

mod common;

use std::path::Path;

use backend::{Backend, MlxBackend, MlxGroup, MlxMemory, MlxOptions};
use base::{Bytes, DType, Request, RequestId, SamplingParams, TokenId};
use collective::Group;
use common::{
    Answers, Grid, answers, cpu, drain, engine, grid, max_delta, plan, requests, runner, with_model,
};
use engine::{Engine, Runner};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use models::Description;
use plan::BackendKind::{self, Cpu, Mlx};
use weights::{
    Checkpoint,
    synthetic::{Arch, Quant, Recipe},
};

/// Largest difference of a log-probability from the CPU backend, whose KV cache has 16 bits where MLX's here has 32.
const MAX_DELTA: f32 = 2e-2;
/// Decode steps of the tests that count.
const N_STEPS: u32 = 40;

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let mut tests = Vec::new();
    for arch in Arch::ALL.into_iter().filter(|arch| arch.has_gguf()) {
        let name = |what: &str| format!("{arch:?}_{what}").to_lowercase();
        tests.push(trial(name("gives_the_tokens_of_the_cpu"), move || agrees(arch, grid(1, 1), &[Mlx])));
        tests.push(trial(name("runs_a_pipeline_with_a_cpu_rank"), move || {
            agrees(arch, grid(1, 2), &[Mlx, Cpu])
        }));
    }
    tests.push(trial("sums_with_two_cpu_ranks".into(), || agrees(Arch::Llama, grid(3, 1), &[Mlx])));
    tests.push(trial("evaluates_once_a_step_and_queues_ahead".into(), queues_ahead));
    tests.push(trial("foresees_right_or_not_at_all".into(), foresees));
    for (arch, quant) in [(Arch::Llama, DType::F32), (Arch::Llama, DType::Q4_0), (Arch::Qwen3, DType::Q4_0)] {
        let name = format!("{arch:?}_{quant:?}_launches_half_of_mlx_lm").to_lowercase();
        tests.push(Trial::ignorable_test(name, move || budget(arch, quant)));
    }
    tests.push(trial("a_step_without_room_fails_its_requests_only".into(), outgrows_memory));
    tests.push(trial("weights_are_read_and_not_mapped".into(), reads_weights));
    tests.push(trial("a_thousand_steps_leak_nothing".into(), leaks_nothing));
    libtest_mimic::run(&arguments, tests).exit();
}

fn trial(name: String, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}

fn mlx(group: Box<dyn Group>) -> MlxBackend {
    let options = MlxOptions { memory: None, activations: DType::F32, fuse: true };
    MlxBackend::new(&options, MlxGroup::Onefold(group)).unwrap()
}

/// An engine of one rank.
fn alone(path: &Path) -> Engine<Runner<MlxBackend>> {
    let description = Description::read(&Checkpoint::open(path).unwrap()).unwrap();
    let plan = plan(&description, grid(1, 1), &[Mlx]);
    engine(runner(path, &plan, &plan.ranks()[0], Vec::new(), mlx), &plan)
}

fn agrees(arch: Arch, grid: Grid, backends: &[BackendKind]) {
    with_model(arch, |path| {
        let expected = answers(path, common::grid(1, 1), &[Cpu], cpu);
        let delta = max_delta(&expected, &answers(path, grid, backends, mlx));
        println!("max |Δ log-probability| {delta}");
        assert!(delta < MAX_DELTA, "{delta}");
    });
}

fn request(id: u64, n_prompt: u32, max_tokens: u32, sampling: SamplingParams) -> Request {
    let prompt = (0..n_prompt).map(|i| TokenId((i * 7 + id as u32) % 50)).collect();
    Request { id: RequestId(id), prompt, max_tokens, stop_tokens: vec![], sampling }
}

/// After `n` steps of one request alone, `n + 1` graphs were queued: the next one's before this one's token is returned. None is
/// queued for a step whose block the scheduler has yet to give; then the step queues its own.
fn queues_ahead() {
    with_model(Arch::Llama, |path| {
        let mut engine = alone(path);
        engine.submit(request(1, 3, N_STEPS, SamplingParams::default()));
        let mut n_ahead = 0;
        for n in 1..=u64::from(N_STEPS) {
            assert_eq!(engine.step().unwrap().len(), if n == u64::from(N_STEPS) { 2 } else { 1 });
            let n_evals = engine.executor().backend().counters().n_evals;
            assert!((n..=n + 1).contains(&n_evals), "{n_evals} evaluations after {n} steps");
            n_ahead += n_evals - n;
        }
        // positions 3..43 begin blocks of 16 at 16 and 32; the prompt's own step cannot be followed ahead either
        assert_eq!(n_ahead, u64::from(N_STEPS) - 3);
    });
}

/// Requests that come, end and count their tokens while others run: the answers are those that each gets alone.
fn foresees() {
    with_model(Arch::Qwen3, |path| {
        let sampling = |id: u64| SamplingParams {
            temperature: if id.is_multiple_of(2) { 0.9 } else { 0.0 },
            seed: id,
            presence_penalty: if id == 3 { 0.5 } else { 0.0 },
            n_logprobs: Some(0),
            ..SamplingParams::default()
        };
        let all: Vec<Request> =
            (1..6).map(|id| request(id, 3 + 5 * id as u32, 10 + 3 * id as u32, sampling(id))).collect();
        let mut together = alone(path);
        let mut answers_together = Answers::new();
        for request in &all {
            together.submit(request.clone());
            for _ in 0..4 {
                for output in together.step().unwrap() {
                    if let base::Output::Token { id, sampled } = output {
                        answers_together.entry(id).or_default().push(sampled);
                    }
                }
            }
        }
        for (id, rest) in drain(&mut together) {
            answers_together.entry(id).or_default().extend(rest);
        }
        for request in all {
            let id = request.id;
            let mut engine = alone(path);
            engine.submit(request);
            let tokens = |a: &Answers| a[&id].iter().map(|s| s.token).collect::<Vec<_>>();
            assert_eq!(tokens(&drain(&mut engine)), tokens(&answers_together), "{id}");
        }
    });
}

/// What a layer of a decode step takes: operations that launch something, and all of them with views.
fn per_layer(recipe: &Recipe) -> [u64; 2] {
    let count = |n_layers: u32| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        Recipe { n_layers, ..recipe.clone() }.write_gguf(&path).unwrap();
        let mut engine = alone(&path);
        engine.submit(request(1, 5, 9, SamplingParams::default()));
        engine.step().unwrap(); // the prompt
        let before = engine.executor().backend().counters();
        engine.step().unwrap();
        let after = engine.executor().backend().counters();
        assert_eq!(after.n_evals - before.n_evals, 2, "a decode step and the one queued behind it");
        [after.n_launches - before.n_launches, after.n_nodes - before.n_nodes]
    };
    let (more, fewer) = (count(5), count(4));
    std::array::from_fn(|i| (more[i] - fewer[i]) / 2)
}

/// mlx-lm's graph of a decode step of the same model, counted in the same way on the same build of MLX.
fn budget(arch: Arch, quant: DType) -> Result<Completion, Failed> {
    let Some(python) = std::env::var_os("ONEFOLD_PYTHON") else {
        return Ok(Completion::ignored_with("ONEFOLD_PYTHON names no Python with mlx-lm"));
    };
    let recipe = Recipe { quant: Quant::Uniform(quant), ..Recipe::tiny(arch) };
    let dir = tempfile::tempdir()?;
    Recipe { quant: Quant::Uniform(DType::F32), ..recipe.clone() }.write_hf(dir.path())?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/mlx/count_nodes.py");
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(dir.path());
    if quant != DType::F32 {
        command.args(["--bits", "4", "--group-size", "32"]);
    }
    let output = command.output()?;
    let theirs: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("{e}: {}", String::from_utf8_lossy(&output.stderr)))?;
    let number = |key: &str| theirs["cpu"][key].as_u64().ok_or_else(|| format!("no {key} in {theirs}"));
    let (all, views) = (number("per_layer")?, number("views")?);
    let [launches, nodes] = per_layer(&recipe);
    println!("a layer: {launches} launches in {nodes} nodes; mlx-lm {} in {all}", all - views);
    for (what, found, theirs) in [("launches", launches, all - views), ("nodes", nodes, all)] {
        if 2 * found > theirs {
            return Err(format!("expected at most half of {theirs} {what}, found {found}").into());
        }
    }
    Ok(Completion::Completed)
}

/// A prompt whose step has no room fails; requests before and after it get the tokens that they get without it.
fn outgrows_memory() {
    with_model(Arch::Llama, |path| {
        let description = Description::read(&Checkpoint::open(path).unwrap()).unwrap();
        let plan = plan(&description, grid(1, 1), &[Mlx]);
        let memory = MlxMemory { resident: Bytes(1 << 30), step: Bytes(100 << 10) };
        let make = |group| {
            let options = MlxOptions { memory: Some(memory), activations: DType::F32, fuse: true };
            MlxBackend::new(&options, MlxGroup::Onefold(group)).unwrap()
        };
        let mut engine = engine(runner(path, &plan, &plan.ranks()[0], Vec::new(), make), &plan);
        let short =
            |id| request(id, 4, 6, SamplingParams { n_logprobs: Some(0), ..SamplingParams::default() });
        engine.submit(short(1));
        let before = drain(&mut engine);
        engine.submit(request(2, 90, 6, SamplingParams::default()));
        let outputs = engine.step().unwrap();
        assert!(
            matches!(&outputs[..], [base::Output::Failed { message, .. }] if message.starts_with("out of memory")),
            "{outputs:?}"
        );
        engine.submit(Request { id: RequestId(1), ..short(1) });
        assert_eq!(drain(&mut engine), before);
    });
}

/// While a model is loaded, memory holds its arrays and not the pages of its file beside them.
fn reads_weights() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    Recipe { n_layers: 8, hidden: 768, ffn: 2048, ..common::recipe(Arch::Llama) }.write_gguf(&path).unwrap();
    let size = std::fs::metadata(&path).unwrap().len();
    assert!(size > 128 << 20, "{size} bytes are too few to tell");
    std::fs::write("/proc/self/clear_refs", "5").unwrap(); // the peak counts from here
    let before = memory("VmRSS:");
    let _engine = alone(&path);
    let peak = memory("VmHWM:").saturating_sub(before);
    println!("{} MB of weights, {} MB at the peak", size >> 20, peak >> 20);
    assert!(peak < size + size / 2, "{peak} bytes for a file of {size}");
}

fn leaks_nothing() {
    with_model(Arch::Llama, |path| {
        let mut engine = alone(path);
        let mut run = |n_steps: u32| {
            let start = engine.stats().n_decode_tokens;
            let mut id = 0;
            while engine.stats().n_decode_tokens - start < u64::from(n_steps) {
                for mut r in requests(60) {
                    id += 1;
                    (r.id, r.max_tokens) = (RequestId(id), 25);
                    engine.submit(r);
                }
                drain(&mut engine);
            }
            (engine.executor().backend().active_memory(), memory("VmRSS:"))
        };
        let (active, resident) = run(200);
        let (active_after, resident_after) = run(4 * 1000); // four sequences in each step
        assert_eq!(active, active_after, "bytes of arrays");
        let growth = resident_after.saturating_sub(resident);
        assert!(growth < 4 << 20, "the process grew by {growth} bytes");
    });
}

/// Bytes of this process in memory, of one kind.
fn memory(kind: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(kind));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}
