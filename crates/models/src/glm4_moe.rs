//! GLM-4.5 to 4.7: grouped-query attention that turns only the first part of each head, with biases on queries, keys and values and, in
//! the larger ones, norms over the heads; then experts as DeepSeek-V3 chooses them. Layers that predict several tokens are not used.
//! Source: GLM-4.5 team, "GLM-4.5: agentic, reasoning, and coding foundation models" (2025).

use backend::{AttentionSpec, Backend};

use crate::{
    Config, ModelError,
    decoder::{self, StepContext},
    experts,
    loader::Loader,
    names::Weight,
};

// arguments; those of the experts are DeepSeek-V3's

/// The weights of a layer.
pub(crate) fn layer_weights(config: &Config, layer: u32) -> Vec<Weight> {
    let mut weights = vec![Weight::AttentionNorm, Weight::Q, Weight::K, Weight::V, Weight::O];
    if config.qkv_biases {
        weights.extend([Weight::QBias, Weight::KBias, Weight::VBias]);
    }
    if config.head_norms {
        weights.extend([Weight::QNorm, Weight::KNorm]);
    }
    weights.push(Weight::MlpNorm);
    weights.extend(experts::mlp_weights(config, layer));
    weights
}

// attention

/// Attention of one layer, this rank's heads.
pub(crate) struct Attention<B: Backend> {
    spec: AttentionSpec,
    qkv: B::Linear, // [heads_shard * head_dim, hidden] and two of [kv_heads_shard * head_dim, hidden]
    o: B::Linear,   // [hidden, heads_shard * head_dim]
    norms: Option<B::HeadNorms>,
}

impl<B: Backend> decoder::Attention<B> for Attention<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        let qkv = [(Weight::Q, Weight::QBias), (Weight::K, Weight::KBias), (Weight::V, Weight::VBias)];
        Ok(Attention {
            spec: loader.attention_spec(),
            qkv: loader.linear_with_biases(&qkv, layer)?,
            o: loader.linear(&[Weight::O], layer)?,
            norms: if loader.config.head_norms { Some(loader.head_norms(layer)?) } else { None },
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
        let y = b.attention(qkv, self.norms.as_ref(), &step.rope, slot, &self.spec, &step.inputs)?;
        let [y] = b.matmul(&y, &self.o)?; // [n_rows, hidden], a partial sum
        Ok(b.all_reduce(y)?)
    }
}

// MLP, block, model and head are those of others

/// A stage of the model.
pub(crate) type Model<B> = decoder::Decoder<B, Attention<B>, experts::Mlp<B>>;
