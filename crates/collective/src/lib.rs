//! Ranks and bytes: a [`World`] holds a rank's links to all others, a [`Group`] is a set of ranks that compute
//! one thing together. Knows neither how bytes travel nor what the numbers mean.
//!
//! Numbers go over the wire as they lie in memory, little-endian `f32`s; so every rank runs on a little-endian machine.
//! **Every rank of a group ends a collective with the same bits**: sums are always formed in rank order.

mod error;
mod mesh;
mod world;

pub use error::CollectiveError;
pub use mesh::{Mesh, REDUCE_SCATTER_MIN_BYTES};
pub use world::{DEADLINE_S, SharedWorld, World};

/// Ranks that compute one thing together. All of them call the same methods in the same order with the same
/// lengths; another length at a peer is an error. After an error the group, and the world it is part of, is
/// broken for good, and its peers learn of it.
///
/// A rank's place in the group is its index among the members, counted from 0; not its number in the plan.
pub trait Group: Send {
    /// This rank's place in the group.
    fn rank(&self) -> usize;

    /// Ranks in the group.
    fn size(&self) -> usize;

    /// `x[i] = Σ over ranks r = 0, 1, … of x_r[i]`, summed in this order, so that all ranks get the same bits.
    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError>;

    /// `out` becomes every rank's `mine`, one after the other in rank order; `lens[r]` is the length of rank
    /// `r`'s, known to all from their shards.
    fn all_gather(&mut self, mine: &[f32], lens: &[usize], out: &mut [f32]) -> Result<(), CollectiveError>;

    /// Like `all_gather`, but only rank `root` receives; the others' `out` is not touched and may be empty.
    fn gather(
        &mut self,
        root: usize,
        mine: &[f32],
        lens: &[usize],
        out: &mut [f32],
    ) -> Result<(), CollectiveError>;

    /// `x` becomes rank `root`'s.
    fn broadcast(&mut self, root: usize, x: &mut [f32]) -> Result<(), CollectiveError>;

    /// Returns when every rank has called it.
    fn barrier(&mut self) -> Result<(), CollectiveError>;
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

    fn all_reduce(&mut self, _x: &mut [f32]) -> Result<(), CollectiveError> {
        Ok(())
    }

    fn all_gather(&mut self, mine: &[f32], lens: &[usize], out: &mut [f32]) -> Result<(), CollectiveError> {
        mesh::check_lens("all_gather", 0, 1, mine, lens, Some(&*out))?;
        out.copy_from_slice(mine);
        Ok(())
    }

    fn gather(
        &mut self,
        root: usize,
        mine: &[f32],
        lens: &[usize],
        out: &mut [f32],
    ) -> Result<(), CollectiveError> {
        mesh::check_root("gather", root, 1)?;
        self.all_gather(mine, lens, out)
    }

    fn broadcast(&mut self, root: usize, _x: &mut [f32]) -> Result<(), CollectiveError> {
        mesh::check_root("broadcast", root, 1)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        Ok(())
    }
}
