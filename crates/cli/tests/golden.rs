//! Our logits against those of llama.cpp, from golden files: greedy tokens, and the divergence of the distributions.
//! The real model's cases are ignored, counted, where it cannot be had; `ONEFOLD_REQUIRE_MODEL=1` makes that a failure.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use backend::{Backend, CpuBackend, Isa};
use base::{Batch, BlockId, Bytes, NodeId, SeqId, SeqSlice, TokenId};
use collective::Solo;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use models::{Description, Model};
use plan::{Goal, Node, Plan, Topology};
use serde::Deserialize;
use weights::{
    Checkpoint,
    synthetic::{Arch, Recipe},
};

/// A divergence of greedy tokens is a near tie when llama.cpp itself saw the two tokens this close.
const MAX_TIE_GAP: f64 = 0.05;
/// Mean KL divergence over the compared positions.
const MAX_MEAN_KL: f64 = 0.01;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: Option<String>,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    gaps: Vec<f64>,
    top: Vec<Top>,
}

#[derive(Deserialize)]
struct Top {
    position: usize,
    top: Vec<(u32, f64)>,
}

fn main() {
    let args = Arguments::from_args();
    let model = default_model().map(Arc::new).map_err(|e| e.to_string());
    let with_model = |name: &str, test: fn(&Path) -> Result<(), Failed>| {
        let model = model.clone();
        Trial::ignorable_test(name.to_owned(), move || match model {
            Ok(path) => test(&path).map(|()| Completion::Completed),
            Err(why) if std::env::var_os("ONEFOLD_REQUIRE_MODEL").is_some() => Err(why.into()),
            Err(why) => Ok(Completion::ignored_with(format!("no default model: {why}"))),
        })
    };
    let random = |arch: Arch, file: &'static str| {
        Trial::test(format!("random {file} answers as llama.cpp"), move || {
            let dir = tempfile::tempdir()?;
            let path = dir.path().join("model.gguf");
            Recipe::tiny(arch).write_gguf(&path)?;
            compare(&path, &format!("{file}.json"))
        })
    };
    let trials = vec![
        with_model("smollm2 answers as llama.cpp", |path| compare(path, "smollm2-135m.json")),
        with_model("smollm2 tokenizes as llama.cpp", tokenizes),
        random(Arch::Llama, "tiny-llama"),
        random(Arch::Qwen2, "tiny-qwen2"),
        random(Arch::Qwen3, "tiny-qwen3"),
    ];
    libtest_mimic::run(&args, trials).exit();
}

fn default_model() -> Result<PathBuf, Box<dyn Error>> {
    let paths = node::Paths::from_env();
    let (catalog, _) = paths.catalog();
    let card = catalog.find(node::models::DEFAULT_MODEL).ok_or("the default model has no card")?;
    Ok(paths.fetcher().ensure(card, &mut Silent)?)
}

fn golden(file: &str) -> Result<Golden, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn tokenizes(model: &Path) -> Result<(), Failed> {
    let open = node::OpenModel::open(model)?;
    for case in golden("smollm2-135m.json")?.cases {
        let text = case.text.ok_or("a case without its text")?;
        let ids: Vec<u32> = open.tokenizer.encode(&text, false, true)?.iter().map(|t| t.0).collect();
        if ids != case.prompt {
            return Err(format!("{text:?}: expected {:?}, found {ids:?}", case.prompt).into());
        }
    }
    Ok(())
}

/// Fetching without anybody to tell.
struct Silent;

impl node::models::Progress for Silent {
    fn message(&mut self, _text: &str) {}
    fn bytes(&mut self, _done: Bytes, _total: Option<Bytes>) {}
}

