//! Architectures: what a checkpoint's numbers mean and how a rank runs its share of them. One file per architecture,
//! over the operations of a [`Backend`]. The only crate that knows architecture names; it knows no requests, no
//! sockets and no sampling.

mod architecture;
mod config;
mod decoder;
mod deepseek_v3;
mod description;
mod error;
mod experts;
mod glm4_moe;
mod llama;
mod loader;
mod names;
mod numbers;
mod qwen2;
mod qwen3;
mod qwen3_moe;
mod rope;
mod tensors;

pub use architecture::Architecture;
pub use config::{Config, Experts, Latent};
pub use description::Description;
pub use error::ModelError;
pub use numbers::cost_of_config;

use backend::Backend;
use base::Batch;
use plan::{Plan, RankPlan};
use weights::Checkpoint;

/// One rank's share of a model: some layers, and of these some heads, FFN columns and vocabulary rows.
pub trait Model<B: Backend> {
    /// Runs a batch through this stage's layers; `inputs` are the backend's for this batch.
    ///
    /// `hidden` is `None` on the first stage, which embeds the tokens, and otherwise the previous stage's result,
    /// `[n_rows, hidden]`. The last stage returns logits of this rank's vocabulary rows, `[n_logits, vocab_shard]`,
    /// the others the hidden state `[n_rows, hidden]`.
    fn forward(
        &self,
        backend: &mut B,
        batch: &Batch,
        inputs: B::Inputs,
        hidden: Option<B::Tensor>,
    ) -> Result<B::Tensor, ModelError>;
}

/// Loads a rank's share of the weights, and nothing else of the file, and allocates its KV cache.
pub fn load<B: Backend + 'static>(
    checkpoint: &Checkpoint,
    description: &Description,
    plan: &Plan,
    rank: &RankPlan,
    backend: &mut B,
) -> Result<Box<dyn Model<B>>, ModelError> {
    let loader = loader::Loader::new(checkpoint, description, plan, rank, backend)?;
    Ok(match description.architecture {
        Architecture::Llama | Architecture::Qwen2 => {
            Box::new(decoder::Decoder::<B, llama::Attention<B>>::load(loader)?)
        }
        Architecture::Qwen3 => Box::new(decoder::Decoder::<B, qwen3::Attention<B>>::load(loader)?),
        Architecture::DeepseekV3 => Box::new(deepseek_v3::Model::<B>::load(loader)?),
        Architecture::Qwen3Moe => Box::new(qwen3_moe::Model::<B>::load(loader)?),
        Architecture::Glm4Moe => Box::new(glm4_moe::Model::<B>::load(loader)?),
    })
}
