//! A group in which every rank talks to every other directly. Small vectors go whole to everybody in one round;
//! large ones are reduced in slices and then gathered, in two. Knows ranks, not links.

use std::{
    ops::Range,
    sync::{MutexGuard, PoisonError},
};

use base::RankId;
use bytemuck::{cast_slice, cast_slice_mut};
use transport::Lane;

use crate::{CollectiveError, Group, SharedWorld, World};

/// From this many bytes on, `all_reduce` among three or more ranks sends slices: each rank then sends less than
/// twice the vector however many they are. Below, a second round costs more than the bytes it saves; and two
/// ranks save none.
pub const REDUCE_SCATTER_MIN_BYTES: usize = 64 << 10;

const F32_BYTES: usize = size_of::<f32>();

/// A set of ranks of a world.
pub struct Mesh {
    circle: Circle,
    /// What the peers sent, and a rank's own slice; grows to the largest use and stays.
    scratch: Vec<f32>,
}

/// The members and the way to them.
struct Circle {
    world: SharedWorld,
    members: Vec<RankId>,
    /// This rank's place among the members.
    me: usize,
}

/// Which numbers of a buffer a peer gets or gives, if any.
type Part<'a> = &'a dyn Fn(usize) -> Option<Range<usize>>;

impl Mesh {
    /// The group of these ranks; their order is the order of sums and concatenations.
    pub fn new(world: SharedWorld, members: Vec<RankId>) -> Result<Mesh, CollectiveError> {
        let (rank, n_ranks) = {
            let world = lock(&world);
            (world.me(), world.size())
        };
        let me = members.iter().position(|member| *member == rank);
        let mut sorted = members.clone();
        sorted.sort();
        sorted.dedup();
        let distinct = sorted.len() == members.len() && members.iter().all(|m| m.index() < n_ranks);
        match me.filter(|_| distinct) {
            Some(me) => Ok(Mesh { circle: Circle { world, members, me }, scratch: Vec::new() }),
            None => Err(CollectiveError::Members { rank, n_ranks, found: members }),
        }
    }

    /// The group of all ranks of a world.
    pub fn whole(world: SharedWorld) -> Result<Mesh, CollectiveError> {
        let n_ranks = lock(&world).size() as u32;
        Mesh::new(world, (0..n_ranks).map(RankId).collect())
    }

    /// Every rank's whole vector to every other, then the sum.
    fn reduce_at_once(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        let (len, me) = (x.len(), self.circle.me);
        let parts = first(&mut self.scratch, self.circle.members.len() * len);
        let send = |_| Some(0..len);
        let recv = |peer| Some(peer * len..(peer + 1) * len);
        self.circle.exchange("all_reduce", (x, &send), (parts, &recv))?;
        sum_in_rank_order(x, me, parts);
        Ok(())
    }

    /// Each rank sums its slice of the vector, then everybody gathers the sums.
    fn reduce_in_slices(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        let (n, len, me) = (self.circle.members.len(), x.len(), self.circle.me);
        let slice = |rank: usize| rank * len / n..(rank + 1) * len / n;
        let own_len = slice(me).len();
        let parts = first(&mut self.scratch, n * own_len);
        let send = |peer| Some(slice(peer));
        let recv = |peer| Some(peer * own_len..(peer + 1) * own_len);
        self.circle.exchange("all_reduce", (x, &send), (parts, &recv))?;
        sum_in_rank_order(&mut x[slice(me)], me, parts);
        // The sums go out of the scratch while the others' come into `x`.
        let sums = &mut parts[..own_len];
        sums.copy_from_slice(&x[slice(me)]);
        let send = |_| Some(0..own_len);
        let recv = |peer| Some(slice(peer));
        self.circle.exchange("all_reduce", (sums, &send), (x, &recv))
    }
}

impl Group for Mesh {
    fn rank(&self) -> usize {
        self.circle.me
    }

    fn size(&self) -> usize {
        self.circle.members.len()
    }

    fn all_reduce(&mut self, x: &mut [f32]) -> Result<(), CollectiveError> {
        match self.size() {
            1 => Ok(()),
            3.. if size_of_val(x) >= REDUCE_SCATTER_MIN_BYTES => self.reduce_in_slices(x),
            _ => self.reduce_at_once(x),
        }
    }

