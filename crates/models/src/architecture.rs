//! The architectures this build runs, by the names that files give them.

use crate::{
    ModelError, deepseek_v3, glm4_moe, llama, names::Weight, qwen2, qwen3, qwen3_moe, tensors::Tensors,
};

/// A network's structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, Mistral, SmolLM2.
    Llama,
    /// Qwen2 and Qwen2.5: as Llama, with biases on queries, keys and values.
    Qwen2,
    /// Qwen3 dense: normalised queries and keys.
    Qwen3,
    /// DeepSeek-V3, V3.1 and R1, Kimi-K2 and the text networks of its successors: latent attention, corrected choice of experts.
    DeepseekV3,
    /// Qwen3 with experts.
    Qwen3Moe,
    /// GLM-4.5 to 4.7: partly rotated heads, experts as DeepSeek-V3's.
    Glm4Moe,
}

impl Architecture {
    /// Looks up `general.architecture` of a GGUF file or `model_type` of a `config.json`.
    pub fn find(name: &str) -> Result<Architecture, ModelError> {
        match name {
            "llama" | "mistral" => Ok(Architecture::Llama),
            "qwen2" => Ok(Architecture::Qwen2),
            "qwen3" => Ok(Architecture::Qwen3),
            "deepseek_v3" | "kimi_k2" | "deepseek2" => Ok(Architecture::DeepseekV3),
            "qwen3_moe" | "qwen3moe" => Ok(Architecture::Qwen3Moe),
            "glm4_moe" => Ok(Architecture::Glm4Moe),
            _ => Err(ModelError::Architecture {
                found: name.to_owned(),
                supported: "llama, mistral, qwen2, qwen3, qwen3_moe, deepseek_v3, kimi_k2, glm4_moe"
                    .to_owned(),
            }),
        }
    }

    /// The weights of one layer.
    pub(crate) fn layer_weights(self, tensors: Tensors<'_>, layer: u32) -> Vec<Weight> {
        let config = tensors.config;
        match self {
            Architecture::Llama => llama::LAYER_WEIGHTS.to_vec(),
            Architecture::Qwen2 => qwen2::LAYER_WEIGHTS.to_vec(),
            Architecture::Qwen3 => qwen3::LAYER_WEIGHTS.to_vec(),
            Architecture::DeepseekV3 => deepseek_v3::layer_weights(tensors, layer),
            Architecture::Qwen3Moe => qwen3_moe::layer_weights(config, layer),
            Architecture::Glm4Moe => glm4_moe::layer_weights(config, layer),
        }
    }
}
