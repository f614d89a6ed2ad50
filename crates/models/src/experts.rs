//! Feed-forward layers of models with experts: a gate chooses a few for every token, shared ones are for all, and the first layers may
//! be dense. How a gate scores is the architecture's; the rest is alike. Every expert is cut by columns, as dense layers are.
//! Source: Shazeer et al., "Outrageously large neural networks" (2017).

use backend::{Backend, RouterSpec};

use crate::{
    Config, ModelError,
    decoder::{self, DenseMlp},
    loader::Loader,
    names::{Side, Weight},
};

const ROUTED: [Weight; 3] = [Weight::ExpertGate, Weight::ExpertUp, Weight::ExpertDown];
const SHARED: [Weight; 3] = [Weight::SharedGate, Weight::SharedUp, Weight::SharedDown];

/// The weights of a layer's second half, but for its norm.
pub(crate) fn mlp_weights(config: &Config, layer: u32) -> Vec<Weight> {
    let Some(experts) = config.experts_of(layer) else {
        return vec![Weight::Gate, Weight::Up, Weight::Down];
    };
    let mut weights = vec![Weight::Router];
    weights.extend(experts.is_corrected.then_some(Weight::RouterCorrection));
    weights.extend(ROUTED);
    if experts.shared_ffn > 0 {
        weights.extend(SHARED);
    }
    weights
}

/// The feed-forward layer: dense, or experts.
pub(crate) enum Mlp<B: Backend> {
    Dense(DenseMlp<B>),
    Experts(Box<ExpertMlp<B>>),
}

impl<B: Backend> decoder::Mlp<B> for Mlp<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(match loader.config.experts_of(layer) {
            None => Mlp::Dense(DenseMlp::load(loader, layer)?),
            Some(experts) => {
                Mlp::Experts(Box::new(ExpertMlp::load(loader, layer, experts.router, experts.is_corrected)?))
            }
        })
    }

    fn forward(&self, b: &mut B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        match self {
            Mlp::Dense(mlp) => mlp.forward(b, x),
            Mlp::Experts(mlp) => mlp.forward(b, x),
        }
    }
}

/// Routed and shared experts, columns of each shared out over the tensor group.
pub(crate) struct ExpertMlp<B: Backend> {
    router: RouterSpec,
    gate: B::Linear,               // [n_experts, hidden]
    correction: Option<B::Tensor>, // [1, n_experts]
    experts: B::Experts,           // of each: two of [ffn_shard, hidden], and [hidden, ffn_shard]
    shared: Option<DenseMlp<B>>,
}

impl<B: Backend> ExpertMlp<B> {
    fn load(
        loader: &mut Loader<'_, B>,
        layer: u32,
        router: RouterSpec,
        is_corrected: bool,
    ) -> Result<Self, ModelError> {
        let has_shared = loader.config.side(Side::SharedFfn) > 0;
        Ok(ExpertMlp {
            router,
            gate: loader.linear(&[Weight::Router], layer)?,
            correction: match is_corrected {
                true => Some(loader.row(Weight::RouterCorrection, layer)?),
                false => None,
            },
            experts: loader.experts(ROUTED, layer)?,
            shared: if has_shared { Some(DenseMlp::of(loader, SHARED, layer)?) } else { None },
        })
    }

    /// `[n_rows, hidden] → [n_rows, hidden]`, summed over the group.
    fn forward(&self, b: &mut B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let [logits] = b.matmul(x, &self.gate)?; // [n_rows, n_experts]
        let routing = b.route(&logits, self.correction.as_ref(), &self.router)?;
        let mut y = b.moe(x, &self.experts, &routing)?; // [n_rows, hidden], a partial sum
        if let Some(shared) = &self.shared {
            let of_shared = shared.partial(b, x)?;
            y = b.add(y, &of_shared)?;
        }
        Ok(b.all_reduce(y)?)
    }
}
