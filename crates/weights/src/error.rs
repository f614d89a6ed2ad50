//! What can be wrong with a checkpoint. Names that come out of a file are printed escaped, since a hostile one may
//! hold terminal codes.

use std::{io, path::PathBuf};

use base::DType;

/// Why a checkpoint, or something in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A device, a pipe, or a directory where a file is needed.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// Neither format.
    #[error(
        "{path} is not a checkpoint: expected {expected}, found {found}\n\
         hint: give a .gguf file, or a directory with config.json and *.safetensors"
    )]
    NotACheckpoint {
        /// The path.
        path: PathBuf,
        /// What would make it one.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// The file contradicts its format or itself.
    #[error("{path} at byte {offset}: {what}: expected {expected}, found {found}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// Which tensor, key or field.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// A number format that is not among `DType::ALL`.
    #[error(
        "{path} at byte {offset}: tensor {tensor:?}: expected a number format out of {known}, found {found}\n\
         hint: use a checkpoint in one of these formats",
        known = known_dtypes()
    )]
    UnknownDType {
        /// The file.
        path: PathBuf,
        /// Where the tensor is described.
        offset: u64,
        /// The tensor.
        tensor: String,
        /// The format's name or number.
        found: String,
    },
    /// No such metadata key.
    #[error("{path}: metadata key {key:?}: expected {expected}, found no such key")]
    NoKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type it should have.
        expected: &'static str,
    },
    /// No such tensor.
    #[error("{path}: expected a tensor {tensor:?}, found none of that name among {n_tensors} tensors")]
    NoTensor {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// How many there are.
        n_tensors: usize,
    },
    /// A tensor that cannot be read in the way that was asked for.
    #[error("{path}: tensor {tensor:?}: expected {expected}, found {dtype} of shape {shape:?}")]
    WrongForm {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What was asked for.
        expected: &'static str,
        /// Its number format.
        dtype: DType,
        /// Its shape, outermost first.
        shape: Vec<usize>,
    },
    /// Tensors of a weight that do not fit each other, or what the weight is for.
    #[error("{path}: tensor {tensor:?}: expected {expected}, found {found}")]
    Stored {
        /// The checkpoint.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What the others ask for.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file that another one names is not there.
    #[error(
        "{path} is missing: {needed_by}\nhint: the download may be incomplete; fetch the checkpoint again"
    )]
    MissingFile {
        /// The missing file.
        path: PathBuf,
        /// Who says that it should be there.
        needed_by: String,
    },
    /// The index and a shard file disagree.
    #[error("{index} says that tensor {tensor:?} is in {shard}, but it is not there")]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file that should hold it.
        shard: PathBuf,
    },
}

fn known_dtypes() -> String {
    DType::ALL.map(DType::name).join(" ")
}
