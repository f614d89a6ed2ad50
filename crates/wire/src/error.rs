//! Why bytes are not a message.

use std::{convert::Infallible, io};

use base::RankId;
use plan::PlanError;

/// Why a message could not be written, read or understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The other end is gone; nothing was cut off.
    #[error("the other end closed the connection")]
    Closed,
    /// The bytes end inside a frame.
    #[error("the bytes end inside a frame: expected {expected} bytes of {part}, found {found}")]
    Truncated {
        /// Header or body.
        part: &'static str,
        /// Its length.
        expected: usize,
        /// What is there of it.
        found: usize,
    },
    /// The connection failed.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    /// Another program's bytes.
    #[error("not a frame of onefold: expected magic {expected:02x?}, found {found:02x?}")]
    Foreign {
        /// How a frame starts.
        expected: [u8; 4],
        /// How these bytes start.
        found: [u8; 4],
    },
    /// A frame of another version of onefold.
    #[error(
        "wire version: expected {ours}, found {theirs}\nhint: install the same version of onefold on all machines"
    )]
    Version {
        /// Ours.
        ours: u16,
        /// The frame's.
        theirs: u16,
    },
    /// Another message than is due.
    #[error("message kind: expected {expected}, found {found}")]
    Kind {
        /// The kind that is due.
        expected: u16,
        /// The frame's.
        found: u16,
    },
    /// A body longer than any may be.
    #[error("a body of {n_bytes} bytes is longer than the limit of {limit} bytes for kind {kind}")]
    TooLong {
        /// The message's kind.
        kind: u16,
        /// Length of the body.
        n_bytes: usize,
        /// Longest allowed.
        limit: usize,
    },
    /// A body that is not in the format.
    #[error("the body of a message of kind {kind} does not decode: {source}")]
    Malformed {
        /// The message's kind.
        kind: u16,
        /// The decoder's words.
        source: postcard::Error,
    },
    /// Bytes after the message.
    #[error("{n_bytes} bytes follow a whole message of kind {kind}")]
    Trailing {
        /// The message's kind.
        kind: u16,
        /// Bytes too many.
        n_bytes: usize,
    },
    /// Values that contradict each other.
    #[error("{what}: expected {expected}, found {found}")]
    Invalid {
        /// Which value.
        what: &'static str,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A rank that the plan does not have, or that is named where it must not be.
    #[error("{what}: {rank} of {n_ranks}")]
    Rank {
        /// What is wrong with it.
        what: &'static str,
        /// The rank.
        rank: RankId,
        /// Ranks in the plan.
        n_ranks: u32,
    },
    /// Parts that are not a plan.
    #[error("the plan that arrived is none: {0}")]
    Plan(#[from] PlanError),
}

impl From<Infallible> for WireError {
    fn from(never: Infallible) -> WireError {
        match never {}
    }
}

impl WireError {
    /// Values that contradict each other.
    pub(crate) fn invalid(what: &'static str, expected: impl ToString, found: impl ToString) -> WireError {
        WireError::Invalid { what, expected: expected.to_string(), found: found.to_string() }
    }
}
