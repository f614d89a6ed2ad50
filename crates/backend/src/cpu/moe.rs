//! Experts: packing, routing and their sum.

use kernels::{Pool, Routing};

use super::{CpuBackend, CpuTensor, linear::pack};
use crate::{
    BackendError, ExpertParts, RouterSpec,
    checks::{self, check},
};

/// Packed experts of a layer.
pub struct CpuExperts {
    first: u32,
    experts: Vec<kernels::Expert>,
}

impl CpuExperts {
    pub(super) fn pack(pool: &Pool, parts: &ExpertParts<'_>) -> Result<CpuExperts, BackendError> {
        check("experts: up-projections", parts.gate.len(), parts.up.len())?;
        check("experts: down-projections", parts.gate.len(), parts.down.len())?;
        let shape = parts.gate.first().map_or((0, 0), |gate| (gate.n_rows(), gate.n_cols()));
        let expert = |((gate, up), down): ((&_, &_), &_)| {
            let expert =
                kernels::Expert { gate: pack(pool, gate)?, up: pack(pool, up)?, down: pack(pool, down)? };
            for (rows, cols, weight) in [
                (shape.0, shape.1, &expert.gate),
                (shape.0, shape.1, &expert.up),
                (shape.1, shape.0, &expert.down),
            ] {
                check("experts: outputs of a weight", rows, weight.n_rows())?;
                check("experts: inputs of a weight", cols, weight.n_cols())?;
            }
            Ok(expert)
        };
        let experts = parts.gate.iter().zip(parts.up).zip(parts.down).map(expert);
        Ok(CpuExperts { first: parts.first, experts: experts.collect::<Result<_, BackendError>>()? })
    }

    /// `Σ w_e · down_e(silu(gate_e x) · up_e x)`: `[n_rows, hidden] → [n_rows, hidden]`.
    pub(super) fn apply(
        &self,
        b: &mut CpuBackend,
        x: &CpuTensor,
        routing: &Routing,
    ) -> Result<CpuTensor, BackendError> {
        check("moe: rows of the routing", x.n_rows(), routing.experts.len() / routing.top_k)?;
        if let Some(expert) = self.experts.first() {
            check("moe: columns of the input", expert.gate.n_cols(), x.n_cols())?;
        }
        let mut scratch = std::mem::take(&mut b.moe_scratch);
        let out = b.filled(x.n_rows(), x.n_cols(), |out| {
            kernels::moe(&b.pool, b.isa, x.values(), &self.experts, self.first, routing, &mut scratch, out);
        });
        b.moe_scratch = scratch;
        Ok(out)
    }
}

/// Each row's experts by its logits `[n_rows, n_experts]`.
pub(super) fn route(
    b: &CpuBackend,
    logits: &CpuTensor,
    correction: Option<&CpuTensor>,
    spec: &RouterSpec,
) -> Result<Routing, BackendError> {
    let correction = correction.map(CpuTensor::values);
    checks::router(spec, logits.n_cols(), correction.map(<[f32]>::len))?;
    Ok(kernels::route(b.isa, logits.values(), logits.n_cols(), correction, spec))
}
