//! Our logits against those of llama.cpp, from golden files, backend by backend: greedy tokens, and the divergence of the
//! distributions.
//! The real model's cases are ignored, counted, where it cannot be had; `ONEFOLD_REQUIRE_MODEL=1` makes that a failure.
//!
//! Weights in F32 leave both engines the same sums but for the order of additions, so there they must agree strictly.
//! With quantised weights each engine also rounds the activations to 8 bits in its own way: two noises of the same
//! size, only partly alike, around the answer that exact arithmetic would give. There llama.cpp's answer is no truth to
//! the last digit, and a golden file holds a third voice, the exact run: llama.cpp on the same weights written out in
//! F32. We may be hardly farther from that than llama.cpp is, and where our greedy tokens differ, it must explain it.

mod whole_model;

use std::{path::Path, sync::Arc};

use base::DType;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, de::DeserializeOwned};
use weights::synthetic::Recipe;
#[cfg(feature = "mlx")]
use whole_model::load_on_mlx;
use whole_model::{Answers, Load, default_model, load_on_cpu, logprobs, with_model, write_again};

/// Two tokens whose log-probabilities are this close are a near tie; either is the greedy one.
const MAX_TIE_GAP: f64 = 0.05;
/// Mean KL divergence from llama.cpp on the same file, quantised.
const MAX_MEAN_KL: f64 = 0.01;
/// The same where nothing is quantised.
const MAX_MEAN_KL_F32: f64 = 0.0001;

/// What computes, and how exactly.
#[derive(Clone, Copy)]
struct Device {
    name: &'static str,
    load: Load,
    /// How far the mean KL divergence from the exact run may be, as a multiple of llama.cpp's own.
    max_noise_ratio: f64,
    /// Of the real model's cases, how many there is time for, and how many tokens of each answer.
    n_cases: usize,
    n_positions: usize,
}

/// Rounds activations to 8 bits, as llama.cpp does.
const CPU: Device = Device {
    name: "cpu",
    load: load_on_cpu,
    max_noise_ratio: 1.25,
    n_cases: usize::MAX,
    n_positions: usize::MAX,
};

/// Keeps activations and the KV cache in 32 bits and so has next to no noise: 0.0002 of llama.cpp's was seen. On Linux it is
/// slow.
#[cfg(feature = "mlx")]
const MLX: Device =
    Device { name: "mlx", load: load_on_mlx, max_noise_ratio: 0.01, n_cases: 3, n_positions: 22 };

#[cfg(not(feature = "mlx"))]
const DEVICES: [Device; 1] = [CPU];
#[cfg(feature = "mlx")]
const DEVICES: [Device; 2] = [CPU, MLX];

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

/// What llama.cpp answered to a prompt; `greedy`, `seconds`, `gaps` and `exact` have an entry per token of the answer.
#[derive(Deserialize)]
struct Case {
    text: Option<String>,
    prompt: Vec<u32>,
    greedy: Vec<u32>,
    seconds: Vec<u32>,
    gaps: Vec<f64>,
    top: Vec<Top>,
    #[serde(default)]
    exact: Vec<Vec<Judged>>,
}

#[derive(Deserialize)]
struct Top {
    position: usize,
    top: Vec<(u32, f64)>,
}

/// One of the exact run's likeliest tokens, its log-probability there and in the quantised run.
#[derive(Deserialize)]
struct Judged {
    token: u32,
    exact: f64,
    quantised: f64,
}

fn main() {
    let mut args = Arguments::from_args();
    if cfg!(feature = "mlx") {
        args.test_threads = Some(1); // MLX belongs to one thread of a process
    }
    let model = default_model().map(Arc::new).map_err(|e| e.to_string());
    let mut trials = vec![with_model("smollm2 tokenizes as llama.cpp".to_owned(), &model, tokenizes)];
    for device in DEVICES {
        let name = |what: &str| format!("{what} answers as llama.cpp, on {}", device.name);
        trials.push(with_model(name("smollm2"), &model, move |path| agrees_but_for_noise(&device, path)));
        trials.push(with_model(name("smollm2 in F32"), &model, move |path| {
            let dir = tempfile::tempdir()?;
            let f32_path = dir.path().join("model.gguf");
            write_again(path, DType::F32, &f32_path)?;
            let file = "smollm2-135m-f32.json";
            agrees_strictly(&mut *(device.load)(&f32_path, 2)?, file, &device.cases(file)?)
        }));
        trials.extend(Recipe::tiny_family().map(|(model, recipe)| {
            Trial::test(name(&format!("random {model}")), move || {
                let dir = tempfile::tempdir()?;
                let path = dir.path().join("model.gguf");
                recipe.write_gguf(&path)?;
                let file = format!("{model}.json");
                agrees_strictly(&mut *(device.load)(&path, 1)?, &file, &golden(&file)?)
            })
        }));
    }
    libtest_mimic::run(&args, trials).exit();
}

