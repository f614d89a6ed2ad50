//! Packed weights and matmul: against dequantised weights within the rounding of activations, and bit for bit
//! between instruction families, batches and numbers of threads.
#![allow(clippy::unwrap_used)]

mod common;

use base::{DType, MatrixView};
use common::Random;
use kernels::{Isa, PackedMatrix, Pool, dequantize, matmul};
use proptest::prelude::*;

fn families() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.is_available())
}

fn pack(dtype: DType, n_out: usize, n_in: usize, bytes: &[u8]) -> PackedMatrix {
    PackedMatrix::pack(&Pool::unpinned(2), &MatrixView::whole(dtype, n_out, n_in, bytes).unwrap()).unwrap()
}

/// x · wᵀ in f64, and a bound for what rounded activations may change: half a step per value.
fn expected(dtype: DType, x: &[f32], w: &[f32], n_in: usize) -> Vec<(f64, f64)> {
    let dot = |x: &[f32], w: &[f32]| {
        let mut sum = 0.0;
        let mut bound = 0.0;
        for (x, w) in x.chunks(32).zip(w.chunks(32)) {
            let step = x.iter().fold(0.0, |m: f32, v| m.max(v.abs())) / 127.0;
            for (x, w) in x.iter().zip(w) {
                sum += f64::from(*x) * f64::from(*w);
                let rounding = match dtype {
                    DType::F32 | DType::F16 => 0.0,
                    DType::BF16 => f64::from(x.abs()) / 256.0,
                    _ => 0.501 * f64::from(step),
                };
                bound += f64::from(w.abs()) * (rounding + 1e-5 * f64::from(x.abs()));
            }
        }
        (sum, bound + 1e-5)
    };
    x.chunks(n_in).flat_map(|x| w.chunks(n_in).map(move |w| dot(x, w))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_family_batch_and_pool_gives_the_same_right_result(
        dtype in prop::sample::select(DType::ALL.to_vec()),
        n_out in 1usize..100,
        n_units in 1usize..6,
        n_rows in 1usize..=20,
        n_threads in 1usize..=3,
        seed: u64,
    ) {
        let unit = if dtype.block_len() == 1 { 37 } else { dtype.block_len() };
        let n_in = unit * n_units;
        let mut random = Random(seed);
        let bytes = random.blocks(dtype, n_out * n_in);
        let other_bytes = random.blocks(DType::Q4_0, 32 * 40);
        let x = random.floats(n_rows * n_in);
        let w = pack(dtype, n_out, n_in, &bytes);
        let mut values = vec![0.0; n_out * n_in];
        dequantize(dtype, &bytes, &mut values);
        let mut row = vec![0.0; n_in];
        for r in 0..n_out {
            w.dequantize_row(r, &mut row);
            prop_assert_eq!(&row[..], &values[r * n_in..][..n_in]);
        }

        let alone = Pool::unpinned(1);
        let mut reference = vec![0.0; n_rows * n_out];
        for (x, out) in x.chunks(n_in).zip(reference.chunks_mut(n_out)) {
            matmul(&alone, Isa::Scalar, x, &[&w], &mut [out]);
        }
        for (out, (exact, bound)) in reference.iter().zip(expected(dtype, &x, &values, n_in)) {
            prop_assert!((f64::from(*out) - exact).abs() <= bound, "{} {} {}", out, exact, bound);
        }
        let pool = Pool::unpinned(n_threads);
        for isa in families() {
            let (mut first, mut second) = (vec![f32::NAN; n_rows * n_out], vec![f32::NAN; n_rows * n_out]);
            matmul(&pool, isa, &x, &[&w, &w], &mut [&mut first, &mut second]);
            prop_assert_eq!(&first, &reference, "{}", isa);
            prop_assert_eq!(&second, &reference, "{}", isa);
            // Weights of several formats that share x.
            if n_in.is_multiple_of(32) {
                let n_other = other_bytes.len() / 18 * 32 / n_in;
                let other = pack(DType::Q4_0, n_other, n_in, &other_bytes[..n_other * n_in / 32 * 18]);
                let mut small = vec![f32::NAN; n_rows * n_other];
                matmul(&pool, isa, &x, &[&other, &w], &mut [&mut small, &mut first]);
                prop_assert_eq!(&first, &reference, "{}", isa);
                let mut again = small.clone();
                matmul(&alone, Isa::Scalar, &x, &[&other], &mut [&mut again]);
                prop_assert_eq!(small, again, "{}", isa);
            }
        }
    }

    #[test]
    fn any_cut_gives_the_values_of_the_whole(
        dtype in prop::sample::select(DType::ALL.to_vec()),
        (row_start, row_end) in (0usize..20, 20usize..40),
        (col_start, col_end) in (0usize..12, 12usize..=24),
        seed: u64,
    ) {
        let (n_out, n_in) = (40, 24 * 32);
        let bytes = Random(seed).blocks(dtype, n_out * n_in);
        let whole = MatrixView::whole(dtype, n_out, n_in, &bytes).unwrap();
        let cols = col_start * 32..col_end * 32;
        let cut = PackedMatrix::pack(&Pool::unpinned(2), &whole.cut(row_start..row_end, cols.clone()).unwrap()).unwrap();
        let whole = PackedMatrix::pack(&Pool::unpinned(2), &whole).unwrap();
        let (mut row, mut part, mut values) = (vec![0.0; n_in], vec![0.0; cols.len()], Vec::new());
        for r in row_start..row_end {
            whole.dequantize_row(r, &mut row);
            cut.dequantize_row(r - row_start, &mut part);
            prop_assert_eq!(&part[..], &row[cols.clone()]);
            values.extend(&part);
        }
        let (x, n_out) = (Random(!seed).floats(2 * cols.len()), row_end - row_start);
        let mut reference = vec![f32::NAN; 2 * n_out];
        for isa in families() {
            let mut out = vec![f32::NAN; 2 * n_out];
            matmul(&Pool::unpinned(1), isa, &x, &[&cut], &mut [&mut out]);
            if isa == Isa::Scalar {
                reference.clone_from(&out);
            }
            prop_assert_eq!(&out, &reference, "{}", isa);
        }
        for (out, (exact, bound)) in reference.iter().zip(expected(dtype, &x, &values, cols.len())) {
            prop_assert!((f64::from(*out) - exact).abs() <= bound, "{} {} {}", out, exact, bound);
        }
    }
}

/// Rows so long that sums of float weights are taken up again, with the last of several row blocks incomplete.
#[test]
fn long_rows_of_floats_give_the_same_right_result() {
    let (n_out, n_in, n_rows) = (71, 2 * 2300 + 1, 13);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let mut random = Random(7);
        let bytes = random.blocks(dtype, n_out * n_in);
        let x = random.floats(n_rows * n_in);
        let w = pack(dtype, n_out, n_in, &bytes);
        let mut values = vec![0.0; n_out * n_in];
        dequantize(dtype, &bytes, &mut values);
        let mut reference = vec![f32::NAN; n_rows * n_out];
        for (x, out) in x.chunks(n_in).zip(reference.chunks_mut(n_out)) {
            matmul(&Pool::unpinned(1), Isa::Scalar, x, &[&w], &mut [out]);
        }
        for (out, (exact, bound)) in reference.iter().zip(expected(dtype, &x, &values, n_in)) {
            assert!((f64::from(*out) - exact).abs() <= bound, "{dtype} {out} {exact} {bound}");
        }
        for isa in families() {
            let mut out = vec![f32::NAN; n_rows * n_out];
            matmul(&Pool::unpinned(2), isa, &x, &[&w], &mut [&mut out]);
            assert_eq!(out, reference, "{dtype} {isa}");
        }
    }
}

