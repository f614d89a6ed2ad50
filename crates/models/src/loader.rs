//! Reads one rank's share of a checkpoint. The table of weights says what is cut and along which side; no
//! architecture file cuts anything itself.

use std::ops::Range;

use backend::{AttentionSpec, Backend, CacheSpec};
use plan::{Plan, RankPlan};
use weights::Checkpoint;

use crate::{
    Config, Description, ModelError,
    description::{checked_tensor, name_in},
    names::{Side, Weight},
};

/// A rank's view of a checkpoint, on its way to the backend.
pub(crate) struct Loader<'a, B: Backend> {
    checkpoint: &'a Checkpoint,
    pub(crate) config: &'a Config,
    pub(crate) rank: &'a RankPlan,
    pub(crate) backend: &'a mut B,
    tied: bool,
}

impl<'a, B: Backend> Loader<'a, B> {
    pub(crate) fn new(
        checkpoint: &'a Checkpoint,
        description: &'a Description,
        plan: &Plan,
        rank: &'a RankPlan,
        backend: &'a mut B,
    ) -> Result<Loader<'a, B>, ModelError> {
        let config = &description.config;
        backend.allocate_cache(CacheSpec {
            n_layers: rank.layers.len(),
            n_blocks: plan.n_blocks() as usize,
            block_len: plan.block_len() as usize,
            n_kv_heads: rank.shard.kv_heads.len(),
            head_dim: config.head_dim as usize,
        })?;
        Ok(Loader { checkpoint, config, rank, backend, tied: description.spec.head.is_none() })
    }

    /// The shape of this rank's attention.
    pub(crate) fn attention_spec(&self) -> AttentionSpec {
        let heads_per_kv = (self.config.n_heads / self.config.n_kv_heads) as usize;
        let n_kv_heads = self.rank.shard.kv_heads.len();
        let head_dim = self.config.head_dim as usize;
        AttentionSpec {
            n_heads: n_kv_heads * heads_per_kv,
            n_kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: self.config.window,
        }
    }

    /// This rank's rectangle of a matrix.
    pub(crate) fn linear(&mut self, weight: Weight, layer: u32) -> Result<B::Linear, ModelError> {
        self.matrix(weight, layer, None)
    }

    /// The same with a bias: required of architectures that list it, taken along where a file has one.
    pub(crate) fn linear_with_bias(
        &mut self,
        weight: Weight,
        bias: Weight,
        layer: u32,
    ) -> Result<B::Linear, ModelError> {
        let name = name_in(self.checkpoint, bias, layer);
        if !self.checkpoint.contains(&name) {
            return self.matrix(weight, layer, None);
        }
        checked_tensor(self.checkpoint, self.config, bias, layer)?;
        let values = self.checkpoint.vector(&name)?;
        self.matrix(weight, layer, Some(&values[self.range(bias.entry().shape[0])]))
    }

    /// A norm's weight, held whole.
    pub(crate) fn norm(&mut self, weight: Weight, layer: u32) -> Result<B::Tensor, ModelError> {
        let values = self.checkpoint.vector(&name_in(self.checkpoint, weight, layer))?;
        Ok(self.backend.tensor(&values, values.len())?)
    }

    /// The output head: a weight of its own, or the embedding table.
    pub(crate) fn head(&mut self) -> Result<B::Linear, ModelError> {
        self.linear(if self.tied { Weight::Embedding } else { Weight::Head }, 0)
    }

    /// Whether head and embedding are one weight.
    pub(crate) fn tied(&self) -> bool {
        self.tied
    }

    fn matrix(&mut self, weight: Weight, layer: u32, bias: Option<&[f32]>) -> Result<B::Linear, ModelError> {
        let name = name_in(self.checkpoint, weight, layer);
        let whole = self.checkpoint.matrix(&name)?;
        let shape = weight.entry().shape;
        let (rows, cols) = (self.range(shape[0]), self.range(shape[1]));
        let share = whole.cut(rows.clone(), cols.clone()).ok_or(ModelError::Cut {
            name,
            rows,
            cols,
            dtype: whole.dtype,
        })?;
        Ok(self.backend.linear(&share, bias)?)
    }

    /// This rank's part of one side of a weight.
    fn range(&self, side: Side) -> Range<usize> {
        let scaled =
            |range: &Range<u32>, width: u32| (range.start * width) as usize..(range.end * width) as usize;
        let (shard, config) = (&self.rank.shard, self.config);
        match side {
            Side::Hidden | Side::Head => 0..config.side(side),
            Side::QueryHeads => scaled(&shard.kv_heads, config.n_heads / config.n_kv_heads * config.head_dim),
            Side::KvHeads => scaled(&shard.kv_heads, config.head_dim),
            Side::Ffn => scaled(&shard.ffn, 1),
            Side::Vocab => scaled(&shard.vocab, 1),
        }
    }
}
