//! What a checkpoint holds, in the planner's terms: counts, bytes by how they are shared out, and where cuts may fall. Every
//! tensor that a rank will ask for is looked up here, before anything is allocated.

use base::{Bytes, LayerBytes, ModelSpec};
use weights::Checkpoint;

use crate::{
    Architecture, Config, ModelError,
    names::{Side, Weight},
    tensors::Tensors,
};

/// A checkpoint, understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// Its structure.
    pub architecture: Architecture,
    /// Its hyper-parameters.
    pub config: Config,
    /// Its sizes.
    pub spec: ModelSpec,
}

impl Description {
    /// Reads a checkpoint's configuration and headers; no matrix is touched.
    pub fn read(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
        let (architecture, config) = Config::read(checkpoint)?;
        let tensors = Tensors { checkpoint, config: &config };
        let mut sizes = Sizes { tensors, down_cut: 1, output_cut: 1 };
        let layers = (0..config.n_layers)
            .map(|layer| sizes.layer(architecture, layer))
            .collect::<Result<Vec<LayerBytes>, ModelError>>()?;
        sizes.bytes(Weight::Norm, 0)?;
        let tied = !tensors.contains(Weight::Head, 0);
        let spec = ModelSpec {
            hidden: config.hidden,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            ffn: config.shard_ffn(),
            vocab: config.vocab,
            max_context: config.max_context,
            head_unit: sizes.head_unit(),
            ffn_unit: sizes.down_cut,
            embedding: sizes.bytes(Weight::Embedding, 0)?,
            head: if tied { None } else { Some(sizes.bytes(Weight::Head, 0)?) },
            latent: config.latent.as_ref().map(|latent| latent.kv_rank + latent.rope_dim),
            layers,
        };
        Ok(Description { architecture, config, spec })
    }
}

struct Sizes<'a> {
    tensors: Tensors<'a>,
    /// The longest run of columns that any layer's down-projection keeps together.
    down_cut: u32,
    /// The same of the output projections.
    output_cut: u32,
}

impl Sizes<'_> {
    fn layer(&mut self, architecture: Architecture, layer: u32) -> Result<LayerBytes, ModelError> {
        let mut sum = LayerBytes::default();
        for weight in architecture.layer_weights(self.tensors, layer) {
            let bytes = self.bytes(weight, layer)?;
            let is_any = |sides: &[Side]| weight.entry().shape.iter().any(|side| sides.contains(side));
            let share = if weight.is_of_head() || is_any(&Side::OF_HEADS) {
                &mut sum.attention
            } else if is_any(&Side::OF_FFN) {
                &mut sum.ffn
            } else {
                &mut sum.replicated
            };
            *share += bytes;
        }
        Ok(sum)
    }

    /// Bytes of a weight, of all experts if they have one each.
    fn bytes(&mut self, weight: Weight, layer: u32) -> Result<Bytes, ModelError> {
        let n_experts = self.tensors.config.experts.as_ref().map_or(0, |e| e.n);
        match weight.entry().shape {
            [_] => Ok(Bytes(4 * self.tensors.vector(weight, layer)?.len() as u64)),
            _ if weight.is_of_expert() => (0..n_experts)
                .map(|e| Ok(self.matrix(weight, self.tensors.expert(weight, layer, e)?.1)))
                .sum(),
            _ if weight.is_of_head() => {
                let heads = 0..self.tensors.config.n_heads;
                heads.map(|h| Ok(self.matrix(weight, self.tensors.of_head(weight, layer, h)?.1))).sum()
            }
            _ => {
                let (_, stored) = self.tensors.matrix(weight, layer)?;
                Ok(self.matrix(weight, stored))
            }
        }
    }

    fn matrix(&mut self, weight: Weight, stored: weights::Stored<'_>) -> Bytes {
        let view = stored.view();
        let cut = match weight {
            Weight::Down | Weight::ExpertDown | Weight::SharedDown => Some(&mut self.down_cut),
            Weight::O | Weight::LatentO => Some(&mut self.output_cut),
            _ => None,
        };
        if let Some(cut) = cut {
            *cut = (*cut).max(view.cut_len() as u32);
        }
        Bytes(view.n_bytes() as u64)
    }

    /// The fewest KV heads whose query heads end between blocks of the output projection.
    fn head_unit(&self) -> u32 {
        let config = self.tensors.config;
        let width = config.n_heads / config.n_kv_heads * config.head_dim;
        let fits = |unit: &u32| {
            (unit * width).is_multiple_of(self.output_cut) && config.n_kv_heads.is_multiple_of(*unit)
        };
        (1..=config.n_kv_heads).find(fits).unwrap_or(config.n_kv_heads)
    }
}
