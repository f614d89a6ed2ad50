//! Tiny floats with scales apart: exactly their values, and products bit for bit the same in every instruction family, batch and
//! pool.
#![allow(clippy::unwrap_used)]

mod common;

use base::{Fp8View, Mxfp4View};
use common::Random;
use kernels::{Isa, PackedMatrix, Pool, matmul};
use proptest::prelude::*;

/// An 8-bit float by its definition; the two codes for "not a number" are read as the next larger value.
fn fp8(code: u8) -> f64 {
    let (sign, exponent, mantissa) = (code >> 7, i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match exponent {
        0 => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if sign == 1 { -size } else { size }
}

/// A 4-bit float by its definition.
fn fp4(code: u8) -> f64 {
    let (sign, exponent, mantissa) = (code >> 3, i32::from(code >> 1 & 3), f64::from(code & 1));
    let size = match exponent {
        0 => mantissa / 2.0,
        _ => (1.0 + mantissa / 2.0) * 2f64.powi(exponent - 1),
    };
    if sign == 1 { -size } else { size }
}

fn packed_rows(packed: &PackedMatrix) -> Vec<f32> {
    let mut rows = vec![0.0; packed.n_rows() * packed.n_cols()];
    for (r, row) in rows.chunks_mut(packed.n_cols()).enumerate() {
        packed.dequantize_row(r, row);
    }
    rows
}

/// Products of some rows are the same in every family, with any number of threads and rows, and close to the exact ones.
fn check_products(packed: &PackedMatrix, values: &[f32], n_rows: usize, random: &mut Random, rounds: f64) {
    let (n_out, n_in) = (packed.n_rows(), packed.n_cols());
    let x = random.floats(n_rows * n_in);
    let mut reference = vec![0.0; n_rows * n_out];
    for (x, out) in x.chunks(n_in).zip(reference.chunks_mut(n_out)) {
        matmul(&Pool::unpinned(1), Isa::Scalar, x, &[packed], &mut [out]);
    }
    for (i, found) in reference.iter().enumerate() {
        let (x, w) = (&x[i / n_out * n_in..][..n_in], &values[i % n_out * n_in..][..n_in]);
        let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
        let bound: f64 = w.iter().map(|w| f64::from(w.abs()) * rounds).sum();
        assert!((f64::from(*found) - exact).abs() <= bound, "{found} {exact} {bound}");
    }
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut out = vec![f32::NAN; n_rows * n_out];
        matmul(&Pool::unpinned(3), isa, &x, &[packed], &mut [&mut out]);
        assert_eq!(out, reference, "{isa}");
    }
}

#[test]
fn every_code_has_its_value() {
    let codes: Vec<u8> = (0..=255).collect();
    let scales: Vec<u8> = [1.0f32, 0.125].into_iter().flat_map(f32::to_le_bytes).collect();
    let view = Fp8View {
        n_rows: 1,
        n_cols: 256,
        code_stride: 256,
        codes: &codes,
        row_start: 0,
        scale_stride: 8,
        scales: &scales,
    };
    let found = packed_rows(&PackedMatrix::pack_fp8(&Pool::unpinned(1), &view).unwrap());
    for (code, found) in codes.iter().zip(found) {
        let scale = if *code < 128 { 1.0 } else { 0.125 };
        assert_eq!(f64::from(found), fp8(*code) * scale, "{code}");
    }
}

/// Also where the power of two is none that a half float holds.
#[test]
fn every_group_has_its_power_of_two() {
    let codes: Vec<u8> = (0..16u8).map(|i| (2 * i) % 16 + 16 * ((2 * i + 1) % 16)).collect();
    for exponents in [[100, 120], [127, 10], [250, 140], [104, 143]] {
        let codes = codes.repeat(2);
        let view = Mxfp4View {
            n_rows: 1,
            n_cols: 64,
            code_stride: 32,
            codes: &codes,
            scale_stride: 2,
            scales: &exponents,
        };
        let packed = PackedMatrix::pack_mxfp4(&Pool::unpinned(1), &view).unwrap();
        for (i, found) in packed_rows(&packed).into_iter().enumerate() {
            let power = 2f64.powi(i32::from(exponents[i / 32]) - 127);
            assert_eq!(f64::from(found), fp4((i % 16) as u8) * power, "{exponents:?} {i}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn blocks_of_8_bit_floats_multiply_alike_everywhere(
        n_out in 1usize..200,
        n_in in 1usize..300,
        rows in (0usize..150, 0usize..150),
        n_rows in 1usize..9,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let n_in = if n_in > 256 { 1300 } else { n_in }; // longer than what stays in the cache
        let codes: Vec<u8> = (0..n_out * n_in).map(|_| random.bits() as u8 & 0xf7).collect();
        let n_blocks = [n_out, n_in].map(|n| n.div_ceil(Fp8View::BLOCK));
        let scales: Vec<f32> = random.floats(n_blocks[0] * n_blocks[1]);
        let bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
        let whole = Fp8View {
            n_rows: n_out,
            n_cols: n_in,
            code_stride: n_in,
            codes: &codes,
            row_start: 0,
            scale_stride: n_blocks[1] * 4,
            scales: &bytes,
        };
        let (first, last) = (rows.0.min(n_out - 1), rows.0.min(n_out - 1) + rows.1 % (n_out - rows.0.min(n_out - 1)));
        let view = whole.cut(first..last + 1, 0..n_in).unwrap();
        let packed = PackedMatrix::pack_fp8(&Pool::unpinned(2), &view).unwrap();
        let values = packed_rows(&packed);
        for (i, value) in values.iter().enumerate() {
            let (r, c) = (first + i / n_in, i % n_in);
            let scale = scales[r / Fp8View::BLOCK * n_blocks[1] + c / Fp8View::BLOCK];
            prop_assert_eq!(*value, (fp8(codes[r * n_in + c]) * f64::from(scale)) as f32);
        }
        check_products(&packed, &values, n_rows, &mut random, 1e-5);
    }

    #[test]
    fn groups_of_4_bit_floats_multiply_alike_everywhere(n_out in 1usize..50, n_groups in 1usize..9, n_rows in 1usize..9, seed: u64) {
        let mut random = Random(seed);
        let n_in = n_groups * Mxfp4View::GROUP;
        let codes: Vec<u8> = (0..n_out * n_in / 2).map(|_| random.bits() as u8).collect();
        let scales: Vec<u8> = (0..n_out * n_groups).map(|_| 120 + random.bits() as u8 % 8).collect();
        let view = Mxfp4View { n_rows: n_out, n_cols: n_in, code_stride: n_in / 2, codes: &codes, scale_stride: n_groups, scales: &scales };
        let packed = PackedMatrix::pack_mxfp4(&Pool::unpinned(2), &view).unwrap();
        let values = packed_rows(&packed);
        for (i, value) in values.iter().enumerate() {
            let exact = fp4(codes[i / 2] >> (i % 2 * 4) & 15) * 2f64.powi(i32::from(scales[i / 32]) - 127);
            prop_assert_eq!(f64::from(*value), exact);
        }
        check_products(&packed, &values, n_rows, &mut random, 0.502 / 127.0 * 1.01);
    }
}
