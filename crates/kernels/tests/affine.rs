//! Affine weights: exactly their codes, scales and biases, and their products bit for bit the same in every instruction
//! family, batch and pool.
#![allow(clippy::unwrap_used)]

mod common;

use base::{AffineView, DType};
use common::Random;
use kernels::{Isa, PackedMatrix, Pool, dequantize, matmul};
use proptest::prelude::*;

const SCALE_DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

struct Affine {
    n_rows: usize,
    n_cols: usize,
    bits: u32,
    group_size: usize,
    scale_dtype: DType,
    has_biases: bool,
    codes: Vec<u8>,
    scales: Vec<u8>,
    biases: Vec<u8>,
}

impl Affine {
    fn random(
        random: &mut Random,
        shape: [usize; 2],
        bits: u32,
        group_size: usize,
        has_biases: bool,
    ) -> Affine {
        let scale_dtype = SCALE_DTYPES[random.bits() as usize % 3];
        let n_groups = shape[0] * shape[1] / group_size;
        let mut bytes = |n: usize| (0..n).map(|_| random.bits() as u8).collect::<Vec<u8>>();
        let codes = bytes(shape[0] * shape[1] * bits as usize / 8);
        Affine {
            n_rows: shape[0],
            n_cols: shape[1],
            bits,
            group_size,
            scale_dtype,
            has_biases,
            codes,
            scales: random.blocks(scale_dtype, n_groups),
            biases: random.blocks(scale_dtype, n_groups),
        }
    }

    fn view(&self) -> AffineView<'_> {
        AffineView {
            n_rows: self.n_rows,
            n_cols: self.n_cols,
            bits: self.bits,
            group_size: self.group_size,
            code_stride: self.n_cols * self.bits as usize / 8,
            codes: &self.codes,
            scale_dtype: self.scale_dtype,
            scale_stride: self.n_cols / self.group_size * self.scale_dtype.block_bytes(),
            scales: &self.scales,
            biases: self.has_biases.then_some(&self.biases),
        }
    }

    /// Every value, bit by bit of its code, rounded to f32 at the end.
    fn values(&self) -> Vec<f32> {
        let mut scales = vec![0.0; self.n_rows * self.n_cols / self.group_size];
        let mut biases = scales.clone();
        dequantize(self.scale_dtype, &self.scales, &mut scales);
        dequantize(self.scale_dtype, &self.biases, &mut biases);
        let bit = |at: usize| u32::from(self.codes[at / 8] >> (at % 8) & 1);
        let value = |i: usize| {
            let code: u32 = (0..self.bits as usize).map(|j| bit(i * self.bits as usize + j) << j).sum();
            let (scale, bias) =
                (f64::from(scales[i / self.group_size]), f64::from(biases[i / self.group_size]));
            let bias = if self.has_biases { bias } else { -f64::from(1 << (self.bits - 1)) * scale };
            (f64::from(code) * scale + bias) as f32
        };
        (0..self.n_rows * self.n_cols).map(value).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn values_are_kept_and_products_are_the_same_everywhere(
        bits in prop::sample::select(vec![4u32, 5, 6, 8]),
        group_size in prop::sample::select(vec![32usize, 64, 128]),
        n_groups in 1usize..4,
        n_out in 1usize..50,
        n_rows in 1usize..9,
        n_threads in 1usize..=3,
        has_biases: bool,
        seed: u64,
    ) {
        let mut random = Random(seed);
        let n_in = n_groups * group_size;
        let affine = Affine::random(&mut random, [n_out, n_in], bits, group_size, has_biases);
        let (packed, values) = (PackedMatrix::pack_affine(&Pool::unpinned(2), &affine.view()).unwrap(), affine.values());
        let mut row = vec![0.0; n_in];
        for (r, values) in values.chunks(n_in).enumerate() {
            packed.dequantize_row(r, &mut row);
            for (found, exact) in row.iter().zip(values) {
                // a product with a scale of 24 bits is rounded before the bias is added
                let limit = if affine.scale_dtype == DType::F32 { 255.0 * f32::EPSILON } else { 0.0 };
                prop_assert!((found - exact).abs() <= limit, "{} {}", found, exact);
            }
        }

        let x = random.floats(n_rows * n_in);
        let mut reference = vec![0.0; n_rows * n_out];
        for (x, out) in x.chunks(n_in).zip(reference.chunks_mut(n_out)) {
            matmul(&Pool::unpinned(1), Isa::Scalar, x, &[&packed], &mut [out]);
        }
        for (i, found) in reference.iter().enumerate() {
            let (x, w) = (&x[i / n_out * n_in..][..n_in], &values[i % n_out * n_in..][..n_in]);
            let exact: f64 = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
            // half a step of 8 bits for every input
            let bound: f64 = w.iter().map(|w| f64::from(w.abs()) * 0.502 / 127.0).sum();
            prop_assert!((f64::from(*found) - exact).abs() <= bound + 1e-4, "{} {} {}", found, exact, bound);
        }
        let pool = Pool::unpinned(n_threads);
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let mut out = vec![f32::NAN; n_rows * n_out];
            matmul(&pool, isa, &x, &[&packed], &mut [&mut out]);
            prop_assert_eq!(&out, &reference, "{}", isa);
        }
    }
}

