//! Routing by hand-made scores, and experts bit for bit the same in every instruction family, company and pool. That
//! the sums are right is the conformance suite's matter.
#![allow(clippy::unwrap_used)]

mod common;

use base::{DType, MatrixView};
use common::Random;
use kernels::{Expert, Isa, MoeScratch, PackedMatrix, Pool, RouterSpec, Routing, Scoring, moe, route};

const SPEC: RouterSpec = RouterSpec {
    scoring: Scoring::Sigmoid,
    n_groups: 1,
    n_top_groups: 1,
    top_k: 2,
    normalise: true,
    scale: 1.0,
};

fn families() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn experts_of(logits: &[f32], correction: Option<&[f32]>, spec: &RouterSpec) -> Vec<u32> {
    route(Isa::Scalar, logits, logits.len(), correction, spec).experts
}

#[test]
fn the_best_are_chosen_and_of_equals_the_first() {
    assert_eq!(experts_of(&[0.0, 3.0, -1.0, 2.0], None, &SPEC), [1, 3]);
    assert_eq!(experts_of(&[1.0, 0.0, 1.0, 1.0], None, &SPEC), [0, 2]);
    assert_eq!(experts_of(&[-90.0, -80.0, -100.0, -85.0], None, &SPEC), [1, 3]);
}

#[test]
fn a_correction_chooses_but_does_not_weigh() {
    let logits = [2.0, 1.0, 0.0, -1.0];
    let routing = route(Isa::Scalar, &logits, 4, Some(&[-1.0, 0.0, 0.0, 1.0]), &SPEC);
    assert_eq!(routing.experts, [3, 1]);
    let score = |v: f32| 1.0 / (1.0 + (-v).exp());
    let total = score(-1.0) + score(1.0);
    for (found, logit) in routing.weights.iter().zip([-1.0, 1.0]) {
        assert!((found - score(logit) / total).abs() < 1e-6);
    }
}

#[test]
fn only_the_best_groups_are_asked() {
    // the best expert is alone in its group; the first group's two are more together
    let logits = [1.0, 1.1, 2.0, -9.0, 0.9, 1.0];
    let spec = RouterSpec { n_groups: 3, n_top_groups: 1, ..SPEC };
    assert_eq!(experts_of(&logits, None, &spec), [1, 0]);
    let spec = RouterSpec { n_top_groups: 2, top_k: 3, ..spec };
    assert_eq!(experts_of(&logits, None, &spec), [1, 0, 5]);
    // negative corrected scores in a chosen group still go before those of other groups
    let correction = [-5.0, -5.0, -7.0, -7.0, -7.0, -7.0];
    assert_eq!(experts_of(&logits, Some(&correction), &RouterSpec { n_top_groups: 1, ..spec_of(2) }), [1, 0]);
}

fn spec_of(top_k: usize) -> RouterSpec {
    RouterSpec { n_groups: 3, top_k, ..SPEC }
}

#[test]
fn logits_that_are_no_numbers_do_no_harm() {
    let logits = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
        let experts = experts_of(&logits, None, &RouterSpec { scoring, n_groups: 2, ..SPEC });
        assert!(experts.len() == 2 && experts.iter().all(|&e| e < 4));
    }
}

#[test]
#[should_panic(expected = "3 of 2 experts")]
fn more_experts_than_groups_hold_are_refused() {
    experts_of(&[0.0; 6], None, &spec_of(3));
}

#[test]
fn weights_are_the_same_bits_everywhere() {
    let mut random = Random(1);
    let logits: Vec<f32> = random.floats(20 * 96).iter().map(|v| 5.0 * v).collect();
    for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
        let spec = RouterSpec { scoring, top_k: 8, n_groups: 4, n_top_groups: 2, scale: 2.5, ..SPEC };
        let expected = route(Isa::Scalar, &logits, 96, None, &spec);
        for weights in expected.weights.chunks(8) {
            assert!((weights.iter().sum::<f32>() - 2.5).abs() < 1e-5);
        }
        for isa in families() {
            assert_eq!(route(isa, &logits, 96, None, &spec), expected, "{isa}");
        }
    }
}

#[test]
fn a_row_is_the_same_bits_in_every_company_family_and_pool() {
    let (n_rows, n_experts, hidden, ffn) = (40, 12, 64, 96);
    for dtype in [DType::F32, DType::Q4_0, DType::BF16] {
        let mut random = Random(2);
        let mut pack = |n_out: usize, n_in: usize| {
            let bytes = random.blocks(dtype, n_out * n_in);
            PackedMatrix::pack(&Pool::unpinned(2), &MatrixView::whole(dtype, n_out, n_in, &bytes).unwrap())
                .unwrap()
        };
        let mut expert =
            |_| Expert { gate: pack(ffn, hidden), up: pack(ffn, hidden), down: pack(hidden, ffn) };
        let experts: Vec<Expert> = (0..n_experts).map(&mut expert).collect();
        let (x, logits) = (random.floats(n_rows * hidden), random.floats(n_rows * n_experts));
        let run = |pool: &Pool, isa, rows: std::ops::Range<usize>, here: std::ops::Range<usize>| {
            let logits = &logits[rows.start * n_experts..rows.end * n_experts];
            let routing: Routing = route(isa, logits, n_experts, None, &RouterSpec { top_k: 3, ..SPEC });
            let x = &x[rows.start * hidden..rows.end * hidden];
            let (mut scratch, mut out) = (MoeScratch::default(), vec![f32::NAN; x.len()]);
            let first = here.start as u32;
            moe(pool, isa, x, &experts[here], first, &routing, &mut scratch, &mut out);
            out
        };
        let alone = Pool::unpinned(1);
        let reference: Vec<f32> =
            (0..n_rows).flat_map(|row| run(&alone, Isa::Scalar, row..row + 1, 0..n_experts)).collect();
        for isa in families() {
            for n_threads in 1..=3 {
                let pool = Pool::unpinned(n_threads);
                assert_eq!(run(&pool, isa, 0..n_rows, 0..n_experts), reference, "{isa} {dtype}");
            }
        }
        // what two ranks hold adds up, and none is nothing
        let (first, second) =
            (run(&alone, Isa::Scalar, 0..n_rows, 0..5), run(&alone, Isa::Scalar, 0..n_rows, 5..12));
        for ((a, b), sum) in first.iter().zip(second).zip(&reference) {
            assert!((a + b - sum).abs() <= 1e-4 * (1.0 + sum.abs()), "{dtype}");
        }
        assert!(run(&alone, Isa::Scalar, 0..n_rows, 3..3).iter().all(|v| *v == 0.0));
    }
}
