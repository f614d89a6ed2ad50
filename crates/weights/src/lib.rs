//! Checkpoint files: where each tensor lies, in which number format and shape, and what the file says about the
//! model. Reads GGUF and safetensors through memory maps and writes both. It does not know what a tensor is for,
//! which architecture needs which names, or how a tensor is shared out over ranks.
//!
//! Opening reads headers only. The pages of a tensor come from disk when somebody reads its bytes, so a rank that
//! cuts its shard out of a matrix costs the disk that shard and no more.

mod checkpoint;
mod error;
pub mod gguf;
pub mod hf;
mod map;
mod stored;
#[cfg(feature = "synthetic")]
pub mod synthetic;
mod tensor;
mod write;

pub use checkpoint::{Checkpoint, Source};
pub use error::WeightsError;
pub use gguf::GgufMetadata;
pub use stored::{ReadRows, Stored};
pub use tensor::{Tensor, TensorInfo};
pub use write::WriteError;
