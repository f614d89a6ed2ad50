//! Reads one rank's share of a checkpoint. The table of weights says what is cut and along which side; no
//! architecture file cuts anything itself.

use std::ops::Range;

use backend::{AttentionSpec, Backend, CacheRow, CacheSpec, ExpertParts, LatentParts, MlaSpec, Part};
use base::WeightView;
use plan::{Plan, RankPlan};
use weights::{Checkpoint, ReadRows, Stored};

use crate::{
    Config, Description, ModelError,
    config::bad,
    names::{Side, Weight},
    tensors::Tensors,
};

/// A rank's view of a checkpoint, on its way to the backend.
pub(crate) struct Loader<'a, B: Backend> {
    tensors: Tensors<'a>,
    pub(crate) config: &'a Config,
    pub(crate) rank: &'a RankPlan,
    pub(crate) backend: &'a mut B,
    tied: bool,
    /// FFN columns that stay together.
    ffn_unit: u32,
}

/// A rank's rectangle of a stored matrix.
enum Share<'a> {
    /// In the file, as it is mapped.
    Mapped(WeightView<'a>),
    /// Rows that were read, of which only some columns are this rank's.
    Read { rows: ReadRows, cols: Range<usize> },
}

impl Share<'_> {
    fn view(&self) -> WeightView<'_> {
        match self {
            Share::Mapped(view) => *view,
            Share::Read { rows, cols } => {
                let view = rows.view();
                view.cut(0..view.n_rows(), cols.clone())
                    .expect("the same columns were cut from the whole matrix")
            }
        }
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
        let row = match &config.latent {
            Some(latent) => {
                CacheRow::Latent { latent_dim: latent.kv_rank as usize, rope_dim: latent.rope_dim as usize }
            }
            None => {
                CacheRow::Heads { n_kv_heads: rank.shard.kv_heads.len(), head_dim: config.head_dim as usize }
            }
        };
        backend.allocate_cache(CacheSpec {
            n_layers: rank.layers.len(),
            n_blocks: plan.n_blocks() as usize,
            block_len: plan.block_len() as usize,
            row,
        })?;
        let (tied, ffn_unit) = (description.spec.head.is_none(), description.spec.ffn_unit);
        Ok(Loader { tensors: Tensors { checkpoint, config }, config, rank, backend, tied, ffn_unit })
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

    /// The shape of this rank's latent attention.
    pub(crate) fn mla_spec(&self) -> Result<MlaSpec, ModelError> {
        let latent = self.config.latent.as_ref();
        let latent = latent.ok_or_else(|| bad("latent attention", "its widths", "none"))?;
        Ok(MlaSpec {
            n_heads: self.rank.shard.kv_heads.len(),
            nope_dim: latent.nope_dim as usize,
            rope_dim: latent.rope_dim as usize,
            v_dim: latent.v_dim as usize,
            latent_dim: latent.kv_rank as usize,
            scale: latent.scale,
        })
    }

    /// This rank's rectangles of matrices that share their input.
    pub(crate) fn linear(&mut self, weights: &[Weight], layer: u32) -> Result<B::Linear, ModelError> {
        let whole: Vec<_> = weights.iter().map(|&weight| (weight, None)).collect();
        self.linear_of_rows(&whole, layer)
    }

    /// The same, of some only the given rows, which must be this rank's.
    pub(crate) fn linear_of_rows(
        &mut self,
        weights: &[(Weight, Option<Range<usize>>)],
        layer: u32,
    ) -> Result<B::Linear, ModelError> {
        let shares = weights
            .iter()
            .map(|(weight, rows)| self.share(self.tensors.matrix(*weight, layer)?, *weight, rows.clone()));
        let shares = shares.collect::<Result<Vec<_>, ModelError>>()?;
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
        let shares =
            weights.iter().map(|&(weight, _)| self.share(self.tensors.matrix(weight, layer)?, weight, None));
        let shares = shares.collect::<Result<Vec<_>, ModelError>>()?;
        let parts = shares.iter().zip(&biases);
        let parts = parts.map(|(share, bias)| Part { weight: share.view(), bias: bias.as_deref() });
        Ok(self.backend.linear(&parts.collect::<Vec<_>>())?)
    }

    /// This rank's columns of all experts of a layer.
    pub(crate) fn experts(&mut self, weights: [Weight; 3], layer: u32) -> Result<B::Experts, ModelError> {
        let n = self.config.side(Side::Experts) as u32;
        let shares = |weight: Weight| {
            let share = |e| self.share(self.tensors.expert(weight, layer, e)?, weight, None);
            (0..n).map(share).collect::<Result<Vec<_>, ModelError>>()
        };
        let [gate, up, down] = weights.map(shares);
        let (gate, up, down) = (gate?, up?, down?);
        let [gate, up, down] =
            [&gate, &up, &down].map(|shares| shares.iter().map(Share::view).collect::<Vec<_>>());
        Ok(self.backend.experts(&ExpertParts { first: 0, gate: &gate, up: &up, down: &down })?)
    }

    /// Up-projections of this rank's heads of latent attention.
    pub(crate) fn latent_up(&mut self, layer: u32, spec: &MlaSpec) -> Result<B::LatentUp, ModelError> {
        if self.tensors.contains(Weight::KvUp, layer) {
            let share = self.share(self.tensors.matrix(Weight::KvUp, layer)?, Weight::KvUp, None)?;
            return Ok(self.backend.latent_up(&LatentParts::Joined(share.view()), spec)?);
        }
        let shares = |weight: Weight| {
            let heads = self.rank.shard.kv_heads.clone();
            let share = |head| self.share(self.tensors.of_head(weight, layer, head)?, weight, None);
            heads.map(share).collect::<Result<Vec<_>, ModelError>>()
        };
        let (keys, values) = (shares(Weight::KeyUp)?, shares(Weight::ValueUp)?);
        let [keys, values] = [&keys, &values].map(|all| all.iter().map(Share::view).collect::<Vec<_>>());
        Ok(self.backend.latent_up(&LatentParts::Apart { keys: &keys, values: &values }, spec)?)
    }

    /// A norm's weight, held whole.
    pub(crate) fn norm(&mut self, weight: Weight, layer: u32) -> Result<B::Norm, ModelError> {
        self.norm_with(weight, layer, self.config.norm_eps)
    }

    /// The same with a number of its own that is added to the mean square.
    pub(crate) fn norm_with(&mut self, weight: Weight, layer: u32, eps: f32) -> Result<B::Norm, ModelError> {
        let values = self.tensors.vector(weight, layer)?;
        Ok(self.backend.norm(&values, eps)?)
    }

    /// A vector as a tensor of one row, held whole.
    pub(crate) fn row(&mut self, weight: Weight, layer: u32) -> Result<B::Tensor, ModelError> {
        let values = self.tensors.vector(weight, layer)?;
        Ok(self.backend.tensor(&values, values.len())?)
    }

    /// Norms over the heads of queries and keys.
    pub(crate) fn head_norms(&mut self, layer: u32) -> Result<B::HeadNorms, ModelError> {
        let q = self.tensors.vector(Weight::QNorm, layer)?;
        let k = self.tensors.vector(Weight::KNorm, layer)?;
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

    /// This rank's rectangle; of its rows those given, if any are.
    fn share(
        &self,
        (name, stored): (String, Stored<'a>),
        weight: Weight,
        rows: Option<Range<usize>>,
    ) -> Result<Share<'a>, ModelError> {
        let shape = weight.entry().shape;
        let (rows, cols) = (rows.unwrap_or_else(|| self.range(shape[0])), self.range(shape[1]));
        let whole = stored.view();
        let Some(share) = whole.cut(rows.clone(), cols.clone()) else {
            return Err(ModelError::Cut { name, rows, cols, format: whole.format() });
        };
        Ok(match B::READS_WEIGHTS {
            true => Share::Read { rows: stored.read(rows)?, cols },
            false => Share::Mapped(share),
        })
    }

    fn bias(&self, bias: Weight, layer: u32) -> Result<Option<Vec<f32>>, ModelError> {
        if !self.tensors.contains(bias, layer) {
            return Ok(None);
        }
        Ok(Some(self.tensors.vector(bias, layer)?[self.range(bias.entry().shape[0])].to_vec()))
    }

    /// This rank's part of one side of a weight.
    fn range(&self, side: Side) -> Range<usize> {
        let (shard, config) = (&self.rank.shard, self.config);
        let n = config.side(side);
        let of_heads = |n_all: u32, range: &Range<u32>| {
            let width = n / n_all.max(1) as usize;
            range.start as usize * width..range.end as usize * width
        };
        match side {
            Side::Vocab => shard.vocab.start as usize..shard.vocab.end as usize,
            side if Side::OF_HEADS.contains(&side) => of_heads(config.n_kv_heads, &shard.kv_heads),
            side if Side::OF_FFN.contains(&side) => {
                in_proportion(&shard.ffn, config.shard_ffn() as usize, n, self.ffn_unit as usize)
            }
            _ => 0..n,
        }
    }
}

/// The part of `0..n` that corresponds to a part of `0..of`, cut at multiples of `unit`. Parts that follow each other stay so.
fn in_proportion(part: &Range<u32>, of: usize, n: usize, unit: usize) -> Range<usize> {
    let place = |at: u32| match at as usize {
        at if at == of => n,
        at => at * n / of / unit * unit,
    };
    if n == of { part.start as usize..part.end as usize } else { place(part.start)..place(part.end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wider_layers_are_cut_in_proportion_and_between_units() {
        // Kimi-K2: nine times as wide; and a width that is no multiple
        for (of, n, unit) in [(2048, 18_432, 32), (2048, 18_432, 128), (1408, 10_944, 32), (96, 96, 32)] {
            for cut in (unit..of).step_by(unit) {
                let parts = [0..cut as u32, cut as u32..of as u32].map(|p| in_proportion(&p, of, n, unit));
                assert_eq!((parts[0].start, parts[0].end, parts[1].end), (0, parts[1].start, n));
                assert!(parts[0].end.is_multiple_of(unit) && !parts[0].is_empty() && !parts[1].is_empty());
                let exact = cut as f64 * n as f64 / of as f64;
                assert!((parts[0].end as f64 - exact).abs() < unit as f64);
            }
        }
    }
}
