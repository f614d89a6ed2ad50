//! Why a checkpoint cannot be understood or a model cannot be loaded or run.

use backend::BackendError;
use weights::WeightsError;

/// Failure of describing, loading or running a model.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// An architecture this build does not know.
    #[error(
        "architecture {found:?} is not supported; supported: {supported}\nhint: `onefold models` lists models that run"
    )]
    Architecture {
        /// The name in the file.
        found: String,
        /// The names known.
        supported: String,
    },
    /// A missing or senseless value in the checkpoint's configuration.
    #[error("configuration value {key}: expected {expected}, found {found}")]
    Config {
        /// The key, as the file spells it.
        key: String,
        /// What is needed.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// A tensor whose shape contradicts the configuration.
    #[error("tensor {name}: expected shape {expected:?} by the configuration, found {found:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape by the configuration, outermost first.
        expected: Vec<usize>,
        /// Shape in the file.
        found: Vec<usize>,
    },
    /// A shard whose edge falls inside a block of the weights' format.
    #[error("tensor {name}: rows {rows:?} and columns {cols:?} do not fall between its blocks ({format})")]
    Cut {
        /// The tensor.
        name: String,
        /// Rows of the shard.
        rows: std::ops::Range<usize>,
        /// Columns of the shard.
        cols: std::ops::Range<usize>,
        /// The tensor's format.
        format: String,
    },
    /// A stage after the first was given no hidden state: a defect of the caller.
    #[error("stage input: expected the hidden state of the stage before, found none")]
    MissingHidden,
    /// The file.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
}
