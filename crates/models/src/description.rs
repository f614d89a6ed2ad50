//! What a checkpoint holds, in the planner's terms: counts, bytes by how they are shared out, and where cuts may fall. Every
//! tensor that a rank will ask for is looked up here, before anything is allocated.

use base::{Bytes, DType, ModelSpec, WeightView};
use plan::{Experts, LayerCost, ModelCost, Part};
use weights::{Checkpoint, Stored};

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
    layers: Vec<LayerCost>,
    head: Part,
}

impl Description {
    /// Reads a checkpoint's configuration and headers; no matrix is touched.
    pub fn read(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
        let (architecture, config) = Config::read(checkpoint)?;
        let tensors = Tensors { checkpoint, config: &config };
        let mut sizes = Sizes { tensors, down_cut: 1, output_cut: 1 };
        let layers = (0..config.n_layers)
            .map(|layer| sizes.layer(architecture, layer))
            .collect::<Result<Vec<LayerCost>, ModelError>>()?;
        sizes.part(Weight::Norm, 0)?;
        let tied = !tensors.contains(Weight::Head, 0);
        let embedding = sizes.part(Weight::Embedding, 0)?;
        let head = if tied { embedding } else { sizes.part(Weight::Head, 0)? };
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
            embedding: embedding.bytes(),
            head: (!tied).then_some(head.bytes()),
            latent: config.latent.as_ref().map(|latent| latent.kv_rank + latent.rope_dim),
            layers: ModelCost::layer_bytes(&layers),
        };
        Ok(Description { architecture, config, spec, layers, head })
    }

    /// What the cost model needs to know of it.
    pub fn cost(&self) -> ModelCost {
        let experts = self.config.experts.as_ref();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // a score takes a key's width, and a value its own
        let width = match &self.config.latent {
            None => 2 * self.config.head_dim,
            Some(latent) => latent.nope_dim + latent.rope_dim + latent.v_dim,
        };
        ModelCost {
            spec: self.spec.clone(),
            layers: self.layers.clone(),
            head: self.head,
            experts: experts.map(|e| Experts { n: e.n, n_active: count(e.router.top_k) }),
            // multiply and add, over all heads
            attention_flops: 2.0 * f64::from(self.spec.n_heads) * f64::from(width),
            is_runnable: true,
        }
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
    fn layer(&mut self, architecture: Architecture, layer: u32) -> Result<LayerCost, ModelError> {
        let mut sum = LayerCost::default();
        for weight in architecture.layer_weights(self.tensors, layer) {
            let part = self.part(weight, layer)?;
            let is_any = |sides: &[Side]| weight.entry().shape.iter().any(|side| sides.contains(side));
            let share = if weight.is_of_head() || is_any(&Side::OF_HEADS) {
                &mut sum.attention
            } else if weight.is_of_expert() {
                &mut sum.experts
            } else if is_any(&Side::OF_FFN) {
                &mut sum.ffn
            } else {
                &mut sum.replicated
            };
            *share += part;
        }
        Ok(sum)
    }

    /// A weight, of all experts if they have one each.
    fn part(&mut self, weight: Weight, layer: u32) -> Result<Part, ModelError> {
        let n_experts = self.tensors.config.experts.as_ref().map_or(0, |e| e.n);
        let mut sum = Part::default();
        match weight.entry().shape {
            [_] => {
                let n = self.tensors.vector(weight, layer)?.len() as u64;
                sum = Part { quantised: Bytes(0), plain: Bytes(4 * n), n_params: n };
            }
            _ if weight.is_of_expert() => {
                for expert in 0..n_experts {
                    sum += self.matrix(weight, self.tensors.expert(weight, layer, expert)?.1);
                }
            }
            _ if weight.is_of_head() => {
                for head in 0..self.tensors.config.n_heads {
                    sum += self.matrix(weight, self.tensors.of_head(weight, layer, head)?.1);
                }
            }
            _ => sum = self.matrix(weight, self.tensors.matrix(weight, layer)?.1),
        }
        Ok(sum)
    }

    fn matrix(&mut self, weight: Weight, stored: Stored<'_>) -> Part {
        let view = stored.view();
        let cut = match weight {
            Weight::Down | Weight::ExpertDown | Weight::SharedDown => Some(&mut self.down_cut),
            Weight::O | Weight::LatentO => Some(&mut self.output_cut),
            _ => None,
        };
        if let Some(cut) = cut {
            *cut = (*cut).max(view.cut_len() as u32);
        }
        let bytes = Bytes(view.n_bytes() as u64);
        let is_plain = matches!(&view, WeightView::Blocks(m) if [DType::F32, DType::F16, DType::BF16].contains(&m.dtype));
        let (quantised, plain) = if is_plain { (Bytes(0), bytes) } else { (bytes, Bytes(0)) };
        Part { quantised, plain, n_params: (view.n_rows() * view.n_cols()) as u64 }
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
