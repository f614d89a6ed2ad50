//! Multi-head latent attention in its absorbed form: queries are projected into the latent space, so that the cache is read
//! as it lies, one row for all heads.

use base::WeightView;
use mlx_sys::{Array, Dtype, Mlx};

use super::{
    attention::{LayerCache, Layout, Queries},
    inputs::MlxInputs,
    rope::MlxRope,
    weights::Weight,
};
use crate::{
    BackendError, LatentParts, MlaSpec,
    checks::{check, check_apart},
};

/// [`crate::Backend::LatentUp`] of MLX, as floats.
pub struct MlxLatentUp {
    keys: Array,   // [n_heads, nope_dim, latent_dim]
    values: Array, // [n_heads, latent_dim, v_dim]
}

impl MlxLatentUp {
    pub(super) fn new(
        mlx: Mlx,
        dtype: Dtype,
        parts: &LatentParts<'_>,
        spec: &MlaSpec,
    ) -> Result<MlxLatentUp, BackendError> {
        let MlaSpec { n_heads, nope_dim, v_dim, latent_dim, .. } = *spec;
        let floats = |views: &[WeightView<'_>], shape: [usize; 3]| {
            Ok::<_, BackendError>(match Weight::new(mlx, dtype, views, &shape)? {
                Weight::Float { rows, .. } => rows,
                Weight::Codes(q) => mlx.dequantized(&q)?,
            })
        };
        let exchanged = |stack: &Array| mlx.transpose(stack, &[0, 2, 1]);
        let (keys, values) = match parts {
            LatentParts::Joined(kv_b) => {
                check("latent_up: rows", n_heads * (nope_dim + v_dim), kv_b.n_rows())?;
                check("latent_up: columns", latent_dim, kv_b.n_cols())?;
                let rows = floats(&[*kv_b], [n_heads, nope_dim + v_dim, latent_dim])?;
                let values = mlx.slice(&rows, 1, nope_dim..nope_dim + v_dim)?;
                (mlx.slice(&rows, 1, 0..nope_dim)?, exchanged(&values)?)
            }
            LatentParts::Apart { keys, values } => {
                check_apart(keys, values, spec)?;
                let keys = floats(keys, [n_heads, latent_dim, nope_dim])?;
                let values = floats(values, [n_heads, v_dim, latent_dim])?;
                (exchanged(&keys)?, exchanged(&values)?)
            }
        };
        mlx.eval(&[&keys, &values])?;
        Ok(MlxLatentUp { keys, values })
    }
}

/// `[n_rows, n_heads * v_dim]` from queries, latent and rotary key of the rows.
pub(super) fn attend(
    mlx: Mlx,
    [q, latent, rotary]: [&Array; 3],
    up: &MlxLatentUp,
    rope: &MlxRope,
    cache: &mut LayerCache,
    spec: &MlaSpec,
    inputs: &MlxInputs,
) -> Result<Array, BackendError> {
    let MlaSpec { n_heads, nope_dim, rope_dim, v_dim, latent_dim, scale } = *spec;
    check("mla: columns of the queries", n_heads * (nope_dim + rope_dim), q.dim(1))?;
    check("mla: columns of the latent", latent_dim, latent.dim(1))?;
    check("mla: columns of the rotary key", rope_dim, rotary.dim(1))?;
    let n_rows = q.dim(0);
    let row_len = latent_dim + rope_dim;
    let q = mlx.reshape(q, &[n_rows, n_heads, nope_dim + rope_dim])?;
    // the key turns with the queries, as one more head
    let turning = mlx.slice(&q, 2, nope_dim..nope_dim + rope_dim)?;
    let turning = mlx.concatenate(&[&turning, &mlx.reshape(rotary, &[n_rows, 1, rope_dim])?], 1)?;
    let all = mlx.bools(&[true], &[1, 1, 1, 1])?;
    let turned = rope.turn(mlx, &turning, [n_heads + 1, rope_dim], None, &all)?;
    let turned = mlx.reshape(&turned, &[n_rows, n_heads + 1, rope_dim])?;
    let key = mlx.reshape(&mlx.slice(&turned, 1, n_heads..n_heads + 1)?, &[n_rows, rope_dim])?;
    cache.write(mlx, &mlx.concatenate(&[latent, &key], 1)?, row_len, &inputs.slots)?;

    let nope = mlx.transpose(&mlx.slice(&q, 2, 0..nope_dim)?, &[1, 0, 2])?; // [n_heads, n_rows, nope_dim]
    let absorbed = mlx.transpose(&mlx.matmul(&nope, &up.keys)?, &[1, 0, 2])?; // [n_rows, n_heads, latent_dim]
    let queries = mlx.concatenate(&[&absorbed, &mlx.slice(&turned, 1, 0..n_heads)?], 2)?;
    let flat = mlx.reshape(&queries, &[n_rows * n_heads * row_len])?;
    let queries = Queries { flat: &flat, row_len: n_heads * row_len, n_heads };
    let layout = Layout { row_len, n_kv_heads: 1, key_dim: row_len, value_dim: latent_dim, value_start: 0 };
    let y = cache.attend(mlx, &queries, &layout, (scale, None), inputs)?;

    let y = mlx.transpose(&mlx.reshape(&y, &[n_rows, n_heads, latent_dim])?, &[1, 0, 2])?;
    let y = mlx.transpose(&mlx.matmul(&y, &up.values)?, &[1, 0, 2])?; // [n_rows, n_heads, v_dim]
    Ok(mlx.reshape(&y, &[n_rows, n_heads * v_dim])?)
}
