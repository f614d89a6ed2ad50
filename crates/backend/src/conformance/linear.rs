//! Linear layers and embedding tables in every stored form.

use base::{DType, MatrixView, TokenId, WeightView};

use super::{
    Check, Failure, Make, Tolerance,
    approx::{self, Approx, close},
    eval,
    random::Random,
    same_in_company, sequences,
    stored::{Kind, Stored},
};
use crate::{Backend, Part};

/// Rows of the inputs: one as in decode, a few, and enough for other kernels.
const N_ROWS: [usize; 3] = [1, 3, 40];

pub(super) fn checks<B: Backend>() -> Vec<(&'static str, Check<B>)> {
    vec![
        ("linear, F32", |make, t| blocks(make, t, DType::F32)),
        ("linear, F16", |make, t| blocks(make, t, DType::F16)),
        ("linear, BF16", |make, t| blocks(make, t, DType::BF16)),
        ("linear, Q4_0", |make, t| blocks(make, t, DType::Q4_0)),
        ("linear, Q4_1", |make, t| blocks(make, t, DType::Q4_1)),
        ("linear, Q5_0", |make, t| blocks(make, t, DType::Q5_0)),
        ("linear, Q5_1", |make, t| blocks(make, t, DType::Q5_1)),
        ("linear, Q8_0", |make, t| blocks(make, t, DType::Q8_0)),
        ("linear, Q2_K", |make, t| blocks(make, t, DType::Q2_K)),
        ("linear, Q3_K", |make, t| blocks(make, t, DType::Q3_K)),
        ("linear, Q4_K", |make, t| blocks(make, t, DType::Q4_K)),
        ("linear, Q5_K", |make, t| blocks(make, t, DType::Q5_K)),
        ("linear, Q6_K", |make, t| blocks(make, t, DType::Q6_K)),
        ("linear, affine 4 bits", |make, t| affine(make, t, 4)),
        ("linear, affine 5 bits", |make, t| affine(make, t, 5)),
        ("linear, affine 6 bits", |make, t| affine(make, t, 6)),
        ("linear, affine 8 bits", |make, t| affine(make, t, 8)),
        ("linear, FP8", |make, t| product(&mut make()?, t, Kind::Fp8)),
        ("linear, MXFP4", |make, t| product(&mut make()?, t, Kind::Mxfp4)),
        ("linear of several parts with biases", parts),
        ("linear of a part of a matrix", cut),
        ("linear in company", company),
        ("embedding", embedding),
    ]
}

fn blocks<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance, dtype: DType) -> Result<(), Failure> {
    product(&mut make()?, t, Kind::Blocks(dtype))
}

fn affine<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance, bits: u32) -> Result<(), Failure> {
    let mut b = make()?;
    for group_size in [32, 64, 128] {
        for scale_dtype in [DType::F32, DType::F16, DType::BF16] {
            for has_biases in [true, false] {
                product(&mut b, t, Kind::Affine { bits, group_size, scale_dtype, has_biases })?;
            }
        }
    }
    Ok(())
}

/// A weight whose number of outputs is no round number, for all numbers of rows.
fn product<B: Backend>(b: &mut B, t: &Tolerance, kind: Kind) -> Result<(), Failure> {
    let mut random = Random::new(1);
    let stored = Stored::random(kind, 37, 512, &mut random);
    let linear = b.linear(&[Part { weight: stored.view()?, bias: None }])?;
    for n_rows in N_ROWS {
        let x = random.floats(n_rows * stored.n_cols);
        let input = b.tensor(&x, stored.n_cols)?;
        let [y] = b.matmul(&input, &linear)?;
        close(&format!("{kind:?}, {n_rows} rows"), &eval(b, &y)?, &expected(&stored, &x, None, t))?;
    }
    Ok(())
}

/// `x · wᵀ + bias`
fn expected(w: &Stored, x: &[f32], bias: Option<&[f32]>, t: &Tolerance) -> Vec<Approx> {
    let row = |x: &[f32]| {
        let mut y = approx::linear(w, 0..w.n_rows, &approx::given(x), t);
        for (y, b) in y.iter_mut().zip(bias.unwrap_or_default()) {
            y.value += f64::from(*b);
        }
        y
    };
    x.chunks(w.n_cols).flat_map(row).collect()
}

