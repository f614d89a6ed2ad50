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
    let last =
        |stride: usize, row: usize| view.n_rows.saturating_sub(1).checked_mul(stride)?.checked_add(row);
    let (code_bytes, scale_bytes) = (view.code_bytes(), view.scale_bytes());
    let needed = last(view.code_stride, code_bytes).zip(last(view.scale_stride, scale_bytes));
    let Some((codes, scales)) = needed else {
        return shape("a shape that memory can hold", format!("{} × {}", view.n_rows, view.n_cols));
    };
    if view.n_rows > 1 && (view.code_stride < code_bytes || view.scale_stride < scale_bytes) {
        let found = format!("{} and {} bytes", view.code_stride, view.scale_stride);
        return shape(&format!("rows at least {code_bytes} and {scale_bytes} bytes apart"), found);
    }
    let parts = [
        ("codes", codes, Some(view.codes.len())),
        ("scales", scales, Some(view.scales.len())),
        ("biases", scales, view.biases.map(<[u8]>::len)),
    ];
    for (what, expected, found) in parts {
        if let Some(found) = found.filter(|&found| found < expected && view.n_rows > 0) {
            return Err(BackendError::Weight { op: "affine weight", what, expected, found });
        }
    }
    Ok(())
}
