//! Worlds whose links do not connect every pair of ranks: the ranks agree on who is linked with whom, and what goes to a
//! rank without a link goes by the shortest way over neighbours. Knows ways; what travels on them, `switch` knows.

mod switch;

use std::{collections::VecDeque, os::unix::net::UnixStream, sync::Arc, thread, time::Duration};

use base::RankId;
use transport::{Lane, Link, PipeLink, exchange};

use crate::{CollectiveError, World};
pub(crate) use switch::Culprit;
use switch::Switch;

/// Most ranks of a world that routes.
pub const MAX_ROUTED_RANKS: usize = 32;

type Links = Vec<(RankId, Box<dyn Link>)>;

/// Who is linked with whom: bit `b` of entry `a`.
type Neighbours = [u32; MAX_ROUTED_RANKS];

impl World {
    /// The world of rank `me` among `n_ranks`, with links to some of the others; all ranks call this at once. Where every
    /// pair turns out to be linked it is as [`World::new`] makes it. Else a thread of each rank forwards for the others,
    /// and for this one: a rank's own messages take that thread's turn more.
    pub fn routed(
        me: RankId,
        n_ranks: usize,
        links: Links,
        deadline: Duration,
    ) -> Result<World, CollectiveError> {
        let mut links = links;
        links.sort_by_key(|(rank, _)| *rank);
        check(me, n_ranks, &links)?;
        let (peers, mut links): (Vec<RankId>, Vec<_>) = links.into_iter().unzip();
        let neighbours = agree(me, n_ranks, &peers, &mut links, deadline)?;
        let ways = Ways::new(n_ranks, &neighbours);
        if let Some(peer) = (0..n_ranks).find(|to| *to != me.index() && ways.next(me.index(), *to).is_none())
        {
            return Err(CollectiveError::Unreachable {
                rank: me,
                peer: RankId(peer as u32),
                neighbours: peers,
            });
        }
        let links = peers.into_iter().zip(links);
        if (0..n_ranks).all(|rank| neighbours[rank].count_ones() as usize == n_ranks - 1) {
            return World::new(me, links.collect(), deadline);
        }
        let culprit = Culprit::default();
        let io = |source| CollectiveError::Switch { rank: me, source };
        let (mut near, mut ports) = (Links::new(), Vec::new());
        for to in (0..n_ranks).filter(|to| *to != me.index()) {
            let (here, there) = UnixStream::pair().map_err(io)?;
            here.set_nonblocking(true).map_err(io)?;
            there.set_nonblocking(true).map_err(io)?;
            let next = ways.next(me.index(), to).unwrap_or(to);
            let name =
                if next == to { format!("rank {to}") } else { format!("rank {to} by way of rank {next}") };
            near.push((RankId(to as u32), Box::new(PipeLink::over(here, name))));
            ports.push((to, there));
        }
        let switch = Switch::new(me.index(), &ways, links.collect(), ports, Arc::clone(&culprit));
        let thread = thread::Builder::new().name("switch".to_owned());
        thread.spawn(move || switch.run(deadline)).map_err(io)?;
        Ok(World::new(me, near, deadline)?.over_switch(culprit))
    }
}

fn check(me: RankId, n_ranks: usize, links: &Links) -> Result<(), CollectiveError> {
    let in_order = links.windows(2).all(|pair| pair[0].0 < pair[1].0);
    let known = links.iter().all(|(peer, _)| *peer != me && peer.index() < n_ranks);
    if in_order && known && me.index() < n_ranks && n_ranks <= MAX_ROUTED_RANKS {
        return Ok(());
    }
    Err(CollectiveError::Links { rank: me, n_ranks, found: links.iter().map(|(peer, _)| *peer).collect() })
}

