//! Weights as the packages that define their formats store them: every number is the package's own, whole, in rows that were read,
//! and cut in both directions. `golden/formats.py` made the files.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    path::{Path, PathBuf},
};

use base::WeightView;
use kernels::{PackedMatrix, Pool};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use tempfile::TempDir;
use weights::{Checkpoint, Stored};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// What a kernel reads.
fn values(view: &WeightView<'_>) -> Vec<Vec<f32>> {
    let pool = Pool::new(&[]);
    let packed = match view {
        WeightView::Blocks(view) => PackedMatrix::pack(&pool, view),
        WeightView::Affine(view) => PackedMatrix::pack_affine(&pool, view),
        WeightView::Fp8(view) => PackedMatrix::pack_fp8(&pool, view),
        WeightView::Mxfp4(view) => PackedMatrix::pack_mxfp4(&pool, view),
    };
    let packed = packed.unwrap();
    let row = |r| {
        let mut row = vec![0.0; packed.n_cols()];
        packed.dequantize_row(r, &mut row);
        row
    };
    (0..packed.n_rows()).map(row).collect()
}

/// The numbers of one tensor `[.., n_cols]`, as rows.
fn expected(name: &str) -> Vec<Vec<f32>> {
    let bytes = fs::read(golden("formats/values.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values: Vec<f32> = tensor.data().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    values.chunks(*tensor.shape().last().unwrap()).map(<[f32]>::to_vec).collect()
}

fn check(name: &str, stored: &Stored<'_>, expected: &[Vec<f32>]) {
    let close = |what: &str, found: Vec<Vec<f32>>, expected: Vec<&[f32]>| {
        assert_eq!(found.len(), expected.len(), "{name} {what}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.len(), expected.len(), "{name} {what}");
            for (a, b) in found.iter().zip(expected) {
                // where a bias is added, it may be to a rounded product
                assert!((a - b).abs() <= 2e-7 * (a.abs() + 1.0).min(b.abs() * 8.0), "{name} {what}: {a} {b}");
            }
        }
    };
    let whole = stored.view();
    close("whole", values(&whole), expected.iter().map(Vec::as_slice).collect());
    let (n_rows, n_cols, unit) = (whole.n_rows(), whole.n_cols(), whole.cut_len());
    let last = 1..n_rows;
    close(
        "rows",
        values(&stored.read(last.clone()).unwrap().view()),
        expected[last.clone()].iter().map(Vec::as_slice).collect(),
    );
    let right = unit.min(n_cols / unit * unit - 1) / unit * unit..n_cols;
    let cut = whole.cut(last.clone(), right.clone()).unwrap();
    close("cut", values(&cut), expected[last].iter().map(|row| &row[right.clone()]).collect());
    assert!(whole.cut(0..n_rows, 1..n_cols).is_none() || unit == 1, "{name}: inside a group");
}

#[test]
fn every_number_is_the_packages() {
    let checkpoint = Checkpoint::open(golden("formats").join("model.safetensors")).unwrap();
    let mut n_formats = 0;
    for (name, n_cols) in [("int4", 96), ("int4.small", 64), ("int8", 64), ("mxfp4", 96), ("fp8", 136)] {
        let name = format!("{name}.weight");
        check(&name, &checkpoint.weight(&name, n_cols, None).unwrap(), &expected(&name));
        n_formats += 1;
    }
    for bits in [4, 5, 6, 8] {
        for group_size in [32, 64, 128] {
            let name = format!("affine.{bits}.{group_size}.weight");
            check(&name, &checkpoint.weight(&name, 128, None).unwrap(), &expected(&name));
            n_formats += 1;
        }
    }
    assert_eq!(n_formats, 17);
}

#[test]
fn stacks_of_experts_are_cut_apart() {
    let checkpoint = Checkpoint::open(golden("experts.gguf")).unwrap();
    for (kind, n_cols) in [("q4_0", 64), ("q8_0", 64), ("q4_k", 256)] {
        let name = format!("blk.0.ffn_{kind}_exps.weight");
        for (i, expected) in expected(&name).chunks(4).enumerate() {
            check(&name, &checkpoint.weight(&name, n_cols, Some(i)).unwrap(), expected);
        }
    }
}

/// A directory with the golden tensors but for what `change` makes of one of them.
fn changed(
    change: impl Fn(&str, Dtype, Vec<usize>, Vec<u8>) -> Option<(Dtype, Vec<usize>, Vec<u8>)>,
) -> TempDir {
    let bytes = fs::read(golden("formats/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.iter().filter_map(|(name, t)| {
        Some((name.to_owned(), change(name, t.dtype(), t.shape().to_vec(), t.data().to_vec())?))
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), "{}").unwrap();
    fs::write(dir.path().join("model.safetensors"), serialize(views, None).unwrap()).unwrap();
    dir
}

#[test]
fn tensors_that_do_not_fit_are_named_with_both_sides() {
    let refused = |name: &str, n_cols: usize, dir: &Path, words: &[&str]| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        let error = checkpoint.weight(name, n_cols, None).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error} lacks one of {words:?}");
    };
    let without = |gone: &'static str| {
        changed(move |name, dtype, shape, data| (name != gone).then_some((dtype, shape, data)))
    };
    let as_type = |which: &'static str, other: Dtype, shape: &'static [usize]| {
        changed(move |name, dtype, old, data| {
            Some(if name == which { (other, shape.to_vec(), data) } else { (dtype, old, data) })
        })
    };
    let whole = without("");
    refused("none.weight", 96, whole.path(), &["none.weight", "found none"]);
    refused("int4.weight", 96, without("int4.weight_scale").path(), &["int4.weight_scale", "found none"]);
    refused("int4.weight", 96, without("int4.weight_shape").path(), &["int4.weight_shape", "found none"]);
    refused("fp8.weight", 136, without("fp8.weight_scale_inv").path(), &["fp8.weight_scale_inv"]);
    refused("affine.4.32.weight", 128, without("affine.4.32.biases").path(), &["affine.4.32.biases"]);
    refused("mxfp4.weight", 64, whole.path(), &["mxfp4.weight", "64 values", "codes of 96"]);
    refused("affine.4.32.weight", 200, whole.path(), &["rows of 200 codes", "16 words and 4 scales"]);
    let wrong = as_type("int4.weight_scale", Dtype::I16, &[5, 3]);
    let error = Checkpoint::open(wrong.path()).unwrap_err().to_string();
    assert!(error.contains("int4.weight_scale") && error.contains("I16"), "{error}");
    let wrong = as_type("int4.weight_packed", Dtype::F32, &[5, 12]);
    refused("int4.weight", 96, wrong.path(), &["int4.weight_packed", "5 rows of I32", "5 rows of F32"]);
    let wrong = as_type("int4.weight_shape", Dtype::F32, &[2]);
    refused("int4.weight", 96, wrong.path(), &["int4.weight_shape", "I32 or I64", "F32 of shape [2]"]);
    let wrong = as_type("fp8.weight_scale_inv", Dtype::F32, &[1, 4]);
    refused("fp8.weight", 136, wrong.path(), &["fp8.weight_scale_inv", "2 rows of F32", "1 rows"]);
    let wrong = as_type("int4.weight_packed", Dtype::I32, &[60]);
    refused("int4.weight", 96, wrong.path(), &["a matrix", "shape [60]"]);
    let negative = changed(|name, dtype, shape, data| {
        let data = if name == "int4.weight_shape" { vec![0xff; 8] } else { data };
        Some((dtype, shape, data))
    });
    refused("int4.weight", 96, negative.path(), &["int4.weight_shape", "2 sizes"]);
    let zeros = changed(|name, dtype, shape, data| {
        let data = if name == "int4.weight_shape" { vec![0; 8] } else { data };
        Some((dtype, shape, data))
    });
    refused("int4.weight", 96, zeros.path(), &["int4.weight_packed", "5 rows"]);
}
