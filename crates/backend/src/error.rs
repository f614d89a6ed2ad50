//! What can go wrong in a backend operation.

use base::Bytes;
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
    /// A stored weight that contradicts itself.
    #[error("{op}: {what}: expected {expected} bytes, found {found}")]
    Weight {
        /// The operation.
        op: &'static str,
        /// Which bytes.
        what: &'static str,
        /// Bytes that the shape needs.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// An array that the memory set aside for a step has no room for.
    #[error(
        "out of memory: expected at most {limit} in a step's array, found one of {needed}\n\
         hint: a shorter prompt, fewer requests at once or a plan with more ranks need less"
    )]
    OutOfMemory {
        /// Bytes of the array.
        needed: Bytes,
        /// What a step may take beside weights and cache.
        limit: Bytes,
    },
    /// The device or its library failed: out of memory, a lost peer inside a graph, a missing kernel.
    #[error("{op}: {message}")]
    Device {
        /// The operation.
        op: &'static str,
        /// What the library said.
        message: String,
    },
}

#[cfg(feature = "mlx")]
impl From<mlx_sys::Error> for BackendError {
    fn from(error: mlx_sys::Error) -> BackendError {
        BackendError::Device { op: "mlx", message: error.to_string() }
    }
}
