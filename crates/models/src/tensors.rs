//! A checkpoint's weights by their rows of the table, in either kind of file, each checked against the configuration.

use weights::{Checkpoint, Source, Stored};

use crate::{Config, ModelError, config::text_network, names::Weight};

/// What comes before every name where the text network is a part of a larger one.
const NESTED: &str = "language_model.";

/// A checkpoint and what its configuration says.
#[derive(Clone, Copy)]
pub(crate) struct Tensors<'a> {
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) config: &'a Config,
}

impl<'a> Tensors<'a> {
    /// A weight's name in this kind of file; the expert's number is left open.
    fn name(self, weight: Weight, layer: u32) -> String {
        let entry = weight.entry();
        let (prefix, of_layer, name) = match self.checkpoint.metadata() {
            Source::Gguf(_) => ("", "blk.", entry.gguf),
            Source::Hf { config, .. } if std::ptr::eq(text_network(config), config) => {
                ("", "model.layers.", entry.hf)
            }
            Source::Hf { .. } => (NESTED, "model.layers.", entry.hf),
        };
        if weight.is_of_layer() {
            format!("{prefix}{of_layer}{layer}.{name}")
        } else {
            format!("{prefix}{name}")
        }
    }

    /// Whether the checkpoint has it.
    pub(crate) fn contains(self, weight: Weight, layer: u32) -> bool {
        self.checkpoint.has_weight(&self.name(weight, layer))
    }

    /// A matrix, and the name of its tensor.
    pub(crate) fn matrix(self, weight: Weight, layer: u32) -> Result<(String, Stored<'a>), ModelError> {
        self.stored(self.name(weight, layer), weight, None)
    }

    /// The same of one expert: a tensor of its own, or its place in a stack of all.
    pub(crate) fn expert(
        self,
        weight: Weight,
        layer: u32,
        expert: u32,
    ) -> Result<(String, Stored<'a>), ModelError> {
        let name = self.name(weight, layer);
        let own = name.replace("{e}", &expert.to_string());
        let stack = name.replace("experts.{e}", "switch_mlp");
        let is_stacked =
            own == name || (!self.checkpoint.has_weight(&own) && self.checkpoint.has_weight(&stack));
        match is_stacked {
            true => self.stored(stack, weight, Some(expert as usize)),
            false => self.stored(own, weight, None),
        }
    }

    /// The same of one head, from the stack of all.
    pub(crate) fn of_head(
        self,
        weight: Weight,
        layer: u32,
        head: u32,
    ) -> Result<(String, Stored<'a>), ModelError> {
        self.stored(self.name(weight, layer), weight, Some(head as usize))
    }

    fn stored(
        self,
        name: String,
        weight: Weight,
        i: Option<usize>,
    ) -> Result<(String, Stored<'a>), ModelError> {
        let expected: Vec<usize> = weight.entry().shape.iter().map(|&side| self.config.side(side)).collect();
        let stored = self.checkpoint.weight(&name, expected[expected.len() - 1], i)?;
        let view = stored.view();
        let found = vec![view.n_rows(), view.n_cols()];
        if found != expected {
            return Err(ModelError::Shape { name, expected, found });
        }
        Ok((name, stored))
    }

    /// A vector in plain floats.
    pub(crate) fn vector(self, weight: Weight, layer: u32) -> Result<Vec<f32>, ModelError> {
        let name = self.name(weight, layer);
        let values = self.checkpoint.vector(&name)?;
        let expected = self.config.side(weight.entry().shape[0]);
        if values.len() != expected {
            return Err(ModelError::Shape { name, expected: vec![expected], found: vec![values.len()] });
        }
        Ok(values)
    }
}
