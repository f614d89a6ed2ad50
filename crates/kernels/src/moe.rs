//! Mixture of experts: which experts a row goes to, and the weighted sum of what these make of it. Rows are gathered
//! expert by expert, so that a weight is read once for all of its rows. Knows no ranks: experts that are not among
//! those it is given add nothing.

use crate::isa::per_isa;
use crate::{Isa, PackedMatrix, Pool, activation::exp, matmul, swiglu};

/// What turns a gate's logit into an expert's score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scoring {
    /// Over all experts of the layer.
    Softmax,
    /// Each expert for itself (DeepSeek-V3).
    Sigmoid,
}

/// How the experts of a row are chosen. Source: DeepSeek-V3 technical report (2024), section 2.1.2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterSpec {
    /// From logits to scores.
    pub scoring: Scoring,
    /// Groups into which the experts are divided, in order; 1 for none. A group's score is the sum of its two highest
    /// corrected scores.
    pub n_groups: usize,
    /// Experts are chosen from this many best groups.
    pub n_top_groups: usize,
    /// Experts of each row.
    pub top_k: usize,
    /// Whether the chosen scores are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights at last.
    pub scale: f32,
}

/// The experts of every row, `[n_rows, top_k]`, the best first, and their weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routing {
    /// Experts of each row.
    pub top_k: usize,
    /// Their numbers.
    pub experts: Vec<u32>,
    /// Their weights.
    pub weights: Vec<f32>,
}

/// One expert's weights.
pub struct Expert {
    /// `[ffn, hidden]`
    pub gate: PackedMatrix,
    /// `[ffn, hidden]`
    pub up: PackedMatrix,
    /// `[hidden, ffn]`
    pub down: PackedMatrix,
}

/// Memory that calls of `moe` reuse.
#[derive(Default)]
pub struct MoeScratch {
    /// (expert, place among the choices) of every choice that is here.
    choices: Vec<(u32, u32)>,
    x: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    y: Vec<f32>,
}

/// experts, weights [n_rows, top_k] = the experts with the highest score + correction [n_experts] for each row of
/// logits [n_rows, n_experts], of equals the first, and their scores, normalised and scaled as `spec` says.
///
/// # Panics
/// If the shapes do not fit each other or `spec` asks for more groups or experts than there are.
pub fn route(
    isa: Isa,
    logits: &[f32],
    n_experts: usize,
    correction: Option<&[f32]>,
    spec: &RouterSpec,
) -> Routing {
    assert!(n_experts > 0 && logits.len().is_multiple_of(n_experts), "rows of {n_experts} logits");
    assert!(correction.is_none_or(|c| c.len() == n_experts), "corrections of {n_experts} experts");
    assert!(spec.n_groups > 0 && n_experts.is_multiple_of(spec.n_groups), "{} groups", spec.n_groups);
    assert!(spec.n_top_groups <= spec.n_groups, "{} of {} groups", spec.n_top_groups, spec.n_groups);
    let n_candidates = n_experts / spec.n_groups * spec.n_top_groups;
    assert!(spec.top_k <= n_candidates, "{} of {n_candidates} experts", spec.top_k);

    let mut routing = Routing { top_k: spec.top_k, ..Routing::default() };
    let mut scores = vec![0.0; n_experts];
    let mut corrected = vec![0.0; n_experts];
    for row in logits.chunks_exact(n_experts) {
        match spec.scoring {
            Scoring::Softmax => softmax(isa, row, &mut scores),
            Scoring::Sigmoid => sigmoid(isa, row, &mut scores),
        }
        for (i, (corrected, score)) in corrected.iter_mut().zip(&scores).enumerate() {
            *corrected = score + correction.map_or(0.0, |c| c[i]);
        }
        drop_groups(&mut corrected, spec);
        let first = routing.experts.len();
        routing.experts.extend((0..spec.top_k).map(|_| take_best(&mut corrected) as u32));
        let weights = routing.experts[first..].iter().map(|&e| scores[e as usize]);
        let total = if spec.normalise { weights.clone().sum() } else { 1.0 };
        routing.weights.extend(weights.map(|w: f32| w / total * spec.scale));
    }
    routing
}

