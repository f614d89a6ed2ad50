//! A rank's links to all other ranks, by their numbers. Knows whom, not what for.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use base::RankId;
use transport::{ExchangeError, Lane, Link, LinkError};

use crate::CollectiveError;

/// Time a collective may take, in seconds, unless the world is given another: long enough for the slowest rank's
/// share of a long prefill, short enough that people still wait for the error.
pub const DEADLINE_S: u64 = 30;

/// A world as several groups of one rank share it; all live on the rank's one engine thread.
pub type SharedWorld = Arc<Mutex<World>>;

/// One rank's links to every other rank.
///
/// The first failure breaks it for good: it closes all its links, so that the other ranks fail as well instead of
/// waiting for this one.
pub struct World {
    me: RankId,
    /// To rank 0, 1, …, without `me`.
    links: Vec<Box<dyn Link>>,
    lanes: Vec<Lane>,
    deadline: Duration,
    /// The first failure.
    broken: Option<String>,
}

impl World {
    /// The world of rank `me`, with a link to every other rank, in any order.
    pub fn new(
        me: RankId,
        mut links: Vec<(RankId, Box<dyn Link>)>,
        deadline: Duration,
    ) -> Result<World, CollectiveError> {
        let n_ranks = links.len() + 1;
        links.sort_by_key(|(rank, _)| *rank);
        let others = (0..n_ranks as u32).map(RankId).filter(|rank| *rank != me);
        if me.index() >= n_ranks || !others.eq(links.iter().map(|(rank, _)| *rank)) {
            let found = links.iter().map(|(rank, _)| *rank).collect();
            return Err(CollectiveError::Links { rank: me, n_ranks, found });
        }
        let links = links.into_iter().map(|(_, link)| link).collect();
        Ok(World { me, links, lanes: Vec::new(), deadline, broken: None })
    }

    /// This rank.
    pub fn me(&self) -> RankId {
        self.me
    }

    /// Ranks in the world.
    pub fn size(&self) -> usize {
        self.links.len() + 1
    }

    /// To be shared by groups.
    pub fn shared(self) -> SharedWorld {
        Arc::new(Mutex::new(self))
    }

    /// Sets how long every link is polled before the thread sleeps. Zero is right where more threads are
    /// runnable than there are cores.
    pub fn set_spin(&mut self, spin: Duration) {
        self.links.iter_mut().for_each(|link| link.set_spin(spin));
    }

    /// Sends a message to one rank, which calls `recv`.
    pub fn send(&mut self, peer: RankId, message: &[u8]) -> Result<(), CollectiveError> {
        let link = self.link_to("send", peer)?;
        let sent = transport::send(self.links[link].as_mut(), message, Some(self.deadline));
        sent.map_err(|e| self.fail("send", link, e))
    }

    /// Sends a message to all other ranks, each of which calls `recv`.
    pub fn send_all(&mut self, message: &[u8]) -> Result<(), CollectiveError> {
        let all = 0..message.len();
        self.exchange_with("send_all", message, &mut [], |world, lanes| {
            lanes.extend((0..world.links.len()).map(|link| Lane::new(link, Some(all.clone()), None)));
            Ok(())
        })
    }

    /// Receives one rank's next message, of any length, within the world's deadline.
    pub fn recv(&mut self, peer: RankId, message: &mut Vec<u8>) -> Result<(), CollectiveError> {
        self.recv_within(peer, message, Some(self.deadline))
    }

    /// Like `recv` with a deadline of its own; without one it waits until the peer sends or goes away, as a rank
    /// does for the next step while no request is open.
    pub fn recv_within(
        &mut self,
        peer: RankId,
        message: &mut Vec<u8>,
        deadline: Option<Duration>,
    ) -> Result<(), CollectiveError> {
        let link = self.link_to("recv", peer)?;
        let received = transport::recv(self.links[link].as_mut(), message, deadline);
        received.map_err(|e| self.fail("recv", link, e))
    }

    /// Sends and receives on several links at once. `plan` fills the lanes, whose list is reused.
    pub(crate) fn exchange_with(
        &mut self,
        op: &'static str,
        out: &[u8],
        into: &mut [u8],
        plan: impl FnOnce(&World, &mut Vec<Lane>) -> Result<(), CollectiveError>,
    ) -> Result<(), CollectiveError> {
        self.check_whole(op)?;
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.clear();
        let done = plan(self, &mut lanes).and_then(|()| {
            transport::exchange(&mut self.links, &mut lanes, out, into, Some(self.deadline))
                .map_err(|ExchangeError { link, source }| self.fail(op, link, source))
        });
        self.lanes = lanes;
        done
    }

    /// Index of the link to `peer`.
    pub(crate) fn link_to(&self, op: &'static str, peer: RankId) -> Result<usize, CollectiveError> {
        self.check_whole(op)?;
        if peer == self.me || peer.index() >= self.size() {
            return Err(CollectiveError::NoSuchPeer { op, rank: self.me, peer, n_ranks: self.size() });
        }
        Ok(peer.index() - usize::from(peer > self.me))
    }

    fn check_whole(&self, op: &'static str) -> Result<(), CollectiveError> {
        match &self.broken {
            Some(cause) => Err(CollectiveError::Broken { op, rank: self.me, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn fail(&mut self, op: &'static str, link: usize, source: LinkError) -> CollectiveError {
        let peer = RankId((link + usize::from(link >= self.me.index())) as u32);
        let error = CollectiveError::Link { op, rank: self.me, peer, source };
        self.broken = Some(error.to_string());
        self.links.iter_mut().for_each(|link| link.close());
        error
    }
}

#[cfg(test)]
mod tests {
    use transport::MemoryLink;

    use super::*;

    fn link() -> Box<dyn Link> {
        Box::new(MemoryLink::pair().0)
    }

    #[test]
    fn a_world_needs_every_other_rank_once() {
        let world = |me, ranks: &[u32]| {
            let links = ranks.iter().map(|&r| (RankId(r), link())).collect();
            World::new(RankId(me), links, Duration::from_secs(DEADLINE_S))
        };
        assert_eq!(world(0, &[]).unwrap().size(), 1);
        assert_eq!(world(1, &[2, 0]).unwrap().size(), 3);
        for (me, ranks) in [(0, &[0][..]), (1, &[]), (0, &[1, 1]), (0, &[1, 3]), (3, &[0, 1])] {
            assert!(matches!(world(me, ranks), Err(CollectiveError::Links { .. })), "{me} {ranks:?}");
        }
    }

    #[test]
    fn there_is_no_link_to_oneself_or_beyond() {
        let mut world = World::new(RankId(1), vec![(RankId(0), link())], Duration::ZERO).unwrap();
        for peer in [1, 2] {
            let e = world.send(RankId(peer), b"").unwrap_err();
            assert!(matches!(e, CollectiveError::NoSuchPeer { n_ranks: 2, .. }), "{e}");
        }
    }
}
