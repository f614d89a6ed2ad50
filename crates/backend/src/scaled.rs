//! Whether the parts of weights of tiny floats fit together: what every backend asks before it reads one.

use base::{Fp8View, Mxfp4View};

use crate::BackendError;

/// Codes and scales as the format has them.
pub(crate) fn check_fp8(view: &Fp8View<'_>) -> Result<(), BackendError> {
    let scale_bytes = view.n_cols.div_ceil(Fp8View::BLOCK).checked_mul(4);
    let n_block_rows = view.n_rows.checked_add(view.row_start).map(|n| n.div_ceil(Fp8View::BLOCK));
    let codes = last(view.n_rows, view.code_stride, Some(view.n_cols));
    let scales = n_block_rows.and_then(|n| last(n, view.scale_stride, scale_bytes));
    check("8-bit floats", [view.n_rows, view.n_cols], [codes, scales], [view.codes, view.scales])
}

/// Codes and scales as the format has them.
pub(crate) fn check_mxfp4(view: &Mxfp4View<'_>) -> Result<(), BackendError> {
    if !view.n_cols.is_multiple_of(Mxfp4View::GROUP) {
        let (expected, found) = (format!("whole groups of {}", Mxfp4View::GROUP), view.n_cols.to_string());
        return Err(BackendError::Shape { op: "4-bit floats", expected, found });
    }
    let codes = last(view.n_rows, view.code_stride, Some(view.n_cols / 2));
    let scales = last(view.n_rows, view.scale_stride, Some(view.n_cols / Mxfp4View::GROUP));
    check("4-bit floats", [view.n_rows, view.n_cols], [codes, scales], [view.codes, view.scales])
}

/// Bytes up to the end of the last of `n_rows` rows of `row_bytes`, `stride` apart; `None` if they overlap or are too many.
fn last(n_rows: usize, stride: usize, row_bytes: Option<usize>) -> Option<usize> {
    let row_bytes = row_bytes.filter(|&bytes| bytes <= stride || n_rows <= 1)?;
    n_rows.saturating_sub(1).checked_mul(stride)?.checked_add(row_bytes)
}

fn check(
    op: &'static str,
    [n_rows, n_cols]: [usize; 2],
    needed: [Option<usize>; 2],
    found: [&[u8]; 2],
) -> Result<(), BackendError> {
    for ((what, needed), found) in ["codes", "scales"].into_iter().zip(needed).zip(found) {
        let Some(expected) = needed else {
            let (expected, found) =
                ("rows that follow each other in memory".to_owned(), format!("{n_rows} × {n_cols}"));
            return Err(BackendError::Shape { op, expected, found });
        };
        if n_rows > 0 && found.len() < expected {
            return Err(BackendError::Weight { op, what, expected, found: found.len() });
        }
    }
    Ok(())
}
