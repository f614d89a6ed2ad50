//! Routing and experts together, since only the experts' sum shows where a row went: few rows as in decode, many that
//! a backend may sort by expert, and experts that are on another rank.

use base::DType;

use super::{
    Check, Failure, Make, Tolerance,
    approx::{self, Approx, close},
    attention::softmax,
    eval,
    random::Random,
    same_in_company,
    stored::{Kind, Stored},
};
use crate::{Backend, ExpertParts, RouterSpec, Scoring};

const N_EXPERTS: usize = 16;
const HIDDEN: usize = 64;
const FFN: usize = 96;
/// Rows: one as in decode, a few, and more than sorting takes to pay.
const N_ROWS: [usize; 3] = [1, 5, 80];
/// A row's choice may not hang on less than this.
const MARGIN: f64 = 1e-3;

const PLAIN: RouterSpec = RouterSpec {
    scoring: Scoring::Softmax,
    n_groups: 1,
    n_top_groups: 1,
    top_k: 4,
    normalise: false,
    scale: 1.0,
};

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("experts by softmax", |make, t| {
            all_experts(make, t, &PLAIN, false)?;
            all_experts(make, t, &RouterSpec { top_k: 1, ..PLAIN }, false)?;
            all_experts(make, t, &RouterSpec { top_k: N_EXPERTS, ..PLAIN }, false)
        }),
        ("experts by softmax, normalised", |make, t| {
            all_experts(make, t, &RouterSpec { normalise: true, scale: 0.5, ..PLAIN }, false)
        }),
        ("experts by sigmoid and correction", |make, t| {
            let spec = RouterSpec { scoring: Scoring::Sigmoid, normalise: true, scale: 2.5, ..PLAIN };
            all_experts(make, t, &spec, true)?;
            all_experts(make, t, &RouterSpec { normalise: false, ..spec }, true)
        }),
        ("experts in groups", |make, t| {
            let spec = RouterSpec { n_groups: 4, n_top_groups: 2, ..PLAIN };
            all_experts(make, t, &spec, false)?;
            let spec = RouterSpec { scoring: Scoring::Sigmoid, normalise: true, scale: 2.5, ..spec };
            all_experts(make, t, &spec, true)?;
            all_experts(make, t, &RouterSpec { n_groups: 8, n_top_groups: 3, ..spec }, true)
        }),
        ("experts, quantised", |make, t| {
            let kimi = Kind::Affine { bits: 4, group_size: 32, scale_dtype: DType::BF16, has_biases: false };
            for kind in [Kind::Blocks(DType::Q4_0), Kind::Blocks(DType::Q8_0), kimi, Kind::Fp8, Kind::Mxfp4] {
                Layer::random(kind, &PLAIN, false).check(make, t, 0..N_EXPERTS)?;
            }
            Ok(())
        }),
        ("experts elsewhere", |make, t| {
            for range in [0..4, 4..11, 11..16, 5..6, 3..3] {
                Layer::random(Kind::Blocks(DType::F32), &PLAIN, false).check(make, t, range)?;
            }
            Ok(())
        }),
        ("experts in company", company),
    ]
}

fn all_experts<B: Backend>(
    make: &mut Make<'_, B>,
    t: &Tolerance,
    spec: &RouterSpec,
    corrects: bool,
) -> Result<(), Failure> {
    Layer::random(Kind::Blocks(DType::F32), spec, corrects).check(make, t, 0..N_EXPERTS)
}

/// A layer's experts and the rows it is given.
struct Layer {
    spec: RouterSpec,
    /// Of each expert `[ffn, hidden]`, `[ffn, hidden]`, `[hidden, ffn]`.
    experts: Vec<[Stored; 3]>,
    correction: Option<Vec<f32>>,
    /// `[n_rows, hidden]`
    x: Vec<f32>,
    /// `[n_rows, n_experts]`
    logits: Vec<f32>,
    /// Each row's experts and their weights.
    choices: Vec<Vec<(usize, f64)>>,
}

impl Layer {
    fn random(kind: Kind, spec: &RouterSpec, corrects: bool) -> Layer {
        let mut random = Random::new(40);
        let mut stored = |n_rows, n_cols| Stored::random(kind, n_rows, n_cols, &mut random);
        let expert = |_| [stored(FFN, HIDDEN), stored(FFN, HIDDEN), stored(HIDDEN, FFN)];
        let experts = (0..N_EXPERTS).map(expert).collect();
        let correction = corrects.then(|| random.floats(N_EXPERTS));
        let n_rows = N_ROWS[N_ROWS.len() - 1];
        let x = random.floats(n_rows * HIDDEN);
        let (mut logits, mut choices) = (Vec::new(), Vec::new());
        while choices.len() < n_rows {
            let row: Vec<f32> = random.floats(N_EXPERTS).iter().map(|v| v * 3.0).collect();
            let (choice, margin) = choose(&row, correction.as_deref(), spec);
            if margin > MARGIN {
                logits.extend(row);
                choices.push(choice);
            }
        }
        Layer { spec: *spec, experts, correction, x, logits, choices }
    }

    /// The sum over the experts of `range`, `[n_rows, hidden]`, of the rows `rows`.
    fn run<B: Backend>(
        &self,
        b: &mut B,
        experts: &B::Experts,
        rows: std::ops::Range<usize>,
    ) -> Result<Vec<f32>, Failure> {
        let x = b.tensor(&self.x[rows.start * HIDDEN..rows.end * HIDDEN], HIDDEN)?;
        let logits = b.tensor(&self.logits[rows.start * N_EXPERTS..rows.end * N_EXPERTS], N_EXPERTS)?;
        let correction = match &self.correction {
            Some(correction) => Some(b.tensor(correction, N_EXPERTS)?),
            None => None,
        };
        let routing = b.route(&logits, correction.as_ref(), &self.spec)?;
        let y = b.moe(&x, experts, &routing)?;
        eval(b, &y)
    }

