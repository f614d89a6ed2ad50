//! What can go wrong between ranks, always with the operation and the ranks it concerns.

use std::io;

use base::RankId;
use transport::LinkError;

use crate::ElementKind;

/// Why ranks could not do something together.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A link failed.
    #[error("{op} on {rank} failed at {peer}: {source}")]
    Link {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The rank at the other end.
        peer: RankId,
        /// What happened there.
        source: LinkError,
    },
    /// A peer says that a rank failed.
    #[error("{op} on {rank} failed at {culprit}, says {by}")]
    Told {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The rank that failed; this one, where a peer missed its messages.
        culprit: RankId,
        /// The rank that says so.
        by: RankId,
    },
    /// A message that is left over from another incarnation of the ranks.
    #[error("{op} on {rank}: refused a message of {peer}: expected incarnation {expected}, found {found}{}",
        if .found < .expected { ", which is over" } else { "" })]
    Incarnation {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The rank that sent it.
        peer: RankId,
        /// This world's incarnation.
        expected: u32,
        /// The message's.
        found: u32,
    },
    /// A peer is at another call than this rank.
    #[error("{op} on {rank}: refused a message of {peer}: expected {expected}, found {found}")]
    OutOfStep {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The rank that sent it.
        peer: RankId,
        /// What the message should be part of.
        expected: String,
        /// What it is part of.
        found: String,
    },
    /// The caller's slices hold different elements.
    #[error("{op}: expected both slices of {expected:?}, found one of {found:?}")]
    Element {
        /// The operation.
        op: &'static str,
        /// What is given.
        expected: ElementKind,
        /// What is to be filled.
        found: ElementKind,
    },
    /// An earlier operation failed, and with it all links of this rank.
    #[error("{op} on {rank} is impossible: the world is broken since {cause}")]
    Broken {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The first failure.
        cause: String,
    },
    /// The caller's slices do not fit together.
    #[error("{op}: {what}: expected {expected}, found {found}")]
    Shape {
        /// The operation.
        op: &'static str,
        /// Which number is wrong.
        what: &'static str,
        /// What it must be.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A rank that this one has no link to.
    #[error("{op} on {rank}: expected another rank of a world of {n_ranks}, found {peer}")]
    NoSuchPeer {
        /// The operation.
        op: &'static str,
        /// This rank.
        rank: RankId,
        /// The rank that was named.
        peer: RankId,
        /// Ranks in the world.
        n_ranks: usize,
    },
    /// A world needs one link to every other rank.
    #[error("the world of {rank}: expected one link each to the other ranks of {n_ranks}, found {found:?}")]
    Links {
        /// This rank.
        rank: RankId,
        /// Ranks in the world, going by the number of links.
        n_ranks: usize,
        /// The ranks that links were given for, sorted.
        found: Vec<RankId>,
    },
    /// No links lead there, over whomever.
    #[error(
        "the world of {rank}: expected a way to every rank, found none from its neighbours {neighbours:?} to {peer}\nhint: link {peer} with one of the ranks that reach each other"
    )]
    Unreachable {
        /// This rank.
        rank: RankId,
        /// The first that cannot be reached.
        peer: RankId,
        /// The ranks that this one has links to.
        neighbours: Vec<RankId>,
    },
    /// The thread that forwards cannot be had.
    #[error("the world of {rank}: no thread that forwards to other ranks: {source}")]
    Switch {
        /// This rank.
        rank: RankId,
        /// The system's words.
        source: io::Error,
    },
    /// A group needs different ranks, this one among them.
    #[error(
        "a group on {rank} of a world of {n_ranks}: expected different ranks with {rank}, found {found:?}"
    )]
    Members {
        /// This rank.
        rank: RankId,
        /// Ranks in the world.
        n_ranks: usize,
        /// The members that were given.
        found: Vec<RankId>,
    },
}
