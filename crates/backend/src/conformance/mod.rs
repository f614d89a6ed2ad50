//! What every backend promises, operation by operation, against plain arithmetic in 64-bit floats; and that a row's
//! result depends on its sequence alone. Library code, so that a shipped program can hold the machine it runs on to
//! the promise. It knows the trait and no backend.

mod approx;
mod attention;
mod draw;
mod elementwise;
mod errors;
mod linear;
mod mla;
mod moe;
mod random;
mod sequences;
mod stored;

use base::DType;

use crate::{Backend, BackendError};

/// How far a backend's results may be from those of 64-bit arithmetic.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Largest difference of a result of about 1; larger ones may differ by this share of their size.
    pub value: f64,
    /// The same for what comes out of attention, whose cache may round.
    pub cache: f64,
    /// Largest difference between a row's results in different company; 0: bit-equal.
    pub company: f64,
    /// Whether the inputs of quantised weights are rounded to 8 bits, each 32 of them with a scale of their own, and
    /// those of bf16 weights to bf16.
    pub rounds_inputs: bool,
    /// Largest change of a weight of this format when it is prepared, as a share of the difference between the
    /// largest and the smallest of its 32 neighbours; 0 where the format is kept.
    pub weight_step: fn(DType) -> f64,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What was checked.
    pub name: &'static str,
    /// What was expected and found, if that is not the same.
    pub error: Option<String>,
}

/// All checks, each on backends of its own.
pub fn run<B: Backend>(
    make: &mut dyn FnMut() -> Result<B, BackendError>,
    tolerance: &Tolerance,
) -> Vec<Outcome> {
    let outcome = |(name, check): (&'static str, Check<B>)| {
        let error = check(make, tolerance).err().map(|failure| failure.0);
        Outcome { name, error }
    };
    checks::<B>().into_iter().map(outcome).collect()
}

/// Makes a backend without a past.
type Make<'a, B> = dyn FnMut() -> Result<B, BackendError> + 'a;

type Check<B> = fn(&mut Make<'_, B>, &Tolerance) -> Result<(), Failure>;

/// Why a check failed.
struct Failure(String);

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Failure {
        Failure(error.to_string())
    }
}

fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    let mut checks = linear::checks();
    checks.extend(elementwise::checks());
    checks.extend(attention::checks());
    checks.extend(mla::checks());
    checks.extend(moe::checks());
    checks.extend(draw::checks());
    checks.extend(errors::checks());
    checks
}

/// The values of `x`.
fn eval<B: Backend>(b: &mut B, x: &B::Tensor) -> Result<Vec<f32>, Failure> {
    let mut out = Vec::new();
    b.eval(x, &mut out)?;
    Ok(out)
}

/// Whether a row's results in different company agree.
fn same_in_company(what: &str, one: &[f32], other: &[f32], tolerance: &Tolerance) -> Result<(), Failure> {
    if one.len() != other.len() {
        return Err(Failure(format!("{what}: expected {} values, found {}", one.len(), other.len())));
    }
    for (i, (a, b)) in one.iter().zip(other).enumerate() {
        let limit = tolerance.company * f64::from(a.abs()).max(1.0);
        let same = a.to_bits() == b.to_bits() || f64::from((a - b).abs()) <= limit && limit > 0.0;
        if !same {
            return Err(Failure(format!("{what}, value {i} in other company: expected {a}, found {b}")));
        }
    }
    Ok(())
}
