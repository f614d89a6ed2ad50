//! What MLX or the border in front of it refused.

/// Failure of an MLX call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// MLX threw; the text is its own.
    #[error("mlx: {0}")]
    Mlx(String),
    /// Arguments that MLX would not have checked.
    #[error("{op}: expected {expected}, found {found}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What it needs.
        expected: String,
        /// What it got.
        found: String,
    },
    /// A second thread wants to use MLX, whose calls belong on one thread of a process.
    #[error("mlx is used by another thread of this process already: one engine for each process")]
    SecondThread,
}

impl Error {
    pub(crate) fn argument(op: &'static str, expected: impl ToString, found: impl ToString) -> Error {
        Error::Argument { op, expected: expected.to_string(), found: found.to_string() }
    }
}
