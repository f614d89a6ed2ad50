//! Which models there are, which of them are on this machine, and how the others get here: cards (data files), the
//! cache directory, and fetching. Does not look inside a checkpoint and reads no environment: directories, the hub's
//! address and the Python program are handed in.

mod cache;
mod card;
mod catalog;
mod fetch;

pub use card::{
    Card, CardFile, CardId, CardProblem, FileName, Format, RelativePath, RepoId, Sha256Sum, Source, Word,
};
pub use catalog::{Catalog, DEFAULT_MODEL, ResolveError, Resolved};
pub use fetch::{DEFAULT_HUB_ENDPOINT, FetchConfig, FetchError, Fetcher, Limits, SourceFailure};

use base::Bytes;

/// Hears what fetching does, so that the caller can draw it.
pub trait Progress {
    /// One line for people.
    fn message(&mut self, text: &str);
    /// `done` bytes of the current transfer or check out of `total`, where that is known.
    fn bytes(&mut self, done: Bytes, total: Option<Bytes>);
}
