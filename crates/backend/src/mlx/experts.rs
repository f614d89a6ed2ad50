//! Mixture of experts: each row through the experts it was routed to, as products gathered from stacked weights. Many
//! rows are sorted by expert first, so that neighbours share weights.

use mlx_sys::{Array, Dtype, Index, Mlx};

use super::weights::Weight;
use crate::{BackendError, ExpertParts, RouterSpec, Scoring, checks::check};

/// From this many (row, expert) pairs on, sorting by expert pays.
const MIN_SORTED: usize = 64;

/// [`crate::Backend::Experts`] of MLX.
pub struct MlxExperts {
    first: usize,
    n: usize,
    gate: Weight, // [n, ffn, hidden]
    up: Weight,   // [n, ffn, hidden]
    down: Weight, // [n, hidden, ffn]
    hidden: usize,
}

/// [`crate::Backend::Routing`] of MLX.
pub struct MlxRouting {
    experts: Index, // [n_rows, top_k]
    weights: Array, // [n_rows, top_k]
}

impl MlxExperts {
    pub(super) fn new(mlx: Mlx, dtype: Dtype, parts: &ExpertParts<'_>) -> Result<MlxExperts, BackendError> {
        let n = parts.gate.len();
        check("experts: weights of up", n, parts.up.len())?;
        check("experts: weights of down", n, parts.down.len())?;
        let (hidden, ffn) = parts.down.first().map_or((0, 0), |w| (w.n_rows(), w.n_cols()));
        for (weights, n_out) in [(parts.gate, ffn), (parts.up, ffn), (parts.down, hidden)] {
            weights.iter().try_for_each(|w| check("experts: rows of a weight", n_out, w.n_rows()))?;
        }
        Ok(MlxExperts {
            first: parts.first as usize,
            n,
            gate: Weight::new(mlx, dtype, parts.gate, &[n, ffn, hidden])?,
            up: Weight::new(mlx, dtype, parts.up, &[n, ffn, hidden])?,
            down: Weight::new(mlx, dtype, parts.down, &[n, hidden, ffn])?,
            hidden,
        })
    }

    /// `Σ w_e · down_e(silu(gate_e x) · up_e x)` over the experts that are here, `[n_rows, hidden]`.
    pub(super) fn apply(&self, mlx: Mlx, x: &Array, routing: &MlxRouting) -> Result<Array, BackendError> {
        if self.n == 0 {
            return Ok(mlx.zeros(&x.shape(), x.dtype().unwrap_or(Dtype::F32))?);
        }
        check("moe: columns of the input", self.hidden, x.dim(1))?;
        check("moe: rows of the routing", x.dim(0), routing.weights.dim(0))?;
        let (n_rows, top_k) = (routing.weights.dim(0), routing.weights.dim(1));
        let (experts, weights) = mlx.local_experts(&routing.experts, &routing.weights, self.first, self.n)?;
        let y = if n_rows * top_k < MIN_SORTED {
            let x = mlx.reshape(x, &[n_rows, 1, 1, self.hidden])?;
            self.mlp(mlx, &x, &experts, false)?
        } else {
            self.sorted(mlx, x, &experts, n_rows * top_k)?
        };
        let y = mlx.reshape(&y, &[n_rows, top_k, self.hidden])?;
        let weights =
            mlx.astype(&mlx.reshape(&weights, &[n_rows, top_k, 1])?, x.dtype().unwrap_or(Dtype::F32))?;
        Ok(mlx.sum(&mlx.multiply(&y, &weights)?, 1)?)
    }

    /// All pairs of row and expert, computed in the order of experts and put back: `[n_pairs, 1, hidden]`.
    fn sorted(&self, mlx: Mlx, x: &Array, experts: &Index, n_pairs: usize) -> Result<Array, BackendError> {
        let experts = mlx.reshape_index(experts, &[n_pairs])?;
        let order = mlx.argsort(experts.array())?;
        let rows = mlx.row_of(&order, n_pairs / x.dim(0))?;
        let x = mlx.take(x, &rows, 0)?;
        let x = mlx.reshape(&x, &[n_pairs, 1, self.hidden])?;
        let y = self.mlp(mlx, &x, &mlx.take_index(&experts, &order)?, true)?;
        Ok(mlx.take(&y, &mlx.argsort(order.array())?, 0)?)
    }

    fn mlp(&self, mlx: Mlx, x: &Array, experts: &Index, sorted: bool) -> Result<Array, BackendError> {
        let product = |x: &Array, weight: &Weight| match weight {
            Weight::Float { columns, .. } => mlx.gather_matmul(x, columns, experts, sorted),
            Weight::Codes(q) => mlx.gather_quantized(x, q, experts, sorted),
        };
        let y = mlx.swiglu(&product(x, &self.gate)?, &product(x, &self.up)?)?;
        Ok(product(&y, &self.down)?)
    }
}

impl MlxRouting {
    pub(super) fn new(
        mlx: Mlx,
        logits: &Array,
        correction: Option<&Array>,
        spec: &RouterSpec,
    ) -> Result<MlxRouting, BackendError> {
        let softmax = spec.scoring == Scoring::Softmax;
        let counts = [spec.n_groups, spec.n_top_groups, spec.top_k];
        let (experts, weights) =
            mlx.route(logits, correction, softmax, counts, spec.normalise, spec.scale)?;
        Ok(MlxRouting { experts, weights })
    }
}
