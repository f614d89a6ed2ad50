//! What a checkpoint holds, in the planner's terms: counts, bytes by how they are shared out, and where cuts may fall.

use base::{Bytes, DType, ModelSpec};
use plan::{KvCost, LayerCost, ModelCost, Part};
use weights::{Checkpoint, Source, Tensor};

use crate::{
    Architecture, Config, ModelError,
    names::{Side, Weight},
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
    /// Reads a checkpoint's configuration and headers; no weight is touched.
    pub fn read(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
        let (architecture, config) = Config::read(checkpoint)?;
        let sizes = Sizes { checkpoint, config: &config };
        let layers = (0..config.n_layers)
            .map(|layer| sizes.layer(architecture, layer))
            .collect::<Result<Vec<LayerCost>, ModelError>>()?;
        sizes.part(Weight::Norm, 0)?;
        let tied = !checkpoint.contains(&name_in(checkpoint, Weight::Head, 0));
        let embedding = sizes.part(Weight::Embedding, 0)?;
        let head = if tied { embedding } else { sizes.part(Weight::Head, 0)? };
        let spec = ModelSpec {
            hidden: config.hidden,
            n_heads: config.n_heads,
            n_kv_heads: config.n_kv_heads,
            head_dim: config.head_dim,
            ffn: config.ffn,
            vocab: config.vocab,
            max_context: config.max_context,
            head_unit: sizes.head_unit()?,
            ffn_unit: sizes.cut_len(Weight::Down)?,
            embedding: embedding.bytes(),
            head: (!tied).then_some(head.bytes()),
            layers: ModelCost::layer_bytes(&layers),
        };
        Ok(Description { architecture, config, spec, layers, head })
    }

    /// What the cost model needs to know of it.
    pub fn cost(&self) -> ModelCost {
        ModelCost {
            spec: self.spec.clone(),
            layers: self.layers.clone(),
            head: self.head,
            experts: None,
            kv: KvCost::Heads,
            // multiply and add for a score and for a value, over all heads
            attention_flops: 4.0 * f64::from(self.spec.n_heads) * f64::from(self.spec.head_dim),
            is_runnable: true,
        }
    }
}

/// A weight's name in this kind of file.
pub(crate) fn name_in(checkpoint: &Checkpoint, weight: Weight, layer: u32) -> String {
    let entry = weight.entry();
    let pattern = match checkpoint.metadata() {
        Source::Gguf(_) => entry.gguf,
        Source::Hf { .. } => entry.hf,
    };
    pattern.replace("{}", &layer.to_string())
}

/// A weight, whose shape must be the configuration's.
pub(crate) fn checked_tensor<'a>(
    checkpoint: &'a Checkpoint,
    config: &Config,
    weight: Weight,
    layer: u32,
) -> Result<Tensor<'a>, ModelError> {
    let tensor = checkpoint.tensor(&name_in(checkpoint, weight, layer))?;
    let expected: Vec<usize> = weight.entry().shape.iter().map(|&side| config.side(side)).collect();
    if tensor.shape != expected {
        let (name, found) = (tensor.name.to_owned(), tensor.shape.clone());
        return Err(ModelError::Shape { name, expected, found });
    }
    Ok(tensor)
}

struct Sizes<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a Config,
}

impl Sizes<'_> {
    fn layer(&self, architecture: Architecture, layer: u32) -> Result<LayerCost, ModelError> {
        let mut sum = LayerCost::default();
        for &weight in architecture.layer_weights() {
            let part = self.part(weight, layer)?;
            let share = match weight.entry().shape {
                s if s.contains(&Side::QueryHeads) || s.contains(&Side::KvHeads) => &mut sum.attention,
                s if s.contains(&Side::Ffn) => &mut sum.ffn,
                _ => &mut sum.replicated,
            };
            *share += part;
        }
        Ok(sum)
    }

    fn part(&self, weight: Weight, layer: u32) -> Result<Part, ModelError> {
        let tensor = checked_tensor(self.checkpoint, self.config, weight, layer)?;
        let bytes = Bytes(tensor.bytes.len() as u64);
        let n_params = tensor.shape.iter().map(|&side| side as u64).product();
        let (quantised, plain) = match tensor.dtype {
            DType::F32 | DType::F16 | DType::BF16 => (Bytes(0), bytes),
            _ => (bytes, Bytes(0)),
        };
        Ok(Part { quantised, plain, n_params })
    }

    /// The longest run of columns that any layer's tensor of this kind keeps together.
    fn cut_len(&self, weight: Weight) -> Result<u32, ModelError> {
        let dtypes = (0..self.config.n_layers)
            .map(|layer| Ok(self.checkpoint.tensor(&name_in(self.checkpoint, weight, layer))?.dtype))
            .collect::<Result<Vec<DType>, ModelError>>()?;
        Ok(dtypes.iter().map(|d| d.cut_len() as u32).max().unwrap_or(1))
    }

    /// The fewest KV heads whose query heads end between blocks of the output projection.
    fn head_unit(&self) -> Result<u32, ModelError> {
        let cut = self.cut_len(Weight::O)?;
        let width = self.config.n_heads / self.config.n_kv_heads * self.config.head_dim;
        let fits =
            |unit: &u32| (unit * width).is_multiple_of(cut) && self.config.n_kv_heads.is_multiple_of(*unit);
        Ok((1..=self.config.n_kv_heads).find(fits).unwrap_or(self.config.n_kv_heads))
    }
}