/// Products down to the smallest f32 and below, sums that cancel, and numbers of all signs that are not finite.
#[test]
fn bf16_is_the_same_in_every_family_at_the_limits() {
    let mut random = Random(11);
    let mut float = |exponents: std::ops::Range<u32>| {
        let exponent = exponents.start + random.bits() % (exponents.end - exponents.start);
        f32::from_bits(random.bits() & 0x807f_ffff | exponent << 23)
    };
    let (n_out, n_in, n_rows) = (64, 64, 8);
    for _ in 0..200 {
        // From denormal numbers to 1, and around the limits of what becomes zero.
        for exponents in [0..128, 127 - 66..127 - 60, 127 - 50..127 - 44] {
            let mut w: Vec<f32> = (0..n_out * n_in).map(|_| float(exponents.clone())).collect();
            let mut x: Vec<f32> = (0..n_rows * n_in).map(|_| float(exponents.clone())).collect();
            (w[5 * n_in], w[6 * n_in], w[7 * n_in]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
            (x[1], x[n_in + 1], x[2 * n_in + 1]) = (f32::NAN, f32::INFINITY, f32::MAX);
            let bytes: Vec<u8> =
                w.iter().flat_map(|w| (w.to_bits() >> 16).to_le_bytes()[..2].to_vec()).collect();
            let w = pack(DType::BF16, n_out, n_in, &bytes);
            let out_of = |isa: Isa| {
                let mut out = vec![0.0; n_rows * n_out];
                matmul(&Pool::unpinned(1), isa, &x, &[&w], &mut [&mut out]);
                out.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect::<Vec<_>>()
            };
            let reference = out_of(Isa::Scalar);
            assert!(reference.contains(&u32::MAX) && reference.iter().any(|v| *v != u32::MAX));
            families().for_each(|isa| assert_eq!(out_of(isa), reference, "{isa}"));
        }
    }
}

/// Codes, scales and activations at their limits, where narrower integers would overflow.
#[test]
fn extreme_codes_are_exact() {
    for fill in [0u8, 0x7f, 0x80, 0xff] {
        let mut bytes = vec![fill; 32 * 34];
        bytes.chunks_mut(34).for_each(|b| b[..2].copy_from_slice(&0x3c00u16.to_le_bytes()));
        let w = pack(DType::Q8_0, 16, 64, &bytes);
        let x = [[1.0f32; 64], [-1.0; 64]].concat();
        for isa in families() {
            let mut out = [0.0; 32];
            matmul(&Pool::unpinned(1), isa, &x, &[&w], &mut [&mut out]);
            let exact = 64.0 * f32::from(fill as i8);
            assert!(out[..16].iter().all(|v| (v - exact).abs() < 0.01), "{isa} {out:?}");
            assert!(out[16..].iter().all(|v| (v + exact).abs() < 0.01), "{isa} {out:?}");
        }
    }
}

#[test]
fn memory_is_the_files() {
    let simple = [DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1, DType::Q8_0, DType::F16, DType::F32];
    for dtype in simple.into_iter().chain([DType::Q6_K]) {
        let bytes = Random(1).blocks(dtype, 32 * 256);
        assert_eq!(pack(dtype, 32, 256, &bytes).bytes().0, bytes.len() as u64, "{dtype}");
    }
    // Scales of 6 bits take 8.
    for dtype in [DType::Q4_K, DType::Q5_K] {
        let bytes = Random(1).blocks(dtype, 32 * 256);
        assert_eq!(pack(dtype, 32, 256, &bytes).bytes().0, (bytes.len() + 32 * 4) as u64, "{dtype}");
    }
}

#[test]
fn views_that_lie_are_refused() {
    let bytes = vec![0u8; 2 * 144];
    let good = MatrixView::whole(DType::Q4_K, 2, 256, &bytes).unwrap();
    let refused = |view: MatrixView| PackedMatrix::pack(&Pool::unpinned(2), &view).err().unwrap().to_string();
    assert!(refused(MatrixView { n_rows: 3, ..good }).contains("found 288"));
    assert!(refused(MatrixView { n_rows: usize::MAX, ..good }).contains("expected at least"));
    assert!(refused(MatrixView { n_cols: usize::MAX & !31, ..good }).contains("expected at least"));
    assert!(refused(MatrixView { row_stride: 10, ..good }).contains("expected at least"));
    assert!(refused(MatrixView { col_start: 16, n_cols: 224, ..good }).contains("multiples of 32"));
    assert!(refused(MatrixView { col_start: 256, n_cols: 0, ..good }).contains("columns 256..256"));
    assert!(
        PackedMatrix::pack(&Pool::unpinned(2), &MatrixView { n_rows: 0, n_cols: usize::MAX & !31, ..good })
            .is_ok()
    );
}

#[test]
fn empty_shapes_are_fine() {
    let pool = Pool::unpinned(2);
    let w = pack(DType::Q4_0, 3, 64, &[0; 6 * 18]);
    matmul(&pool, Isa::detect(), &[], &[&w], &mut [&mut []]);
    matmul(&pool, Isa::detect(), &[1.0; 64], &[], &mut []);
    let none = pack(DType::Q4_0, 0, 64, &[]);
    matmul(&pool, Isa::detect(), &[1.0; 64], &[&none], &mut [&mut []]);
    let narrow = pack(DType::Q4_0, 3, 0, &[]);
    let mut out = [1.0; 3];
    matmul(&pool, Isa::detect(), &[], &[&narrow], &mut [&mut out]);
    assert_eq!(out, [0.0; 3]);
}
