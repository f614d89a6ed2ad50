//! What can go wrong in a backend operation.

use collective::CollectiveError;

/// Failure of a backend operation.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Shapes that do not fit together: a defect of the caller or a file whose tensors disagree.
    #[error("{op}: expected {expected}, found {found}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// What it needs.
        expected: String,
        /// What it got.
        found: String,
    },
    /// A weight that cannot be prepared.
    #[error(transparent)]
    Pack(#[from] kernels::PackError),
    /// The ranks of the stage could not be summed over.
    #[error(transparent)]
    Collective(#[from] CollectiveError),
}
