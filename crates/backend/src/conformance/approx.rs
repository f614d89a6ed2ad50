//! Arithmetic that carries along how far a backend may be from it: what the results of the operations are held to.

use base::DType;

use super::{
    Failure, Tolerance,
    stored::{Kind, Stored},
};

/// Values of a row whose rounding to 8 bits shares a scale, and neighbours of a weight.
const GROUP_LEN: usize = 32;
/// Half a step of rounding to 8 bits with its own errors, in steps.
const HALF_STEP: f64 = 0.501;
/// Steps from zero to the largest number of a group.
const N_STEPS: f64 = 127.0;
/// Half a step of rounding to bf16, as a share of the number.
const BF16_HALF_STEP: f64 = 1.0 / 256.0;
/// Differences of many inputs have nothing to do with each other: their sum stays below this many roots of the sum of
/// their squares.
const SPREAD: f64 = 4.0;
/// The steepest slope of silu.
const SILU_SLOPE: f64 = 1.1;

/// A number and the largest allowed difference from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approx {
    pub(super) value: f64,
    pub(super) off: f64,
}

impl Approx {
    pub(super) const ZERO: Approx = Approx { value: 0.0, off: 0.0 };

    /// A number that a backend is given.
    pub(super) fn given(value: f32) -> Approx {
        Approx { value: f64::from(value), off: 0.0 }
    }

    /// A number that a backend computes.
    pub(super) fn computed(value: f64, tolerance: &Tolerance) -> Approx {
        Approx { value, off: tolerance.value * value.abs().max(1.0) }
    }

    /// `self + factor · x`
    pub(super) fn plus(self, factor: f64, x: Approx) -> Approx {
        Approx { value: self.value + factor * x.value, off: self.off + factor.abs() * x.off }
    }

    /// `silu(self) · up`
    pub(super) fn swiglu(self, up: Approx, tolerance: &Tolerance) -> Approx {
        let silu = self.value / (1.0 + (-self.value).exp());
        let silu_off = SILU_SLOPE * self.off;
        let result = Approx::computed(silu * up.value, tolerance);
        let off = silu_off * (up.value.abs() + up.off) + silu.abs() * up.off;
        Approx { off: result.off + off, ..result }
    }
}

/// A sum of independent differences.
#[derive(Default)]
struct Offs {
    sum: f64,
    squares: f64,
}

impl Offs {
    fn add(&mut self, off: f64) {
        self.sum += off.abs();
        self.squares += off * off;
    }

    fn total(&self) -> f64 {
        self.sum.min(SPREAD * self.squares.sqrt())
    }
}

pub(super) fn given(values: &[f32]) -> Vec<Approx> {
    values.iter().map(|&v| Approx::given(v)).collect()
}

/// `w[rows] · x`
pub(super) fn linear(
    w: &Stored,
    rows: std::ops::Range<usize>,
    x: &[Approx],
    tolerance: &Tolerance,
) -> Vec<Approx> {
    let (rounding, step) = (rounding(w.kind, x, tolerance), weight_step(w.kind, tolerance));
    let output = |r: usize| {
        let (mut value, mut squares) = (0.0, 0.0);
        let mut offs = Offs::default();
        let runs = x.chunks(GROUP_LEN).zip(rounding.chunks(GROUP_LEN)).zip(w.row(r).chunks(GROUP_LEN));
        for ((x, rounding), w_run) in runs {
            let weight_off = step * range(w_run);
            for ((x, rounding), w) in x.iter().zip(rounding).zip(w_run) {
                value += x.value * w;
                squares += (x.value * w).powi(2);
                offs.add(w * x.off);
                offs.add(w * rounding);
                offs.add(weight_off * x.value);
            }
        }
        Approx { value, off: offs.total() + tolerance.value * squares.sqrt().max(1.0) }
    };
    rows.map(output).collect()
}

/// Row `r` of `w` as an embedding.
pub(super) fn row(w: &Stored, r: usize, tolerance: &Tolerance) -> Vec<Approx> {
    let step = weight_step(w.kind, tolerance);
    let run = |run: &[f64]| {
        let off = step * range(run);
        let value = |&v: &f64| Approx { off: Approx::computed(v, tolerance).off + off, value: v };
        run.iter().map(value).collect::<Vec<_>>()
    };
    w.row(r).chunks(GROUP_LEN).flat_map(run).collect()
}

fn weight_step(kind: Kind, tolerance: &Tolerance) -> f64 {
    match kind {
        Kind::Blocks(dtype) => (tolerance.weight_step)(dtype),
        Kind::Affine { .. } | Kind::Fp8 | Kind::Mxfp4 => 0.0,
    }
}

/// What rounding may change in each of the inputs.
fn rounding(kind: Kind, x: &[Approx], tolerance: &Tolerance) -> Vec<f64> {
    let size = |x: &Approx| x.value.abs() + x.off;
    match kind {
        _ if !tolerance.rounds_inputs => vec![0.0; x.len()],
        Kind::Blocks(DType::BF16) => x.iter().map(|x| BF16_HALF_STEP * size(x)).collect(),
        _ if kind.is_float() => vec![0.0; x.len()],
        _ => {
            let step = |run: &[Approx]| HALF_STEP * run.iter().map(size).fold(0.0, f64::max) / N_STEPS;
            x.chunks(GROUP_LEN).flat_map(|run| std::iter::repeat_n(step(run), run.len())).collect()
        }
    }
}

fn range(run: &[f64]) -> f64 {
    let max = run.iter().fold(f64::NEG_INFINITY, |a, &b| a.max(b));
    let min = run.iter().fold(f64::INFINITY, |a, &b| a.min(b));
    max - min
}

/// Whether a backend's numbers are what they should be.
pub(super) fn close(what: &str, found: &[f32], expected: &[Approx]) -> Result<(), Failure> {
    if found.len() != expected.len() {
        return Err(Failure(format!("{what}: expected {} values, found {}", expected.len(), found.len())));
    }
    for (i, (&f, e)) in found.iter().zip(expected).enumerate() {
        let near = (f64::from(f) - e.value).abs() <= e.off;
        if !near {
            let (value, off) = (e.value, e.off);
            return Err(Failure(format!("{what}, value {i}: expected {value} ± {off:.2e}, found {f}")));
        }
    }
    Ok(())
}
