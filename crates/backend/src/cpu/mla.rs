//! Latent attention in its absorbed form: queries go down into the latents' space, attend to these as they lie in the
//! cache, and what they find comes up as values, head by head.

use base::WeightView;
use kernels::{PackedMatrix, Pool};

use super::{CpuBackend, CpuInputs, CpuRope, CpuTensor, linear::pack};
use crate::{
    BackendError, CacheRow, LatentParts, MlaSpec,
    checks::{check, check_apart},
};

/// Up-projections of each head.
pub struct CpuLatentUp {
    /// Of the keys, with rows and columns exchanged: `[latent_dim, nope_dim]`.
    keys: Vec<PackedMatrix>,
    /// `[v_dim, latent_dim]`
    values: Vec<PackedMatrix>,
}

impl CpuLatentUp {
    pub(super) fn pack(
        pool: &Pool,
        parts: &LatentParts<'_>,
        spec: &MlaSpec,
    ) -> Result<CpuLatentUp, BackendError> {
        match parts {
            LatentParts::Joined(kv_b) => CpuLatentUp::pack_joined(pool, kv_b, spec),
            LatentParts::Apart { keys, values } => {
                check_apart(keys, values, spec)?;
                let all = |views: &[WeightView<'_>]| {
                    views.iter().map(|view| pack(pool, view)).collect::<Result<Vec<_>, BackendError>>()
                };
                Ok(CpuLatentUp { keys: all(keys)?, values: all(values)? })
            }
        }
    }

    fn pack_joined(pool: &Pool, kv_b: &WeightView<'_>, spec: &MlaSpec) -> Result<CpuLatentUp, BackendError> {
        let MlaSpec { n_heads, nope_dim, v_dim, latent_dim, .. } = *spec;
        check("latent_up: rows", n_heads * (nope_dim + v_dim), kv_b.n_rows())?;
        check("latent_up: columns", latent_dim, kv_b.n_cols())?;
        let part = |start: usize, n: usize| {
            let rows = start..start + n;
            let rows = kv_b.rows(rows.clone()).ok_or_else(|| BackendError::Shape {
                op: "latent_up: rows of a head",
                expected: format!("{rows:?}"),
                found: kv_b.n_rows().to_string(),
            })?;
            pack(pool, &rows)
        };
        let heads = || (0..n_heads).map(|head| head * (nope_dim + v_dim));
        Ok(CpuLatentUp {
            keys: heads()
                .map(|at| Ok(part(at, nope_dim)?.transposed(pool)?))
                .collect::<Result<_, BackendError>>()?,
            values: heads().map(|at| part(at + nope_dim, v_dim)).collect::<Result<_, BackendError>>()?,
        })
    }
}

impl CpuBackend {
    /// As [`crate::Backend::mla`].
    pub(super) fn attend_latents(
        &mut self,
        [q, latent, mut k_rope]: [CpuTensor; 3],
        up: &CpuLatentUp,
        rope: &CpuRope,
        layer: usize,
        spec: &MlaSpec,
        inputs: &CpuInputs,
    ) -> Result<CpuTensor, BackendError> {
        check_inputs([&q, &latent, &k_rope], up, spec, inputs)?;
        rope.check(inputs, spec.rope_dim)?;
        rope.turn(self, k_rope.values_mut(), spec.rope_dim);
        let row = CacheRow::Latent { latent_dim: spec.latent_dim, rope_dim: spec.rope_dim };
        self.cache.latents(layer, row)?.write(latent.values(), k_rope.values(), &inputs.slots);

        let q_latent = self.absorb(&q, up, spec);
        let q_rope = self.turned_queries(&q, rope, spec);
        let mut found = self.buffers.tensor(q_latent.n_rows(), spec.latent_dim);
        kernels::latent_attention(
            &self.pool,
            self.isa,
            q_latent.values(),
            q_rope.values(),
            self.cache.latents(layer, row)?,
            &inputs.batch.seqs,
            spec.scale,
            found.values_mut(),
        );
        Ok(self.values_of(&found, up, spec, q.n_rows()))
    }

