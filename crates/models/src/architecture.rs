//! The architectures this build runs, by the names that files give them.

use crate::{ModelError, llama, names::Weight, qwen2, qwen3};

/// A network's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, Mistral, SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5: as Llama, with biases on queries, keys and values.
    Qwen2,
    /// Qwen3 dense: normalised queries and keys.
    Qwen3,
}

impl Architecture {
    /// Looks up `general.architecture` of a GGUF file or `model_type` of a `config.json`.
    pub fn find(name: &str) -> Result<Architecture, ModelError> {
        match name {
            "llama" | "mistral" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            "qwen3" => Ok(Architecture::Qwen3),
            _ => Err(ModelError::Architecture {
                found: name.to_owned(),
                supported: "llama, mistral, qwen2, qwen3".to_owned(),
            }),
        }
    }

    /// The weights of one layer.
    pub(crate) fn layer_weights(self) -> &'static [Weight] {
        match self {
            Architecture::Llama => llama::LAYER_WEIGHTS,
            Architecture::Qwen2 => qwen2::LAYER_WEIGHTS,
            Architecture::Qwen3 => qwen3::LAYER_WEIGHTS,
        }
    }
}
