//! What a checkpoint holds, in the planner's terms: counts, bytes by how they are shared out, and where cuts may fall.

use base::{Bytes, DType, LayerBytes, ModelSpec};
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
}

impl Description {
    /// Reads a checkpoint's configuration and headers; no weight is touched.
    pub fn read(checkpoint: &Checkpoint) -> Result<Description, ModelError> {
        let (architecture, config) = Config::read(checkpoint)?;
        let sizes = Sizes { checkpoint, config: &config };
        let layers = (0..config.n_layers)
            .map(|layer| sizes.layer(architecture, layer))
            .collect::<Result<Vec<LayerBytes>, ModelError>>()?;
        sizes.bytes(Weight::Norm, 0)?;
        let tied = !checkpoint.contains(&name_in(checkpoint, Weight::Head, 0));
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
            embedding: sizes.bytes(Weight::Embedding, 0)?,
            head: if tied { None } else { Some(sizes.bytes(Weight::Head, 0)?) },
            layers,
        };
        Ok(Description { architecture, config, spec })
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
    fn layer(&self, architecture: Architecture, layer: u32) -> Result<LayerBytes, ModelError> {
        let mut sum = LayerBytes::default();
        for &weight in architecture.layer_weights() {
            let bytes = self.bytes(weight, layer)?;
            let share = match weight.entry().shape {
                s if s.contains(&Side::QueryHeads) || s.contains(&Side::KvHeads) => &mut sum.attention,
                s if s.contains(&Side::Ffn) => &mut sum.ffn,
                _ => &mut sum.replicated,
            };
            *share += bytes;
        }
        Ok(sum)
    }

    fn bytes(&self, weight: Weight, layer: u32) -> Result<Bytes, ModelError> {
        let tensor = checked_tensor(self.checkpoint, self.config, weight, layer)?;
        Ok(Bytes(tensor.bytes.len() as u64))
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