    /// `[n_heads * n_rows, latent_dim]`: the queries' first parts times the keys' up-projections.
    fn absorb(&self, q: &CpuTensor, up: &CpuLatentUp, spec: &MlaSpec) -> CpuTensor {
        let n_rows = q.n_rows();
        let nope = self.by_heads(q, spec, 0, spec.nope_dim); // [n_heads * n_rows, nope_dim]
        let mut out = self.buffers.tensor(spec.n_heads * n_rows, spec.latent_dim);
        for (head, keys) in up.keys.iter().enumerate() {
            let x = &nope.values()[head * n_rows * spec.nope_dim..][..n_rows * spec.nope_dim];
            let out = &mut out.values_mut()[head * n_rows * spec.latent_dim..][..n_rows * spec.latent_dim];
            kernels::matmul(&self.pool, self.isa, x, &[keys], &mut [out]);
        }
        out
    }

    /// `[n_heads * n_rows, rope_dim]`: the queries' rotary parts, turned.
    fn turned_queries(&self, q: &CpuTensor, rope: &CpuRope, spec: &MlaSpec) -> CpuTensor {
        let mut out = self.by_heads(q, spec, spec.nope_dim, spec.rope_dim);
        for head in out.values_mut().chunks_exact_mut((q.n_rows() * spec.rope_dim).max(1)) {
            rope.turn(self, head, spec.rope_dim);
        }
        out
    }

    /// `[n_heads * n_rows, len]`: values `start..` of each head of the queries.
    fn by_heads(&self, q: &CpuTensor, spec: &MlaSpec, start: usize, len: usize) -> CpuTensor {
        let (n_rows, head_dim) = (q.n_rows(), spec.nope_dim + spec.rope_dim);
        self.filled(spec.n_heads * n_rows, len, |out| {
            for (i, out) in out.chunks_exact_mut(len.max(1)).enumerate() {
                let (head, row) = (i / n_rows, i % n_rows);
                out.copy_from_slice(&q.values()[(row * spec.n_heads + head) * head_dim + start..][..len]);
            }
        })
    }

    /// `[n_rows, n_heads * v_dim]`: what the heads found, `[n_heads * n_rows, latent_dim]`, as values.
    fn values_of(&self, found: &CpuTensor, up: &CpuLatentUp, spec: &MlaSpec, n_rows: usize) -> CpuTensor {
        let mut of_head = self.buffers.tensor(n_rows, spec.v_dim);
        self.filled(n_rows, spec.n_heads * spec.v_dim, |out| {
            for (head, values) in up.values.iter().enumerate() {
                let x = &found.values()[head * n_rows * spec.latent_dim..][..n_rows * spec.latent_dim];
                kernels::matmul(&self.pool, self.isa, x, &[values], &mut [of_head.values_mut()]);
                let rows = out.chunks_exact_mut((spec.n_heads * spec.v_dim).max(1));
                for (out, row) in rows.zip(of_head.values().chunks_exact(spec.v_dim.max(1))) {
                    out[head * spec.v_dim..][..spec.v_dim].copy_from_slice(row);
                }
            }
        })
    }
}

fn check_inputs(
    [q, latent, k_rope]: [&CpuTensor; 3],
    up: &CpuLatentUp,
    spec: &MlaSpec,
    inputs: &CpuInputs,
) -> Result<(), BackendError> {
    let MlaSpec { n_heads, nope_dim, rope_dim, v_dim, latent_dim, .. } = *spec;
    for (op, n_cols, x) in [
        ("mla: columns of the queries", n_heads * (nope_dim + rope_dim), q),
        ("mla: columns of the latents", latent_dim, latent),
        ("mla: columns of the rotary keys", rope_dim, k_rope),
    ] {
        check(op, n_cols, x.n_cols())?;
        check("mla: rows", inputs.batch.n_rows(), x.n_rows())?;
    }
    check("mla: heads of the up-projections", n_heads, up.keys.len())?;
    for (keys, values) in up.keys.iter().zip(&up.values) {
        check("mla: key width of the up-projections", nope_dim, keys.n_cols())?;
        check("mla: value width of the up-projections", v_dim, values.n_rows())?;
        check("mla: latent width of the up-projections", latent_dim, values.n_cols())?;
    }
    Ok(())
}