/// out [n_rows, hidden] = Σ weight_e · down_e(silu(gate_e x) · up_e x) over the experts e of each row of
/// x [n_rows, hidden] that are among `experts`, the first of which has the number `first`. A row's sum is in the
/// order of the experts' numbers, so it does not depend on the other rows.
///
/// # Panics
/// If the shapes do not fit each other.
#[allow(clippy::too_many_arguments)] // one operation, and every one of them is needed
pub fn moe(
    pool: &Pool,
    isa: Isa,
    x: &[f32],
    experts: &[Expert],
    first: u32,
    routing: &Routing,
    scratch: &mut MoeScratch,
    out: &mut [f32],
) {
    out.fill(0.0);
    let Some(hidden) = experts.first().map(|e| e.gate.n_cols()) else { return };
    let n_rows = routing.experts.len() / routing.top_k.max(1);
    assert_eq!((x.len(), out.len()), (n_rows * hidden, n_rows * hidden), "values of {n_rows} rows");
    let here = routing.experts.iter().enumerate().filter_map(|(place, &expert)| {
        let expert = expert.checked_sub(first).filter(|&e| (e as usize) < experts.len())?;
        Some((expert, place as u32))
    });
    let mut choices = std::mem::take(&mut scratch.choices);
    choices.clear();
    choices.extend(here);
    choices.sort_unstable();
    for run in choices.chunk_by(|a, b| a.0 == b.0) {
        let expert = &experts[run[0].0 as usize];
        let rows = || run.iter().map(|&(_, place)| place as usize);
        gather(x, hidden, rows().map(|place| place / routing.top_k), &mut scratch.x);
        expert.apply(pool, isa, run.len(), scratch);
        for (place, y) in rows().zip(scratch.y.chunks_exact(hidden)) {
            let out = &mut out[place / routing.top_k * hidden..][..hidden];
            add_scaled(isa, out, y, routing.weights[place]);
        }
    }
    scratch.choices = choices;
}

impl Expert {
    /// y [n_rows, hidden] = down(silu(gate x) · up x) for x [n_rows, hidden], both in the scratch memory.
    fn apply(&self, pool: &Pool, isa: Isa, n_rows: usize, scratch: &mut MoeScratch) {
        let MoeScratch { x, gate, up, y, .. } = scratch;
        gate.resize(n_rows * self.gate.n_rows(), 0.0);
        up.resize(n_rows * self.up.n_rows(), 0.0);
        y.resize(n_rows * self.down.n_rows(), 0.0);
        matmul(pool, isa, x, &[&self.gate, &self.up], &mut [gate, up]);
        swiglu(isa, gate, up);
        matmul(pool, isa, gate, &[&self.down], &mut [y]);
    }
}

/// Leaves only the best groups' scores above negative infinity.
fn drop_groups(corrected: &mut [f32], spec: &RouterSpec) {
    if spec.n_top_groups == spec.n_groups {
        return;
    }
    let group_len = corrected.len() / spec.n_groups;
    let mut group_scores: Vec<f32> = corrected.chunks_exact(group_len).map(two_highest).collect();
    for _ in 0..spec.n_top_groups {
        take_best(&mut group_scores);
    }
    // what was taken has no score any more
    for (group, score) in corrected.chunks_exact_mut(group_len).zip(group_scores) {
        if score != TAKEN {
            group.fill(TAKEN);
        }
    }
}

/// The score of what has been taken.
const TAKEN: f32 = f32::NEG_INFINITY;

/// The place of the highest score, of equals the first, which is taken.
fn take_best(scores: &mut [f32]) -> usize {
    let mut best = 0;
    for (i, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = i;
        }
    }
    scores[best] = TAKEN;
    best
}

fn two_highest(scores: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &score in scores {
        if score > first {
            (first, second) = (score, first);
        } else if score > second {
            second = score;
        }
    }
    if scores.len() > 1 { first + second } else { first }
}

/// to [rows, n_cols] = some rows of x
fn gather(x: &[f32], n_cols: usize, rows: impl Iterator<Item = usize>, to: &mut Vec<f32>) {
    to.clear();
    for row in rows {
        to.extend_from_slice(&x[row * n_cols..][..n_cols]);
    }
}

per_isa! {
    /// out [n] += factor · y [n]
    fn add_scaled(out: &mut [f32], y: &[f32], factor: f32) {
        for (out, y) in out.iter_mut().zip(y) {
            *out = factor.mul_add(*y, *out);
        }
    }
}

per_isa! {
    /// scores [n] = exp(logits [n]) / Σ exp(logits)
    fn softmax(logits: &[f32], scores: &mut [f32]) {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        for (score, logit) in scores.iter_mut().zip(logits) {
            *score = exp(logit - largest);
        }
        let total: f32 = scores.iter().sum();
        for score in scores.iter_mut() {
            *score /= total;
        }
    }
}

per_isa! {
    /// scores [n] = 1 / (1 + exp(-logits [n]))
    fn sigmoid(logits: &[f32], scores: &mut [f32]) {
        for (score, logit) in scores.iter_mut().zip(logits) {
            *score = 1.0 / (1.0 + exp(-logit));
        }
    }
}