/// Every greedy token is llama.cpp's or a near tie of it, and the distributions agree.
fn compare(model: &Path, file: &str) -> Result<(), Failed> {
    let mut rank = SingleRank::load(model)?;
    let mut divergences = Vec::new();
    for (i, case) in golden(file)?.cases.iter().enumerate() {
        let logits = rank.logits(&case.prompt, &case.greedy)?;
        for (position, row) in logits.iter().enumerate() {
            let ours = argmax(row);
            let gap = case.gaps[position];
            if ours != case.greedy[position] && gap > MAX_TIE_GAP {
                let expected = case.greedy[position];
                return Err(format!(
                    "case {i}, position {position}: expected token {expected}, found {ours}; gap {gap}"
                )
                .into());
            }
        }
        divergences.extend(case.top.iter().map(|top| kl(&top.top, &logits[top.position])));
    }
    let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
    println!("{file}: mean KL {mean:.5} over {} positions", divergences.len());
    if mean.is_nan() || mean > MAX_MEAN_KL {
        return Err(format!("{file}: expected mean KL below {MAX_MEAN_KL}, found {mean}").into());
    }
    Ok(())
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32
}

/// KL(theirs ‖ ours) over their likeliest tokens and one bucket for all others.
fn kl(theirs: &[(u32, f64)], logits: &[f32]) -> f64 {
    let max = logits.iter().copied().fold(f32::MIN, f32::max) as f64;
    let log_sum = logits.iter().map(|&l| (l as f64 - max).exp()).sum::<f64>().ln() + max;
    let ours = |token: u32| logits[token as usize] as f64 - log_sum;
    let rest_theirs = (1.0 - theirs.iter().map(|(_, lp)| lp.exp()).sum::<f64>()).max(1e-9);
    let rest_ours = (1.0 - theirs.iter().map(|(t, _)| ours(*t).exp()).sum::<f64>()).max(1e-9);
    let listed: f64 = theirs.iter().map(|(t, lp)| lp.exp() * (lp - ours(*t))).sum();
    listed + rest_theirs * (rest_theirs / rest_ours).ln()
}

/// A whole model on one rank, driven by hand.
struct SingleRank {
    backend: CpuBackend,
    model: Box<dyn Model<CpuBackend>>,
    plan: Plan,
}

impl SingleRank {
    fn load(path: &Path) -> Result<SingleRank, Failed> {
        let checkpoint = Checkpoint::open(path)?;
        let description = Description::read(&checkpoint)?;
        let memory = Bytes(4 << 30);
        let node = Node { id: NodeId(0), name: "here".to_owned(), memory, n_cores: 1 };
        let goal = Goal {
            tp: 1,
            pp: 1,
            split: None,
            stage_split: None,
            context_len: 256,
            n_kv_tokens: Some(256),
            threads_per_rank: 1,
        ranks_per_node: None,
        };
        let plan = Plan::make(&Topology { nodes: vec![node] }, &description.spec, &goal)?;
        let mut backend = CpuBackend::new(kernels::Pool::new(&[]), Isa::detect(), Box::new(Solo));
        let model = models::load(&checkpoint, &description, &plan, &plan.ranks()[0], &mut backend)?;
        Ok(SingleRank { backend, model, plan })
    }

    /// Logits before each token of `answer`: the prompt at once, then token by token.
    fn logits(&mut self, prompt: &[u32], answer: &[u32]) -> Result<Vec<Vec<f32>>, Failed> {
        let mut rows = vec![self.step(prompt, prompt.len())?];
        for (i, token) in answer[..answer.len() - 1].iter().enumerate() {
            rows.push(self.step(&[*token], prompt.len() + i + 1)?);
        }
        Ok(rows)
    }

    fn step(&mut self, tokens: &[u32], context_len: usize) -> Result<Vec<f32>, Failed> {
        let n_blocks = (context_len as u32).div_ceil(self.plan.block_len());
        let batch = Batch {
            tokens: tokens.iter().map(|&t| TokenId(t)).collect(),
            seqs: vec![SeqSlice {
                seq: SeqId(0),
                n_rows: tokens.len() as u32,
                context_len: context_len as u32,
                n_logits: 1,
                blocks: (0..n_blocks).map(BlockId).collect(),
            }],
        };
        let logits = self.model.forward(&mut self.backend, &batch, None)?;
        let mut row = Vec::new();
        self.backend.eval(&logits, &mut row)?;
        Ok(row)
    }
}