fn read_json<T: DeserializeOwned>(file: &str) -> Result<T, Failed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

fn golden(file: &str) -> Result<Vec<Case>, Failed> {
    Ok(read_json::<Golden>(&format!("tests/golden/{file}"))?.cases)
}

/// Tokens of a corpus, row for row: control tokens as text, and read as such.
#[derive(Deserialize)]
struct CorpusTokens {
    ids: Vec<Vec<u32>>,
    parsed: Vec<Vec<u32>>,
}

fn tokenizes(model: &Path) -> Result<(), Failed> {
    let tokenizer = node::OpenModel::open(model)?.text()?.tokenizer;
    let check = |text: &str, parse_special: bool, expected: &[u32]| {
        let ids = tokenizer.encode(text, false, parse_special)?;
        if ids.iter().map(|t| t.0).eq(expected.iter().copied()) {
            return Ok(());
        }
        Err(Failed::from(format!("{text:?}: expected {expected:?}, found {ids:?}")))
    };
    for case in golden("smollm2-135m.json")? {
        check(&case.text.ok_or("a case without its text")?, true, &case.prompt)?;
    }
    let corpus: Vec<String> = read_json("../text/tests/golden/corpus.json")?;
    let tokens: CorpusTokens = read_json("../text/tests/golden/smollm2.json")?;
    if [tokens.ids.len(), tokens.parsed.len()] != [corpus.len(); 2] {
        return Err("the corpus and its tokens have different lengths".into());
    }
    for (i, text) in corpus.iter().enumerate() {
        check(text, false, &tokens.ids[i])?;
        check(text, true, &tokens.parsed[i])?;
    }
    Ok(())
}

/// Every greedy token is llama.cpp's or a near tie of it, and the distributions are the same.
fn agrees_strictly(rank: &mut dyn Answers, file: &str, cases: &[Case]) -> Result<(), Failed> {
    let mut divergences = Vec::new();
    let mut n_ties = 0;
    for (i, case) in cases.iter().enumerate() {
        let logits = rank.logits(&case.prompt, &case.greedy)?;
        for (position, row) in logits.iter().enumerate() {
            let ours = argmax(row);
            if ours != case.greedy[position] {
                if !case.is_near_tie(position, ours) {
                    return Err(case.unexplained(i, position, ours).into());
                }
                n_ties += 1;
            }
        }
        divergences.extend(case.top.iter().map(|top| top.kl(&logits[top.position])));
    }
    println!("{file}: {n_ties} near ties");
    check_mean_kl(file, &divergences, MAX_MEAN_KL_F32)
}

/// The distributions are llama.cpp's but for the noise of 8-bit activations, of which we have no more than llama.cpp,
/// and every greedy token that is not llama.cpp's is explained.
fn agrees_but_for_noise(device: &Device, model: &Path) -> Result<(), Failed> {
    let file = "smollm2-135m.json";
    let mut rank = (device.load)(model, 1)?;
    let (mut divergences, mut our_noise, mut their_noise) = (Vec::new(), Vec::new(), Vec::new());
    let mut reasons = Vec::new();
    let mut unexplained = Vec::new();
    let max_gap = golden(file)?.iter().map(Case::largest_gap).fold(0.0, f64::max);
    for (i, case) in device.cases(file)?.iter().enumerate() {
        let logits = rank.logits(&case.prompt, &case.greedy)?;
        divergences.extend(case.top.iter().map(|top| top.kl(&logits[top.position])));
        for (position, row) in logits.iter().enumerate() {
            let (exact, quantised, ours) = three_voices(&case.exact[position], row);
            our_noise.push(kl(&exact, &ours));
            their_noise.push(kl(&exact, &quantised));
            let token = argmax(row);
            if token != case.greedy[position] {
                match case.explain(position, token, max_gap) {
                    Some(reason) => reasons.push(reason),
                    None => unexplained.push(case.unexplained(i, position, token)),
                }
            }
        }
    }
    let count = |reason| reasons.iter().filter(|r| **r == reason).count();
    println!(
        "{file}: {} positions; other greedy tokens: {} near ties, {} the exact run's own, {} within the noise",
        our_noise.len(),
        count(Reason::NearTie),
        count(Reason::ExactChoice),
        count(Reason::Noise),
    );
    if !unexplained.is_empty() {
        return Err(unexplained.join("\n").into());
    }
    let (ours, theirs) = (mean(&our_noise), mean(&their_noise));
    println!("{file}: mean KL from the exact run {ours:.7}, llama.cpp's own {theirs:.5}");
    let max = device.max_noise_ratio;
    if ours.is_nan() || ours > max * theirs {
        return Err(format!("{file}: expected at most {max} x {theirs}, found {ours}").into());
    }
    check_mean_kl(file, &divergences, MAX_MEAN_KL)
}

