//! Reads one rank's share of a checkpoint. The table of weights says what is cut and along which side; no
//! architecture file cuts anything itself.

use std::ops::Range;

use backend::{AttentionSpec, Backend, CacheRow, CacheSpec, Part};
use base::{MatrixView, WeightView};
use plan::{Plan, RankPlan};
use weights::{Checkpoint, Rows};

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

/// A rank's rectangle of a stored matrix.
enum Share<'a> {
    /// In the file, as it is mapped.
    Mapped(MatrixView<'a>),
    /// Rows that were read, of which only some columns are this rank's.
    Read { rows: Rows, cols: Range<usize> },
}

impl Share<'_> {
    fn view(&self) -> WeightView<'_> {
        WeightView::Blocks(match self {
            Share::Mapped(view) => *view,
            Share::Read { rows, cols } => {
                let view = rows.view();
                view.cut(0..view.n_rows, cols.clone())
                    .expect("the same columns were cut from the whole matrix")
            }
        })
    }
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
            row: CacheRow::Heads {
                n_kv_heads: rank.shard.kv_heads.len(),
                head_dim: config.head_dim as usize,
            },
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

    /// This rank's rectangles of matrices that share their input.
    pub(crate) fn linear(&mut self, weights: &[Weight], layer: u32) -> Result<B::Linear, ModelError> {
        let shares = self.shares(weights.iter().copied(), layer)?;
        let parts: Vec<Part<'_>> = shares.iter().map(|s| Part { weight: s.view(), bias: None }).collect();
        Ok(self.backend.linear(&parts)?)
    }

    /// The same, each with a bias: required of architectures that list it, taken along where a file has one.
    pub(crate) fn linear_with_biases(
        &mut self,
        weights: &[(Weight, Weight)],
        layer: u32,
    ) -> Result<B::Linear, ModelError> {
        let biases = weights.iter().map(|&(_, bias)| self.bias(bias, layer));
        let biases = biases.collect::<Result<Vec<_>, ModelError>>()?;
        let shares = self.shares(weights.iter().map(|&(weight, _)| weight), layer)?;
        let parts = shares.iter().zip(&biases);
        let parts = parts.map(|(share, bias)| Part { weight: share.view(), bias: bias.as_deref() });
        Ok(self.backend.linear(&parts.collect::<Vec<_>>())?)
    }

    /// A norm's weight, held whole.
    pub(crate) fn norm(&mut self, weight: Weight, layer: u32) -> Result<B::Norm, ModelError> {
        let values = self.checkpoint.vector(&name_in(self.checkpoint, weight, layer))?;
        Ok(self.backend.norm(&values, self.config.norm_eps)?)
    }

    /// Norms over the heads of queries and keys.
    pub(crate) fn head_norms(&mut self, layer: u32) -> Result<B::HeadNorms, ModelError> {
        let [q, k] = [Weight::QNorm, Weight::KNorm].map(|w| name_in(self.checkpoint, w, layer));
        let (q, k) = (self.checkpoint.vector(&q)?, self.checkpoint.vector(&k)?);
        let spec = self.attention_spec();
        Ok(self.backend.head_norms(&q, &k, self.config.norm_eps, &spec)?)
    }

    /// The output head: a weight of its own, or the embedding table.
    pub(crate) fn head(&mut self) -> Result<B::Linear, ModelError> {
        self.linear(&[if self.tied { Weight::Embedding } else { Weight::Head }], 0)
    }

    /// Whether head and embedding are one weight.
    pub(crate) fn tied(&self) -> bool {
        self.tied
    }

    fn shares(
        &self,
        weights: impl Iterator<Item = Weight>,
        layer: u32,
    ) -> Result<Vec<Share<'a>>, ModelError> {
        weights.map(|weight| self.share(weight, layer)).collect()
    }

    fn share(&self, weight: Weight, layer: u32) -> Result<Share<'a>, ModelError> {
        let name = name_in(self.checkpoint, weight, layer);
        let whole = self.checkpoint.matrix(&name)?;
        let shape = weight.entry().shape;
        let (rows, cols) = (self.range(shape[0]), self.range(shape[1]));
        let Some(share) = whole.cut(rows.clone(), cols.clone()) else {
            return Err(ModelError::Cut { name, rows, cols, dtype: whole.dtype });
        };
        Ok(match B::READS_WEIGHTS {
            true => Share::Read { rows: self.checkpoint.read_rows(&name, rows)?, cols },
            false => Share::Mapped(share),
        })
    }

    fn bias(&self, bias: Weight, layer: u32) -> Result<Option<Vec<f32>>, ModelError> {
        let name = name_in(self.checkpoint, bias, layer);
        if !self.checkpoint.contains(&name) {
            return Ok(None);
        }
        checked_tensor(self.checkpoint, self.config, bias, layer)?;
        Ok(Some(self.checkpoint.vector(&name)?[self.range(bias.entry().shape[0])].to_vec()))
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
