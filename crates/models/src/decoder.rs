//! What every decoder shares: embedding, a stack of blocks (attention and feed-forward layer, each after a norm and added to its
//! input), norm and head, of which a stage holds a part.

use std::rc::Rc;

use backend::{Backend, RopeSpec};
use base::Batch;

use crate::{Model, ModelError, loader::Loader, names::Weight};

/// What a block sees of a step besides its input.
pub(crate) struct StepContext<B: Backend> {
    pub(crate) inputs: B::Inputs,
    pub(crate) rope: B::Rope,
}

/// What differs between architectures: how a layer attends. Takes the normalised input, returns the sum over the group.
pub(crate) trait Attention<B: Backend>: Sized {
    /// Loads layer `layer`, counted over the whole model.
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError>;
    /// `[n_rows, hidden] → [n_rows, hidden]`; `slot` is the layer's place in this stage's KV cache.
    fn forward(
        &self,
        b: &mut B,
        x: &B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError>;
}

/// The other half of a layer: feed-forward. Takes the normalised input, returns the sum over the group.
pub(crate) trait Mlp<B: Backend>: Sized {
    /// Loads layer `layer`, counted over the whole model.
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError>;
    /// `[n_rows, hidden] → [n_rows, hidden]`.
    fn forward(&self, b: &mut B, x: &B::Tensor) -> Result<B::Tensor, ModelError>;
}

/// A stage of a decoder.
pub(crate) struct Decoder<B: Backend, A, M = DenseMlp<B>> {
    rope: RopeSpec,
    first_word: u32,
    /// First stage only: this rank's vocabulary rows, `[vocab_shard, hidden]`.
    embedding: Option<Rc<B::Linear>>,
    blocks: Vec<Block<B, A, M>>,
    /// Last stage only: final norm `[hidden]` and head `[vocab_shard, hidden]`.
    head: Option<(B::Norm, Rc<B::Linear>)>,
}

impl<B: Backend, A: Attention<B>, M: Mlp<B>> Decoder<B, A, M> {
    pub(crate) fn load(mut loader: Loader<'_, B>) -> Result<Self, ModelError> {
        let rank = loader.rank;
        let embedding =
            if rank.embeds { Some(Rc::new(loader.linear(&[Weight::Embedding], 0)?)) } else { None };
        let blocks = rank
            .layers
            .clone()
            .map(|layer| Block::load(&mut loader, layer))
            .collect::<Result<Vec<_>, ModelError>>()?;
        let head = if rank.heads {
            let matrix = match &embedding {
                Some(table) if loader.tied() => Rc::clone(table),
                _ => Rc::new(loader.head()?),
            };
            Some((loader.norm(Weight::Norm, 0)?, matrix))
        } else {
            None
        };
        Ok(Decoder {
            rope: loader.config.rope.clone(),
            first_word: rank.shard.vocab.start,
            embedding,
            blocks,
            head,
        })
    }
}

impl<B: Backend, A: Attention<B>, M: Mlp<B>> Model<B> for Decoder<B, A, M> {
    fn forward(
        &self,
        b: &mut B,
        batch: &Batch,
        inputs: B::Inputs,
        hidden: Option<B::Tensor>,
    ) -> Result<B::Tensor, ModelError> {
        let step = StepContext { rope: b.rope_table(&self.rope, &inputs)?, inputs };
        let mut x = match (hidden, &self.embedding) {
            (Some(hidden), _) => hidden,
            (None, Some(table)) => {
                let part = b.embed(table, self.first_word, &step.inputs)?;
                b.all_reduce(part)?
            }
            (None, None) => {
                return Err(ModelError::MissingHidden);
            }
        };
        for (slot, block) in self.blocks.iter().enumerate() {
            x = block.forward(b, x, slot, &step)?;
        }
        let Some((norm, head)) = &self.head else { return Ok(x) };
        // In decode every row has logits.
        if batch.seqs.iter().any(|seq| seq.n_logits != seq.n_rows) {
            x = b.select_rows(&x, &batch.logit_rows())?;
        }
        let x = b.rms_norm(&x, norm)?;
        let [logits] = b.matmul(&x, head)?; // [n_logits, vocab_shard]
        Ok(logits)
    }
}

/// One layer: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
struct Block<B: Backend, A, M> {
    attention_norm: B::Norm, // [hidden]
    attention: A,
    mlp_norm: B::Norm, // [hidden]
    mlp: M,
}

impl<B: Backend, A: Attention<B>, M: Mlp<B>> Block<B, A, M> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        Ok(Block {
            attention_norm: loader.norm(Weight::AttentionNorm, layer)?,
            attention: A::load(loader, layer)?,
            mlp_norm: loader.norm(Weight::MlpNorm, layer)?,
            mlp: M::load(loader, layer)?,
        })
    }

    fn forward(
        &self,
        b: &mut B,
        x: B::Tensor,
        slot: usize,
        step: &StepContext<B>,
    ) -> Result<B::Tensor, ModelError> {
        let y = b.rms_norm(&x, &self.attention_norm)?;
        let y = self.attention.forward(b, &y, slot, step)?;
        let x = b.add(x, &y)?;
        let y = b.rms_norm(&x, &self.mlp_norm)?;
        let y = self.mlp.forward(b, &y)?;
        Ok(b.add(x, &y)?)
    }
}

/// Gated feed-forward layer: `down(silu(gate(x)) · up(x))`, columns shared out over the tensor group.
pub(crate) struct DenseMlp<B: Backend> {
    gate_up: B::Linear, // two of [ffn_shard, hidden]
    down: B::Linear,    // [hidden, ffn_shard]
}

impl<B: Backend> DenseMlp<B> {
    /// Loads it from weights of these names.
    pub(crate) fn of(
        loader: &mut Loader<'_, B>,
        [gate, up, down]: [Weight; 3],
        layer: u32,
    ) -> Result<Self, ModelError> {
        Ok(DenseMlp { gate_up: loader.linear(&[gate, up], layer)?, down: loader.linear(&[down], layer)? })
    }

    /// `[n_rows, hidden] → [n_rows, hidden]`, this rank's part of the sum.
    pub(crate) fn partial(&self, b: &mut B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let [gate, up] = b.matmul(x, &self.gate_up)?; // [n_rows, ffn_shard]
        let y = b.swiglu(gate, up)?;
        let [y] = b.matmul(&y, &self.down)?;
        Ok(y)
    }
}

impl<B: Backend> Mlp<B> for DenseMlp<B> {
    fn load(loader: &mut Loader<'_, B>, layer: u32) -> Result<Self, ModelError> {
        DenseMlp::of(loader, [Weight::Gate, Weight::Up, Weight::Down], layer)
    }

    fn forward(&self, b: &mut B, x: &B::Tensor) -> Result<B::Tensor, ModelError> {
        let y = self.partial(b, x)?;
        Ok(b.all_reduce(y)?)
    }
}
