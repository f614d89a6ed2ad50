//! Norms, sums, SwiGLU, the choice of rows, and what happens to an operand that is used again.

use super::{
    Check, Failure, Make, Tolerance,
    approx::{Approx, close, given},
    eval,
    random::Random,
    same_in_company,
};
use crate::Backend;

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("rms_norm", rms_norm),
        ("swiglu", swiglu),
        ("add", add),
        ("select_rows", select_rows),
        ("no rows", no_rows),
        ("all_reduce of one", all_reduce),
        ("clones", clones),
    ]
}

fn rms_norm<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(10);
    for (n_rows, n_cols) in [(1, 48), (5, 576), (70, 64)] {
        let (x, weight) = (random.floats(n_rows * n_cols), random.floats(n_cols));
        let (input, norm) = (b.tensor(&x, n_cols)?, b.norm(&weight, 1e-5)?);
        let y = b.rms_norm(&input, &norm)?;
        let y = eval(&mut b, &y)?;
        let expected: Vec<f64> = x.chunks(n_cols).flat_map(|row| normalised(row, &weight, 1e-5)).collect();
        close("rms_norm", &y, &computed(expected, t))?;
        let first = b.tensor(&x[..n_cols], n_cols)?;
        let first = b.rms_norm(&first, &norm)?;
        same_in_company("rms_norm", &eval(&mut b, &first)?, &y[..n_cols], t)?;
    }
    Ok(())
}

/// `x / sqrt(mean(x²) + eps) · weight`
pub(super) fn normalised(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / x.len() as f64;
    let inverse = 1.0 / (mean + f64::from(eps)).sqrt();
    x.iter().zip(weight).map(|(&v, &w)| f64::from(v) * inverse * f64::from(w)).collect()
}

fn swiglu<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(11);
    let (x, y): (Vec<f32>, _) =
        (random.floats(70 * 33).into_iter().map(|v| v * 20.0).collect(), random.floats(70 * 33));
    let (gate, up) = (b.tensor(&x, 33)?, b.tensor(&y, 33)?);
    let gated = b.swiglu(gate, up)?;
    let expected = given(&x).into_iter().zip(given(&y)).map(|(gate, up)| gate.swiglu(up, t));
    close("swiglu", &eval(&mut b, &gated)?, &expected.collect::<Vec<_>>())
}

fn add<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(12);
    let (x, y) = (random.floats(70 * 33), random.floats(70 * 33));
    let (a, c) = (b.tensor(&x, 33)?, b.tensor(&y, 33)?);
    let sum = b.add(a, &c)?;
    let expected = x.iter().zip(&y).map(|(&x, &y)| f64::from(x) + f64::from(y));
    close("add", &eval(&mut b, &sum)?, &computed(expected.collect(), t))?;
    close("the second operand of add", &eval(&mut b, &c)?, &given(&y))
}

fn select_rows<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let x = Random::new(13).floats(4 * 10);
    let rows = b.tensor(&x, 10)?;
    let rows = b.select_rows(&rows, &[3, 0, 3])?;
    let expected = [&x[30..], &x[..10], &x[30..]].concat();
    close("select_rows", &eval(&mut b, &rows)?, &given(&expected))
}

/// What a step computes whose prompts all go on: the head of no rows.
fn no_rows<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(14);
    let (x, norm) = (b.tensor(&random.floats(64), 32)?, b.norm(&random.floats(32), 1e-5)?);
    let bytes: Vec<u8> = random.floats(32 * 5).iter().flat_map(|v| v.to_le_bytes()).collect();
    let view = base::MatrixView::whole(base::DType::F32, 5, 32, &bytes);
    let weight = base::WeightView::Blocks(view.ok_or_else(|| Failure("no matrix".to_owned()))?);
    let head = b.linear(&[crate::Part { weight, bias: None }])?;
    let none = b.select_rows(&x, &[])?;
    let none = b.rms_norm(&none, &norm)?;
    let [logits] = b.matmul(&none, &head)?;
    close("logits of no rows", &eval(&mut b, &logits)?, &[])
}

fn all_reduce<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let x = Random::new(15).floats(40);
    let alone = b.tensor(&x, 20)?;
    let alone = b.all_reduce(alone)?;
    close("all_reduce of one", &eval(&mut b, &alone)?, &given(&x))
}

/// Operations may reuse the memory of what they are given by value, but not what another handle still shows.
fn clones<B: Backend>(make: &mut Make<'_, B>, _: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(16);
    let (x, y) = (random.floats(40), random.floats(40));
    let (a, c) = (b.tensor(&x, 20)?, b.tensor(&y, 20)?);
    let sum = b.add(a.clone(), &c)?;
    let twice = b.add(sum.clone(), &sum)?;
    let gated = b.swiglu(a.clone(), c.clone())?;
    let reduced = b.all_reduce(a.clone())?;
    for unused in [twice, gated, reduced] {
        eval(&mut b, &unused)?;
    }
    close("a tensor that was given away as a clone", &eval(&mut b, &a)?, &given(&x))?;
    close("the other", &eval(&mut b, &c)?, &given(&y))
}

/// Numbers that a backend computes.
pub(super) fn computed(values: Vec<f64>, t: &Tolerance) -> Vec<Approx> {
    values.into_iter().map(|v| Approx::computed(v, t)).collect()
}