/// Every rank tells its neighbours what it knows, as often as the longest way may have steps.
fn agree(
    me: RankId,
    n_ranks: usize,
    peers: &[RankId],
    links: &mut [Box<dyn Link>],
    deadline: Duration,
) -> Result<Neighbours, CollectiveError> {
    let mut known: Neighbours = [0; MAX_ROUTED_RANKS];
    known[me.index()] = peers.iter().fold(0, |mask, peer| mask | 1 << peer.0);
    let len = size_of::<Neighbours>();
    let mut told = vec![0; len * links.len()];
    for _ in 1..n_ranks {
        let out: Vec<u8> = known.iter().flat_map(|mask| mask.to_le_bytes()).collect();
        let lane = |link| Lane::new(link, Some(0..len), Some(link * len..(link + 1) * len));
        let mut lanes: Vec<Lane> = (0..links.len()).map(lane).collect();
        exchange(links, &mut lanes, &out, &mut told, Some(deadline)).map_err(|e| CollectiveError::Link {
            op: "routing",
            rank: me,
            peer: peers[e.link],
            source: e.source,
        })?;
        for (i, word) in told.chunks_exact(size_of::<u32>()).enumerate() {
            let mask = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            known[i % MAX_ROUTED_RANKS] |= mask;
        }
    }
    Ok(both_ways(known, n_ranks))
}

/// Only what both ends say of a link counts, and only of ranks that there are.
fn both_ways(known: Neighbours, n_ranks: usize) -> Neighbours {
    let linked = |a: usize, b: usize| a != b && known[a] >> b & 1 == 1 && known[b] >> a & 1 == 1;
    let mask = |a| (0..n_ranks).filter(|b| linked(a, *b)).fold(0, |mask, b| mask | 1 << b);
    std::array::from_fn(|a| if a < n_ranks { mask(a) } else { 0 })
}

/// The first step of the shortest way between any two ranks; of several the one over the lowest rank.
struct Ways(Vec<Vec<Option<usize>>>);

impl Ways {
    fn new(n_ranks: usize, neighbours: &Neighbours) -> Ways {
        let linked = |a: usize| (0..n_ranks).filter(move |b| neighbours[a] >> b & 1 == 1);
        let from = |me: usize| {
            let mut next = vec![None; n_ranks];
            let mut reached: VecDeque<usize> = linked(me).collect();
            reached.iter().for_each(|rank| next[*rank] = Some(*rank));
            while let Some(rank) = reached.pop_front() {
                for further in linked(rank).filter(|further| *further != me) {
                    if next[further].is_none() {
                        next[further] = next[rank];
                        reached.push_back(further);
                    }
                }
            }
            next
        };
        Ways((0..n_ranks).map(from).collect())
    }

    fn n_ranks(&self) -> usize {
        self.0.len()
    }

    fn next(&self, from: usize, to: usize) -> Option<usize> {
        self.0[from][to]
    }

    /// Pairs of other ranks, each way counted, whose way leads over this one.
    fn n_passing(&self, me: usize) -> usize {
        let passes = |from: usize, to: usize| {
            let mut at = from;
            while at != to && at != me {
                // everybody is reachable: that was checked before anything is sent
                let Some(next) = self.next(at, to) else { return false };
                at = next;
            }
            at == me
        };
        let others = || (0..self.n_ranks()).filter(|rank| *rank != me);
        others().flat_map(|a| others().map(move |b| (a, b))).filter(|(a, b)| a != b && passes(*a, *b)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neighbours(pairs: &[(usize, usize)]) -> Neighbours {
        let mut known = [0; MAX_ROUTED_RANKS];
        for (a, b) in pairs {
            known[*a] |= 1 << b;
            known[*b] |= 1 << a;
        }
        known
    }

    #[test]
    fn ways_are_the_shortest() {
        let ways = Ways::new(5, &neighbours(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 0)]));
        let next: Vec<_> = (1..5).map(|to| ways.next(0, to).unwrap()).collect();
        assert_eq!(next, [1, 1, 4, 4]);
        // of ten ways between others, those of length two lead over one rank: two over each
        assert!((0..5).all(|rank| ways.n_passing(rank) == 2));
        let line = Ways::new(4, &neighbours(&[(0, 1), (2, 3)]));
        assert_eq!((line.next(0, 1), line.next(0, 2)), (Some(1), None));
    }

    #[test]
    fn a_link_needs_two_ends() {
        let mut known = neighbours(&[(0, 1), (1, 2)]);
        known[2] |= 1 | 1 << 9;
        assert_eq!(both_ways(known, 3)[..3], [0b010, 0b101, 0b010]);
    }
}