/// Queries, keys and values of a mixed file: formats and numbers of outputs differ.
fn parts<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mut random = Random::new(2);
    let kimi = Kind::Affine { bits: 4, group_size: 32, scale_dtype: DType::BF16, has_biases: false };
    let mlx = Kind::Affine { bits: 4, group_size: 64, scale_dtype: DType::F16, has_biases: true };
    for kinds in [
        [Kind::Blocks(DType::F32); 3],
        [Kind::Blocks(DType::Q4_K), Kind::Blocks(DType::Q4_K), Kind::Blocks(DType::Q6_K)],
        [Kind::Blocks(DType::BF16), Kind::Blocks(DType::Q8_0), kimi],
        [mlx, mlx, mlx],
        [Kind::Fp8, Kind::Mxfp4, Kind::Fp8],
    ] {
        let [q, k, v] = [(kinds[0], 48), (kinds[1], 20), (kinds[2], 20)]
            .map(|(kind, n_out)| Stored::random(kind, n_out, 256, &mut random));
        let (q_bias, v_bias) = (random.floats(48), random.floats(20));
        let biases = [Some(&q_bias[..]), None, Some(&v_bias[..])];
        let linear = b.linear(&[
            Part { weight: q.view()?, bias: biases[0] },
            Part { weight: k.view()?, bias: biases[1] },
            Part { weight: v.view()?, bias: biases[2] },
        ])?;
        for n_rows in N_ROWS {
            let x = random.floats(n_rows * 256);
            let input = b.tensor(&x, 256)?;
            let ys: [B::Tensor; 3] = b.matmul(&input, &linear)?;
            for ((y, w), bias) in ys.iter().zip([&q, &k, &v]).zip(biases) {
                close(&format!("{:?} of {kinds:?}", w.kind), &eval(&mut b, y)?, &expected(w, &x, bias, t))?;
            }
        }
    }
    Ok(())
}

/// Rows and columns inside a larger matrix; the columns begin inside a block.
fn cut<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    for dtype in DType::ALL {
        let mut random = Random::new(3);
        let mut whole = Stored::random(Kind::Blocks(dtype), 40, 768, &mut random);
        let WeightView::Blocks(view) = whole.view()? else { continue };
        let (rows, cols) = (3..23, 96..608);
        let part: Option<MatrixView<'_>> = view.cut(rows.clone(), cols.clone());
        let part = part.ok_or_else(|| Failure(format!("{dtype}: no cut at {rows:?}, {cols:?}")))?;
        let linear = b.linear(&[Part { weight: WeightView::Blocks(part), bias: None }])?;
        let x = random.floats(5 * cols.len());
        let input = b.tensor(&x, cols.len())?;
        let [y] = b.matmul(&input, &linear)?;
        let y = eval(&mut b, &y)?;
        let values: Vec<f64> = rows.clone().flat_map(|r| whole.row(r)[cols.clone()].to_vec()).collect();
        (whole.values, whole.n_rows, whole.n_cols) = (values, rows.len(), cols.len());
        close(&format!("{dtype}"), &y, &expected(&whole, &x, None, t))?;
    }
    Ok(())
}

/// Each of 70 rows gives together with the others what it gives alone, and again what it gave before.
fn company<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mlx = Kind::Affine { bits: 4, group_size: 64, scale_dtype: DType::BF16, has_biases: true };
    for kind in [Kind::Blocks(DType::F32), Kind::Blocks(DType::Q4_K), Kind::Blocks(DType::Q8_0), mlx] {
        let mut random = Random::new(4);
        let stored = Stored::random(kind, 24, 256, &mut random);
        let linear = b.linear(&[Part { weight: stored.view()?, bias: None }])?;
        let mut apply = |x: &[f32]| {
            let input = b.tensor(x, 256)?;
            let [y] = b.matmul(&input, &linear)?;
            eval(&mut b, &y)
        };
        let x = random.floats(70 * 256);
        let together = apply(&x)?;
        if apply(&x)? != together {
            return Err(Failure(format!("{kind:?}: equal calls give different results")));
        }
        let alone = x.chunks(256).map(&mut apply).collect::<Result<Vec<_>, Failure>>()?;
        same_in_company(&format!("{kind:?}"), &alone.concat(), &together, t)?;
    }
    Ok(())
}

/// A table that holds some words of the vocabulary.
fn embedding<B: Backend>(make: &mut Make<'_, B>, t: &Tolerance) -> Result<(), Failure> {
    let mut b = make()?;
    let mlx = Kind::Affine { bits: 6, group_size: 64, scale_dtype: DType::BF16, has_biases: true };
    let kinds = DType::ALL.into_iter().map(Kind::Blocks).chain([mlx, Kind::Fp8]);
    for kind in kinds {
        let table = Stored::random(kind, 10, 256, &mut Random::new(5));
        let linear = b.linear(&[Part { weight: table.view()?, bias: None }])?;
        let words = [5, 14, 4, 15, 0, 7, u32::MAX];
        let mut batch = sequences::batch(&[(0, 0..words.len())]);
        batch.tokens = words.map(TokenId).to_vec();
        let inputs = b.inputs(&batch)?;
        let rows = b.embed(&linear, 5, &inputs)?;
        let word = |&word: &u32| match word.checked_sub(5).filter(|&w| w < 10) {
            None => vec![Approx::ZERO; 256],
            Some(w) => approx::row(&table, w as usize, t),
        };
        let expected: Vec<Approx> = words.iter().flat_map(word).collect();
        close(&format!("{kind:?}"), &eval(&mut b, &rows)?, &expected)?;
    }
    Ok(())
}