/// All codes at their largest and inputs at theirs, where narrower integers would overflow.
#[test]
fn extreme_codes_are_exact() {
    for bits in [4, 5, 6, 8] {
        for has_biases in [true, false] {
            let (codes, zeros) = ([0xff; 16 * 64], [0; 16 * 2 * 2]);
            let ones: Vec<u8> = 0x3c00u16.to_le_bytes().repeat(16 * 2);
            let view = AffineView {
                n_rows: 16,
                n_cols: 64,
                bits,
                group_size: 32,
                code_stride: 64 * bits as usize / 8,
                codes: &codes[..16 * 64 * bits as usize / 8],
                scale_dtype: DType::F16,
                scale_stride: 4,
                scales: &ones,
                biases: has_biases.then_some(&zeros),
            };
            let packed = PackedMatrix::pack_affine(&Pool::unpinned(2), &view).unwrap();
            let value = if has_biases { (1 << bits) - 1 } else { (1 << (bits - 1)) - 1 };
            let x = [[1.0f32; 64], [-1.0; 64]].concat();
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                let mut out = [0.0; 32];
                matmul(&Pool::unpinned(1), isa, &x, &[&packed], &mut [&mut out]);
                let exact = 64.0 * value as f32;
                assert!(out[..16].iter().all(|v| (v - exact).abs() < 0.01), "{isa} {bits} {out:?}");
                assert!(out[16..].iter().all(|v| (v + exact).abs() < 0.01), "{isa} {bits} {out:?}");
            }
        }
    }
}

/// Scales that half floats hold take no more memory than the file.
#[test]
fn memory_equals_the_file_where_groups_have_32() {
    for (scale, bytes_per_group) in [(0x3d80u16, 18), (0x0080, 24)] {
        // 2^-4, and the smallest normal number of bfloat16, which is none of f16
        let view = AffineView {
            n_rows: 32,
            n_cols: 64,
            bits: 4,
            group_size: 32,
            code_stride: 32,
            codes: &[0x5a; 32 * 32],
            scale_dtype: DType::BF16,
            scale_stride: 4,
            scales: &scale.to_le_bytes().repeat(64),
            biases: None,
        };
        assert_eq!(
            PackedMatrix::pack_affine(&Pool::unpinned(2), &view).unwrap().bytes().0,
            64 * bytes_per_group
        );
    }
}

#[test]
fn rows_and_columns_change_places() {
    for dtype in DType::ALL {
        let (n_rows, n_cols) = (20, 256);
        let bytes = Random(7).blocks(dtype, n_rows * n_cols);
        let view = base::MatrixView::whole(dtype, n_rows, n_cols, &bytes).unwrap();
        let packed = PackedMatrix::pack(&Pool::unpinned(2), &view).unwrap();
        let transposed = packed.transposed(&Pool::unpinned(1)).unwrap();
        assert_eq!((transposed.n_rows(), transposed.n_cols()), (n_cols, n_rows));
        let (mut row, mut column) = (vec![0.0; n_cols], vec![0.0; n_rows]);
        for r in 0..n_rows {
            packed.dequantize_row(r, &mut row);
            for (c, v) in row.iter().enumerate() {
                transposed.dequantize_row(c, &mut column);
                assert_eq!(column[r], *v, "{dtype}");
            }
        }
    }
}
