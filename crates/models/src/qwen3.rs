//! Qwen3 dense: Llama's layer with RMSNorm on each head's queries and keys before the rotation, and no biases.
//! Source: Yang et al., "Qwen3 technical report" (2025).

use backend::{AttentionSpec, Backend};

use crate::{
    ModelError,
    decoder::{self, StepContext},
    loader::Loader,
    names::Weight,
};

/// The weights of a layer.
pub(crate) const LAYER_WEIGHTS: &[Weight] = &[
    Weight::AttentionNorm,
    Weight::Q,
    Weight::QNorm,
    Weight::K,
    Weight::KNorm,
    Weight::V,
    Weight::O,
    Weight::MlpNorm,
    Weight::Gate,
    Weight::Up,
    Weight::Down,
];

/// Attention of one layer, this rank's heads.
pub(crate) struct Attention<B: Backend> {
    spec: AttentionSpec,
    qkv: B::Linear, // [heads_shard * head_dim, hidden] and two of [kv_heads_shard * head_dim, hidden]
    o: B::Linear,   // [hidden, heads_shard * head_dim]
    norms: B::HeadNorms,
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(Attention {
            spec: loader.attention_spec(),
            qkv: loader.linear(&[Weight::Q, Weight::K, Weight::V], layer)?,
            o: loader.linear(&[Weight::O], layer)?,
            norms: loader.head_norms(layer)?,
        })
    }

    fn forward(
        &self,
        b: &mut B,
        x: &B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError> {
        let qkv = b.matmul(x, &self.qkv)?;
        let y = b.attention(qkv, Some(&self.norms), &step.rope, slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, &self.o)?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}
