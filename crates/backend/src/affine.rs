//! Whether an affine weight's parts fit together: what every backend asks before it reads one.

use base::{AffineView, DType};

use crate::BackendError;

/// Codes, groups and bytes as the format has them.
pub(crate) fn check(view: &AffineView<'_>) -> Result<(), BackendError> {
    let shape = |expected: &str, found: String| {
        Err(BackendError::Shape { op: "affine weight", expected: expected.to_owned(), found })
    };
    if !matches!(view.bits, 4 | 5 | 6 | 8) {
        return shape("codes of 4, 5, 6 or 8 bits", view.bits.to_string());
    }
    if !matches!(view.group_size, 32 | 64 | 128) || !view.n_cols.is_multiple_of(view.group_size) {
        return shape("whole groups of 32, 64 or 128", format!("{} of {}", view.n_cols, view.group_size));
    }
    if !matches!(view.scale_dtype, DType::F32 | DType::F16 | DType::BF16) {
        return shape("scales as F32, F16 or BF16", view.scale_dtype.to_string());
    }
    let n_values = view.n_rows.checked_mul(view.n_cols);
    let Some(n_bits) = n_values.and_then(|n| n.checked_mul(view.bits as usize)) else {
        return shape("a shape that memory can hold", format!("{} × {}", view.n_rows, view.n_cols));
    };
    let n_groups = view.n_rows * view.n_cols / view.group_size;
    let scale_bytes = n_groups * view.scale_dtype.block_bytes();
    let parts = [
        ("codes", n_bits / 8, Some(view.codes.len())),
        ("scales", scale_bytes, Some(view.scales.len())),
        ("biases", scale_bytes, view.biases.map(<[u8]>::len)),
    ];
    for (what, expected, found) in parts {
        if let Some(found) = found.filter(|&found| found != expected) {
            return Err(BackendError::Weight { op: "affine weight", what, expected, found });
        }
    }
    Ok(())
}
