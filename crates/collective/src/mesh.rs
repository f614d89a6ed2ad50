//! A group in which every rank talks to every other directly. Small vectors go whole to everybody in one round;
//! large ones are reduced in slices, piece by piece. Knows ranks, not links.

use std::{
    ops::Range,
    sync::{MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use base::RankId;
use bytemuck::cast_slice_mut;

use crate::{
    CollectiveError, ElementKind, Group, Numbers, NumbersMut, SharedWorld, World,
    check::{check_kinds, check_len, check_lens, check_peer, check_root, place},
    drive::Script,
    element::sum_in_rank_order,
    head::{Call, Head, group_number},
    scripts::{Moves, N_SLOTS, SLICE_BYTES, Slices},
};

/// From this many bytes on, `all_reduce` sends slices, unless the group has measured or been told better. Each rank then
/// sends less than twice the vector however many they are, and adds only its share. Below, a second round costs more
/// than the bytes it saves.
pub const SLICES_FROM_BYTES: usize = 128 << 10;

/// Lengths that [`Mesh::measure`] tries, in bytes.
const PROBE_BYTES: [usize; 5] = [16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Times that each is tried; the best counts.
const N_PROBES: usize = 5;
/// A length that takes longer is the last: a slow link is not filled with trials.
const PROBE_PATIENCE: Duration = Duration::from_millis(20);

/// A set of ranks of a world.
pub struct Mesh {
    circle: Circle,
    /// What the peers sent; grows to the largest use and stays. Words, so that any element may lie there.
    scratch: Vec<u64>,
    slices_from_bytes: usize,
}

/// The members and the way to them.
struct Circle {
    world: SharedWorld,
    members: Vec<RankId>,
    /// This rank's place among the members.
    me: usize,
    incarnation: u32,
    /// What the group goes by in its messages.
    number: u32,
}

impl Mesh {
    /// The group of these ranks; their order is the order of sums and concatenations.
    pub fn new(world: SharedWorld, members: Vec<RankId>) -> Result<Mesh, CollectiveError> {
        let (rank, n_ranks, incarnation) = {
            let world = lock(&world);
            (world.me(), world.size(), world.incarnation())
        };
        let me = members.iter().position(|member| *member == rank);
        let mut sorted = members.clone();
        sorted.sort();
        sorted.dedup();
        let distinct = sorted.len() == members.len() && members.iter().all(|m| m.index() < n_ranks);
        let Some(me) = me.filter(|_| distinct) else {
            return Err(CollectiveError::Members { rank, n_ranks, found: members });
        };
        let number = group_number(&members);
        let circle = Circle { world, members, me, incarnation, number };
        Ok(Mesh { circle, scratch: Vec::new(), slices_from_bytes: SLICES_FROM_BYTES })
    }

    /// The group of all ranks of a world.
    pub fn whole(world: SharedWorld) -> Result<Mesh, CollectiveError> {
        let n_ranks = lock(&world).size() as u32;
        Mesh::new(world, (0..n_ranks).map(RankId).collect())
    }

    /// The length in bytes from which on `all_reduce` sends slices.
    pub fn slices_from_bytes(&self) -> usize {
        self.slices_from_bytes
    }

    /// Sets that length, alike on all ranks. The sums are the same bits on either side of it.
    pub fn set_slices_from_bytes(&mut self, n_bytes: usize) {
        self.slices_from_bytes = n_bytes;
    }

    /// Finds that length for the links of this group, and sets it: all ranks try both ways on vectors that grow, rank 0
    /// holds the clock, decides and tells the others. All members call it at once, as any collective.
    pub fn measure(&mut self) -> Result<usize, CollectiveError> {
        if self.size() == 1 {
            return Ok(self.slices_from_bytes);
        }
        for n_bytes in PROBE_BYTES {
            let mut x = vec![0.0_f32; n_bytes / size_of::<f32>()];
            let (mut at_once, mut in_slices) = (Duration::MAX, Duration::MAX);
            for _ in 0..N_PROBES {
                let start = Instant::now();
                self.reduce_at_once(ElementKind::F32, cast_slice_mut(&mut x))?;
                let middle = Instant::now();
                self.reduce_in_slices(ElementKind::F32, cast_slice_mut(&mut x))?;
                at_once = at_once.min(middle - start);
                in_slices = in_slices.min(middle.elapsed());
            }
            // a power of two or zero: exact
            let mut found = [switch_point(n_bytes, at_once, in_slices).unwrap_or(0) as f32];
            self.broadcast(0, (&mut found[..]).into())?;
            if found[0] > 0.0 {
                self.slices_from_bytes = found[0] as usize;
                return Ok(self.slices_from_bytes);
            }
        }
        self.slices_from_bytes = 2 * PROBE_BYTES[PROBE_BYTES.len() - 1];
        Ok(self.slices_from_bytes)
    }

    /// Every rank's whole vector to every other, then the sum.
    fn reduce_at_once(&mut self, kind: ElementKind, x: &mut [u8]) -> Result<(), CollectiveError> {
        let (n, me, len) = (self.size(), self.circle.me, x.len());
        let parts = first(&mut self.scratch, n * len);
        let part = |peer| peer * len..(peer + 1) * len;
        let mut moves =
            Moves { out: x, send: &|_| Some(0..len), into: parts, recv: &|peer| Some(part(peer)) };
        self.circle.run("all_reduce", Call::AllReduce, Some(kind), &mut moves)?;
        sum_in_rank_order(kind, x, me, n, |peer| &parts[part(peer)]);
        Ok(())
    }

    /// Each rank sums its slice of every piece, and sends the sums to all.
    fn reduce_in_slices(&mut self, kind: ElementKind, x: &mut [u8]) -> Result<(), CollectiveError> {
        let (n, me) = (self.size(), self.circle.me);
        let scratch = first(&mut self.scratch, n * N_SLOTS * SLICE_BYTES);
        let mut slices = Slices::new(kind, n, me, x, scratch);
        self.circle.run("all_reduce", Call::AllReduce, Some(kind), &mut slices)
    }
}

impl Group for Mesh {
    fn rank(&self) -> usize {
        self.circle.me
    }

    fn size(&self) -> usize {
        self.circle.members.len()
    }

    fn all_reduce(&mut self, x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        let (kind, x) = (x.as_ref().kind(), x.bytes());
        match self.size() {
            1 => Ok(()),
            _ if x.len() >= self.slices_from_bytes => self.reduce_in_slices(kind, x),
            _ => self.reduce_at_once(kind, x),
        }
    }

    fn all_gather(
        &mut self,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        check_lens("all_gather", self.rank(), self.size(), mine, lens, Some(&out))?;
        let (kind, mine, out) = (mine.kind(), mine.bytes(), out.bytes());
        out[place(kind, lens, self.rank())].copy_from_slice(mine);
        let mut moves = Moves {
            out: mine,
            send: &|_| Some(0..mine.len()),
            into: out,
            recv: &|peer| Some(place(kind, lens, peer)),
        };
        self.circle.run("all_gather", Call::AllGather, Some(kind), &mut moves)
    }

    fn reduce_scatter(
        &mut self,
        x: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        let (op, n, me) = ("reduce_scatter", self.size(), self.circle.me);
        check_lens(op, me, n, out.as_ref(), lens, None)?;
        check_len(op, "length of x", lens.iter().sum(), x.len())?;
        check_kinds(op, x.kind(), out.as_ref().kind())?;
        let (kind, x, out) = (x.kind(), x.bytes(), out.bytes());
        let len = out.len();
        let part = |peer| peer * len..(peer + 1) * len;
        let parts = first(&mut self.scratch, n * len);
        let mut moves = Moves {
            out: x,
            send: &|peer| Some(place(kind, lens, peer)),
            into: parts,
            recv: &|peer| Some(part(peer)),
        };
        self.circle.run(op, Call::ReduceScatter, Some(kind), &mut moves)?;
        out.copy_from_slice(&x[place(kind, lens, me)]);
        sum_in_rank_order(kind, out, me, n, |peer| &parts[part(peer)]);
        Ok(())
    }

    fn gather(
        &mut self,
        root: usize,
        mine: Numbers<'_>,
        lens: &[usize],
        out: NumbersMut<'_>,
    ) -> Result<(), CollectiveError> {
        check_root("gather", root, self.size())?;
        let is_root = self.rank() == root;
        check_lens("gather", self.rank(), self.size(), mine, lens, is_root.then_some(&out))?;
        let (kind, mine, out) = (mine.kind(), mine.bytes(), out.bytes());
        if is_root {
            out[place(kind, lens, root)].copy_from_slice(mine);
        }
        let send = |peer| (peer == root).then_some(0..mine.len());
        let recv = |peer| is_root.then(|| place(kind, lens, peer));
        self.circle.run(
            "gather",
            Call::Gather,
            Some(kind),
            &mut Moves { out: mine, send: &send, into: out, recv: &recv },
        )
    }

    fn broadcast(&mut self, root: usize, x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        check_root("broadcast", root, self.size())?;
        let (kind, x) = (x.as_ref().kind(), x.bytes());
        let (nothing, all) = (|_| None, 0..x.len());
        let from_root = |peer| (peer == root).then(|| all.clone());
        let to_all = |_| Some(all.clone());
        let mut moves = match self.rank() == root {
            true => Moves { out: x, send: &to_all, into: &mut [], recv: &nothing },
            false => Moves { out: &[], send: &nothing, into: x, recv: &from_root },
        };
        self.circle.run("broadcast", Call::Broadcast, Some(kind), &mut moves)
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let empty = |_| Some(0..0);
        let mut moves = Moves { out: &[], send: &empty, into: &mut [], recv: &empty };
        self.circle.run("barrier", Call::Barrier, None, &mut moves)
    }

    fn send(&mut self, peer: usize, x: Numbers<'_>) -> Result<(), CollectiveError> {
        check_peer("send", peer, self.rank(), self.size())?;
        let (kind, x) = (x.kind(), x.bytes());
        let to_peer = |_| Some(0..x.len());
        let mut moves = Moves { out: x, send: &to_peer, into: &mut [], recv: &|_| None };
        self.circle.run_with("send", Call::Send, Some(kind), peer..peer + 1, &mut moves)
    }

    fn recv(&mut self, peer: usize, x: NumbersMut<'_>) -> Result<(), CollectiveError> {
        check_peer("recv", peer, self.rank(), self.size())?;
        let (kind, x) = (x.as_ref().kind(), x.bytes());
        let len = x.len();
        let from_peer = |_| Some(0..len);
        let mut moves = Moves { out: &[], send: &|_| None, into: x, recv: &from_peer };
        self.circle.run_with("recv", Call::Send, Some(kind), peer..peer + 1, &mut moves)
    }
}

impl Circle {
    /// Runs a script with all other members.
    fn run(
        &self,
        op: &'static str,
        call: Call,
        kind: Option<ElementKind>,
        script: &mut dyn Script,
    ) -> Result<(), CollectiveError> {
        self.run_with(op, call, kind, 0..self.members.len(), script)
    }

    /// Runs a script with the other members at these places.
    fn run_with(
        &self,
        op: &'static str,
        call: Call,
        kind: Option<ElementKind>,
        places: Range<usize>,
        script: &mut dyn Script,
    ) -> Result<(), CollectiveError> {
        let head = Head::new(self.incarnation, self.number, call, kind);
        let peers = places.filter(|place| *place != self.me).map(|place| (place, self.members[place]));
        lock(&self.world).drive(op, head, peers, script)
    }
}

/// The length from which on slices pay, going by one length that was tried; `None` if longer ones are to be tried.
fn switch_point(n_bytes: usize, at_once: Duration, in_slices: Duration) -> Option<usize> {
    if in_slices < at_once {
        return Some(n_bytes);
    }
    (at_once > PROBE_PATIENCE).then_some(2 * n_bytes)
}

/// The first `n_bytes` of `scratch`, which grows when it must and never shrinks.
fn first(scratch: &mut Vec<u64>, n_bytes: usize) -> &mut [u8] {
    let n_words = n_bytes.div_ceil(size_of::<u64>());
    if scratch.len() < n_words {
        scratch.resize(n_words, 0);
    }
    &mut cast_slice_mut(scratch)[..n_bytes]
}

/// A panic of one user leaves the world as whole as its links say it is.
fn lock(world: &SharedWorld) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_pay_from_where_they_win() {
        let ms = Duration::from_millis;
        assert_eq!(switch_point(1 << 16, ms(3), ms(2)), Some(1 << 16));
        assert_eq!(switch_point(1 << 16, ms(3), ms(3)), None);
        assert_eq!(switch_point(1 << 16, ms(30), ms(31)), Some(1 << 17));
    }
}