    fn prepare<B: Backend>(&self, b: &mut B, range: std::ops::Range<usize>) -> Result<B::Experts, Failure> {
        let views = |i: usize| {
            let experts = &self.experts[range.clone()];
            experts.iter().map(|expert| expert[i].view()).collect::<Result<Vec<_>, Failure>>()
        };
        let (gate, up, down) = (views(0)?, views(1)?, views(2)?);
        let first = range.start as u32;
        Ok(b.experts(&ExpertParts { first, gate: &gate, up: &up, down: &down })?)
    }

    fn check<B: Backend>(
        &self,
        make: &mut Make<'_, B>,
        t: &Tolerance,
        range: std::ops::Range<usize>,
    ) -> Result<(), Failure> {
        let mut b = make()?;
        let experts = self.prepare(&mut b, range.clone())?;
        for n_rows in N_ROWS {
            let found = self.run(&mut b, &experts, 0..n_rows)?;
            let expected = (0..n_rows).flat_map(|row| self.expected(row, &range, t)).collect::<Vec<_>>();
            close(&format!("{:?}, experts {range:?}, {n_rows} rows", self.spec), &found, &expected)?;
        }
        Ok(())
    }

    fn expected(&self, row: usize, range: &std::ops::Range<usize>, t: &Tolerance) -> Vec<Approx> {
        let x = approx::given(&self.x[row * HIDDEN..][..HIDDEN]);
        let mut sum = vec![Approx::ZERO; HIDDEN];
        for &(expert, weight) in self.choices[row].iter().filter(|(expert, _)| range.contains(expert)) {
            let [gate, up, down] = &self.experts[expert];
            let gate = approx::linear(gate, 0..FFN, &x, t);
            let up = approx::linear(up, 0..FFN, &x, t);
            let gated: Vec<Approx> = gate.iter().zip(up).map(|(g, u)| g.swiglu(u, t)).collect();
            let y = approx::linear(down, 0..HIDDEN, &gated, t);
            for (sum, y) in sum.iter_mut().zip(y) {
                *sum = sum.plus(weight, y);
            }
        }
        sum
    }
}

/// The experts of a row with their weights, and what the choice hangs on.
fn choose(logits: &[f32], correction: Option<&[f32]>, spec: &RouterSpec) -> (Vec<(usize, f64)>, f64) {
    let logits = logits.iter().map(|&v| f64::from(v));
    let scores: Vec<f64> = match spec.scoring {
        Scoring::Softmax => softmax(logits),
        Scoring::Sigmoid => logits.map(|v| 1.0 / (1.0 + (-v).exp())).collect(),
    };
    let correction = |i: usize| correction.map_or(0.0, |c| f64::from(c[i]));
    let corrected: Vec<f64> = scores.iter().enumerate().map(|(i, s)| s + correction(i)).collect();
    let group_len = scores.len() / spec.n_groups;
    let group_scores = corrected.chunks(group_len).map(|group| {
        let mut group = group.to_vec();
        group.sort_by(|a, b| b.total_cmp(a));
        group[..2.min(group_len)].iter().sum::<f64>()
    });
    let (groups, margin) = best((0..spec.n_groups).zip(group_scores), spec.n_top_groups);
    let candidates = (0..scores.len()).filter(|i| groups.contains(&(i / group_len)));
    let (chosen, other) = best(candidates.map(|i| (i, corrected[i])), spec.top_k);
    let total: f64 = if spec.normalise { chosen.iter().map(|&i| scores[i]).sum() } else { 1.0 };
    let weight = |i: usize| scores[i] / total * f64::from(spec.scale);
    (chosen.into_iter().map(|i| (i, weight(i))).collect(), margin.min(other))
}

/// The `n` with the highest scores, and how far the next is below them.
fn best(scored: impl Iterator<Item = (usize, f64)>, n: usize) -> (Vec<usize>, f64) {
    let mut scored: Vec<(usize, f64)> = scored.collect();
    scored.sort_by(|a, b| b.1.total_cmp(&a.1));
    let margin = scored.get(n).map_or(f64::INFINITY, |next| scored[n - 1].1 - next.1);
    (scored[..n].iter().map(|s| s.0).collect(), margin)
}

/// Each row gives together with 79 others what it gives alone, and again what it gave before.
fn company<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let spec = RouterSpec { normalise: true, ..PLAIN };
    for kind in [Kind::Blocks(DType::F32), Kind::Blocks(DType::Q4_0)] {
        let layer = Layer::random(kind, &spec, false);
        let mut b = make()?;
        let experts = layer.prepare(&mut b, 0..N_EXPERTS)?;
        let n_rows = layer.choices.len();
        let together = layer.run(&mut b, &experts, 0..n_rows)?;
        if layer.run(&mut b, &experts, 0..n_rows)? != together {
            return Err(Failure(format!("{kind:?}: equal calls give different results")));
        }
        let mut alone = Vec::new();
        for row in 0..n_rows {
            alone.extend(layer.run(&mut b, &experts, row..row + 1)?);
        }
        same_in_company(&format!("{kind:?}"), &alone, &together, t)?;
    }
    Ok(())
}