    fn all_gather(&mut self, mine: &[f32], lens: &[usize], out: &mut [f32]) -> Result<(), CollectiveError> {
        check_lens("all_gather", self.rank(), self.size(), mine, lens, Some(&*out))?;
        out[place(lens, self.rank())].copy_from_slice(mine);
        let send = |_| Some(0..mine.len());
        let recv = |peer| Some(place(lens, peer));
        self.circle.exchange("all_gather", (mine, &send), (out, &recv))
    }

    fn gather(
        &mut self,
        root: usize,
        mine: &[f32],
        lens: &[usize],
        out: &mut [f32],
    ) -> Result<(), CollectiveError> {
        check_root("gather", root, self.size())?;
        let is_root = self.rank() == root;
        check_lens("gather", self.rank(), self.size(), mine, lens, is_root.then_some(&*out))?;
        if is_root {
            out[place(lens, root)].copy_from_slice(mine);
        }
        let send = |peer| (peer == root).then_some(0..mine.len());
        let recv = |peer| is_root.then(|| place(lens, peer));
        self.circle.exchange("gather", (mine, &send), (out, &recv))
    }

    fn broadcast(&mut self, root: usize, x: &mut [f32]) -> Result<(), CollectiveError> {
        check_root("broadcast", root, self.size())?;
        let all = 0..x.len();
        if self.rank() == root {
            let send = |_| Some(all.clone());
            self.circle.exchange("broadcast", (x, &send), (&mut [], &|_| None))
        } else {
            let recv = |peer| (peer == root).then(|| all.clone());
            self.circle.exchange("broadcast", (&[], &|_| None), (x, &recv))
        }
    }

    fn barrier(&mut self) -> Result<(), CollectiveError> {
        let empty = |_| Some(0..0);
        self.circle.exchange("barrier", (&[], &empty), (&mut [], &empty))
    }
}

impl Circle {
    /// One round: every peer gets its part of `out` and fills its part of `into`.
    fn exchange(
        &self,
        op: &'static str,
        (out, send): (&[f32], Part<'_>),
        (into, recv): (&mut [f32], Part<'_>),
    ) -> Result<(), CollectiveError> {
        let bytes = |range: Range<usize>| range.start * F32_BYTES..range.end * F32_BYTES;
        lock(&self.world).exchange_with(op, cast_slice(out), cast_slice_mut(into), |world, lanes| {
            for (peer, member) in self.members.iter().enumerate().filter(|(peer, _)| *peer != self.me) {
                let link = world.link_to(op, *member)?;
                lanes.push(Lane::new(link, send(peer).map(bytes), recv(peer).map(bytes)));
            }
            Ok(())
        })
    }
}

/// `x = Σ_r part_r` in rank order, where `x` holds part `me` and `parts[r * len ..]` the others. What lies before `me`
/// is summed in part 0's place; `a + b` and `b + a` are the same bits.
fn sum_in_rank_order(x: &mut [f32], me: usize, parts: &mut [f32]) {
    let len = x.len();
    if len == 0 {
        return;
    }
    let (before, rest) = parts.split_at_mut(me * len);
    if me > 0 {
        let (sum, others) = before.split_at_mut(len);
        others.chunks_exact(len).for_each(|part| add(sum, part));
        add(x, sum);
    }
    rest[len..].chunks_exact(len).for_each(|part| add(x, part));
}

/// `x += y`
fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// Where rank `rank`'s part of a concatenation lies.
fn place(lens: &[usize], rank: usize) -> Range<usize> {
    let start = lens[..rank].iter().sum();
    start..start + lens[rank]
}

/// The first `len` numbers of `scratch`, which grows when it must and never shrinks.
fn first(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

pub(crate) fn check_lens(
    op: &'static str,
    me: usize,
    size: usize,
    mine: &[f32],
    lens: &[usize],
    out: Option<&[f32]>,
) -> Result<(), CollectiveError> {
    let check = |what, expected, found| match expected == found {
        true => Ok(()),
        false => Err(CollectiveError::Shape { op, what, expected, found }),
    };
    check("entries of lens", size, lens.len())?;
    check("length of this rank's part", lens[me], mine.len())?;
    out.map_or(Ok(()), |out| check("length of out", lens.iter().sum(), out.len()))
}

pub(crate) fn check_root(op: &'static str, root: usize, size: usize) -> Result<(), CollectiveError> {
    match root < size {
        true => Ok(()),
        false => Err(CollectiveError::Shape { op, what: "root below", expected: size, found: root }),
    }
}

/// A panic of one user leaves the world as whole as its links say it is.
fn lock(world: &SharedWorld) -> MutexGuard<'_, World> {
    world.lock().unwrap_or_else(PoisonError::into_inner)
}