/// Why a greedy token other than llama.cpp's is right too.
#[derive(Clone, Copy, PartialEq)]
enum Reason {
    /// llama.cpp itself hardly preferred its own.
    NearTie,
    /// The exact run takes ours.
    ExactChoice,
    /// The exact run prefers llama.cpp's by less than llama.cpp's own noise reaches.
    Noise,
}

impl Device {
    /// What there is time for of the real model's cases.
    fn cases(&self, file: &str) -> Result<Vec<Case>, Failed> {
        let mut cases = golden(file)?;
        cases.truncate(self.n_cases);
        for case in &mut cases {
            case.greedy.truncate(self.n_positions);
            case.top.retain(|top| top.position < self.n_positions);
        }
        Ok(cases)
    }
}

impl Case {
    /// `max_gap` is how far the exact run prefers its own token to llama.cpp's where its noise is largest.
    fn explain(&self, position: usize, ours: u32, max_gap: f64) -> Option<Reason> {
        if self.is_near_tie(position, ours) {
            return Some(Reason::NearTie);
        }
        if self.exact[position].first()?.token == ours {
            return Some(Reason::ExactChoice);
        }
        let gap = self.exact_of(position, self.greedy[position])? - self.exact_of(position, ours)?;
        (gap < max_gap).then_some(Reason::Noise)
    }

    /// A token's log-probability in the exact run, if it is among the likely ones.
    fn exact_of(&self, position: usize, token: u32) -> Option<f64> {
        self.exact[position].iter().find(|j| j.token == token).map(|j| j.exact)
    }

    /// How far llama.cpp's own noise overturns the exact run's choices at most.
    fn largest_gap(&self) -> f64 {
        let gap = |(position, token): (usize, &u32)| {
            Some(self.exact[position].first()?.exact - self.exact_of(position, *token)?)
        };
        self.greedy.iter().enumerate().filter_map(gap).fold(0.0, f64::max)
    }

    fn is_near_tie(&self, position: usize, ours: u32) -> bool {
        ours == self.seconds[position] && self.gaps[position] < MAX_TIE_GAP
    }

    fn unexplained(&self, i: usize, position: usize, ours: u32) -> String {
        let (expected, second, gap) = (self.greedy[position], self.seconds[position], self.gaps[position]);
        let exact: Vec<_> =
            self.exact.get(position).into_iter().flatten().map(|j| (j.token, j.exact)).collect();
        format!(
            "case {i}, position {position}: expected token {expected}, found {ours}; \
             second {second}, gap {gap}, exact run {exact:?}"
        )
    }
}

impl Top {
    fn kl(&self, logits: &[f32]) -> f64 {
        let (tokens, theirs): (Vec<_>, Vec<_>) = self.top.iter().copied().unzip();
        kl(&theirs, &logprobs(logits, &tokens))
    }
}

/// Log-probabilities of the same tokens in the exact run, in llama.cpp's quantised one and in ours.
fn three_voices(judged: &[Judged], logits: &[f32]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let tokens: Vec<u32> = judged.iter().map(|j| j.token).collect();
    let (exact, quantised) = judged.iter().map(|j| (j.exact, j.quantised)).unzip();
    (exact, quantised, logprobs(logits, &tokens))
}

fn check_mean_kl(file: &str, divergences: &[f64], max: f64) -> Result<(), Failed> {
    let mean = mean(divergences);
    println!("{file}: mean KL {mean:.6} over {} positions", divergences.len());
    if mean.is_nan() || mean > max {
        return Err(format!("{file}: expected a mean KL of at most {max}, found {mean}").into());
    }
    Ok(())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap_or(0) as u32
}

/// KL(p ‖ q) over the listed tokens, given by log-probabilities, and one bucket for all others.
fn kl(p: &[f64], q: &[f64]) -> f64 {
    let rest = |listed: &[f64]| (1.0 - listed.iter().map(|lp| lp.exp()).sum::<f64>()).max(1e-9);
    let listed: f64 = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
    listed + rest(p) * (rest(p) / rest(q)).ln()
}
