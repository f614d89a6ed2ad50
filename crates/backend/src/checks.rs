//! What every backend asks of its arguments before it computes: shapes, steps, caches, routers.

use base::{Batch, WeightView};

use crate::{BackendError, CacheRow, CacheSpec, MlaSpec, RouterSpec};

pub(crate) fn check(op: &'static str, expected: usize, found: usize) -> Result<(), BackendError> {
    if expected == found {
        return Ok(());
    }
    Err(shape(op, expected.to_string(), found.to_string()))
}

pub(crate) fn check_at_most(op: &'static str, most: usize, found: usize) -> Result<(), BackendError> {
    if found <= most {
        return Ok(());
    }
    Err(shape(op, format!("at most {most}"), found.to_string()))
}

pub(crate) fn check_at_least(op: &'static str, least: usize, found: usize) -> Result<(), BackendError> {
    if found >= least {
        return Ok(());
    }
    Err(shape(op, format!("at least {least}"), found.to_string()))
}

/// Whether rows, positions and blocks of a step fit together and into the cache, if there is one yet.
pub(crate) fn batch(batch: &Batch, cache: Option<&CacheSpec>) -> Result<(), BackendError> {
    let n_rows = batch.seqs.iter().map(|seq| seq.n_rows as usize).sum();
    check("inputs: tokens of the sequences", n_rows, batch.n_rows())?;
    for seq in &batch.seqs {
        let context_len = seq.context_len as usize;
        check_at_least("inputs: context of a sequence", seq.n_rows as usize, context_len)?;
        let Some(cache) = cache else { continue };
        let n_blocks = context_len.div_ceil(cache.block_len.max(1));
        check_at_least("inputs: blocks of a sequence", n_blocks, seq.blocks.len())?;
        for block in &seq.blocks[..n_blocks] {
            check_at_most("inputs: number of a block", cache.n_blocks.saturating_sub(1), block.0 as usize)?;
        }
    }
    Ok(())
}

/// Whether the cache has this layer with rows of this form.
pub(crate) fn cache(cache: Option<&CacheSpec>, layer: usize, row: CacheRow) -> Result<(), BackendError> {
    let Some(cache) = cache else {
        return Err(shape("cache", format!("rows of {row:?}"), "no cache".to_owned()));
    };
    check_at_least("layers of the cache", layer + 1, cache.n_layers)?;
    if cache.row == row {
        return Ok(());
    }
    Err(shape("rows of the cache", format!("{row:?}"), format!("{:?}", cache.row)))
}

/// Whether there is an up-projection of keys and one of values for every head.
pub(crate) fn check_apart(
    keys: &[WeightView<'_>],
    values: &[WeightView<'_>],
    spec: &MlaSpec,
) -> Result<(), BackendError> {
    check("latent_up: heads of the keys", spec.n_heads, keys.len())?;
    check("latent_up: heads of the values", spec.n_heads, values.len())?;
    for (keys, values) in keys.iter().zip(values) {
        check("latent_up: rows of a head's keys", spec.latent_dim, keys.n_rows())?;
        check("latent_up: columns of a head's keys", spec.nope_dim, keys.n_cols())?;
        check("latent_up: rows of a head's values", spec.v_dim, values.n_rows())?;
        check("latent_up: columns of a head's values", spec.latent_dim, values.n_cols())?;
    }
    Ok(())
}

/// Whether a router finds what it looks for among `n_experts`.
pub(crate) fn router(
    spec: &RouterSpec,
    n_experts: usize,
    n_corrections: Option<usize>,
) -> Result<(), BackendError> {
    check_at_least("route: groups", 1, spec.n_groups)?;
    check("route: experts beyond whole groups", 0, n_experts % spec.n_groups)?;
    check_at_most("route: best groups", spec.n_groups, spec.n_top_groups)?;
    check_at_least("route: experts of a row", 1, spec.top_k)?;
    check_at_most("route: experts of a row", n_experts / spec.n_groups * spec.n_top_groups, spec.top_k)?;
    check("route: corrections", n_experts, n_corrections.unwrap_or(n_experts))
}

fn shape(op: &'static str, expected: String, found: String) -> BackendError {
    BackendError::Shape { op, expected, found }
}
