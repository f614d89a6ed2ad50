//! Ranks and bytes: a [`World`] holds a rank's links to all others, a [`Group`] is a set of ranks that compute
//! one thing together. Knows neither how bytes travel nor what the numbers mean.
//!
//! Numbers go over the wire as they lie in memory, little-endian; so every rank runs on a little-endian machine.
//! **Every rank of a group ends a collective with the same bits**: sums are always formed in rank order, whichever way
//! they are shared out, and sums of halves are formed in `f32` and rounded once.

mod check;
mod drive;
mod element;
mod error;
mod head;
mod mesh;
mod route;
mod scripts;
mod world;

pub use element::{Element, ElementKind, Numbers, NumbersMut};
pub use error::CollectiveError;
pub use mesh::{Mesh, SLICES_FROM_BYTES};
pub use route::MAX_ROUTED_RANKS;
pub use world::{DEADLINE_S, SharedWorld, World};

/// Ranks that compute one thing together. All of them call the same methods in the same order with the same
/// lengths and elements; another call or length at a peer is an error. After an error the group, and the world it is
/// part of, is broken for good, and its peers learn of it.
///
/// A rank's place in the group is its index among the members, counted from 0; not its number in the plan.
pub trait Group: Send {
    /// This rank's place in the group.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// `x[i] = Σ over ranks r = 0, 1, … of x_r[i]`, summed in this order, so that all ranks get the same bits.
    fn all_reduce(&mut self, x: NumbersMut<'_>) -> Result<(), CollectiveError>;

    /// `out` becomes every rank's `mine`, one after the other in rank order; `lens[r]` is the length of rank
    /// `r`'s, known to all from their shards.
    fn all_gather(
        &mut self,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError>;

    /// `out`, of length `lens[rank]`, becomes this rank's part of what `all_reduce` would make of `x`; the parts lie one
    /// after the other in rank order.
    fn reduce_scatter(
        &mut self,
        x: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError>;

    /// Like `all_gather`, but only rank `root` receives; the others' `out` is not touched and may be empty.
    fn gather(
        &mut self,
        root: usize,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError>;

    /// `x` becomes rank `root`'s.
    fn broadcast(&mut self, root: usize, x: NumbersMut<'_>) -> Result<(), CollectiveError>;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;

    /// Sends to one rank, which calls `recv` with the same length. Two ranks that both send first may wait for each other
    /// until the deadline.
    fn send(&mut self, peer: usize, x: Numbers<'_>) -> Result<(), CollectiveError>;

    /// `x` becomes what rank `peer` sends to this one.
    fn recv(&mut self, peer: usize, x: NumbersMut<'_>) -> Result<(), CollectiveError>;
}

/// The group of one: nothing to wait for, nothing to add.
#[derive(Clone, Copy, Debug, Default)]
pub struct Solo;

impl Group for Solo {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_reduce(&mut self, _x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(
        &mut self,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        check::check_lens("all_gather", 0, 1, mine, lens, Some(&out))?;
        out.bytes().copy_from_slice(mine.bytes());
        Ok(())
    }

    fn reduce_scatter(
        &mut self,
        x: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        check::check_lens("reduce_scatter", 0, 1, x, lens, Some(&out))?;
        out.bytes().copy_from_slice(x.bytes());
        Ok(())
    }

    fn gather(
        &mut self,
        root: usize,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        check::check_root("gather", root, 1)?;
        self.all_gather(mine, lens, out)
    }

    fn broadcast(&mut self, root: usize, _x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        check::check_root("broadcast", root, 1)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn send(&mut self, peer: usize, _x: Numbers<'_>) -> Result<(), CollectiveError> {
        check::check_peer("send", peer, 0, 1)
    }

    fn recv(&mut self, peer: usize, _x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        check::check_peer("recv", peer, 0, 1)
    }
}
