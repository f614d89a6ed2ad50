//! A rank's links to all other ranks, by their numbers. Knows whom, not what for.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use base::RankId;
use transport::Link;

use crate::{
    CollectiveError,
    drive::{Failed, Fault, Lane, Line, Next, Script, drive, recv_any},
    head::{Call, Head},
    route::Culprit,
};

/// Time a collective may take, in seconds, unless the world is given another: long enough for the slowest rank's
/// share of a long prefill, short enough that people still wait for the error.
pub const DEADLINE_S: u64 = 30;

/// A world as several groups of one rank share it; all live on the rank's one engine thread.
pub type SharedWorld = Arc<Mutex<World>>;

/// One rank's links to every other rank.
///
/// The first failure breaks it for good: it tells all its links which rank failed and closes them, so that the other
/// ranks fail as well, and know why, instead of waiting for this one.
pub struct World {
    me: RankId,
    /// To rank 0, 1, …, without `me`.
    lines: Vec<Line>,
    lanes: Vec<Lane>,
    deadline: Duration,
    incarnation: u32,
    /// The first failure, of this world or of one beside it.
    fall: Arc<OnceLock<Fall>>,
    is_closed: bool,
    /// Where messages are forwarded: the rank whose failure ended that.
    culprit: Culprit,
}

/// What broke a world.
struct Fall {
    cause: String,
    culprit: RankId,
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
        let lines = links.into_iter().map(|(_, link)| Line { link, is_mid_send: false }).collect();
        Ok(World {
            me,
            lines,
            lanes: Vec::new(),
            deadline,
            incarnation: 0,
            fall: Arc::default(),
            is_closed: false,
            culprit: Culprit::default(),
        })
    }

    /// A second world of this rank, over links of its own to the same ranks, for another thread.
    ///
    /// A world is one stream to each peer, in order, and whoever uses it has it alone. So that a bulk transfer does not
    /// delay a small one, they go over two worlds: two streams to each peer, two locks, and what is small waits for nothing
    /// that is large. They share incarnation, deadline and fate: when one breaks, so does the other, at its next call.
    pub fn beside(&self, links: Vec<(RankId, Box<dyn Link>)>) -> Result<World, CollectiveError> {
        let world = World::new(self.me, links, self.deadline)?;
        let (incarnation, fall) = (self.incarnation, self.fall.clone());
        Ok(World { incarnation, fall, ..world })
    }

    /// Numbers this forming of the ranks, alike on all of them: a message of another incarnation, left over or from a
    /// rank that missed the change, is refused. 0 unless set.
    pub fn with_incarnation(self, incarnation: u32) -> World {
        World { incarnation, ..self }
    }

    /// Which forming of the ranks this is.
    pub fn incarnation(&self) -> u32 {
        self.incarnation
    }

    pub(crate) fn over_switch(self, culprit: Culprit) -> World {
        World { culprit, ..self }
    }

    /// This rank.
    pub fn me(&self) -> RankId {
        self.me
    }

    /// Ranks in the world.
    pub fn size(&self) -> usize {
        self.lines.len() + 1
    }

    /// To be shared by groups.
    pub fn shared(self) -> SharedWorld {
        Arc::new(Mutex::new(self))
    }

    /// Sets how long every link is polled before the thread sleeps. Zero is right where more threads are
    /// runnable than there are cores.
    pub fn set_spin(&mut self, spin: Duration) {
        self.lines.iter_mut().for_each(|line| line.link.set_spin(spin));
    }

    /// Sends a message to one rank, which calls `recv`.
    pub fn send(&mut self, peer: RankId, message: &[u8]) -> Result<(), CollectiveError> {
        self.say("send", [peer], message)
    }

    /// Sends a message to all other ranks, each of which calls `recv`.
    pub fn send_all(&mut self, message: &[u8]) -> Result<(), CollectiveError> {
        let me = self.me;
        self.say("send_all", (0..self.size() as u32).map(RankId).filter(|rank| *rank != me), message)
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
        let head = self.message_head();
        let received = recv_any(&mut self.lines[link], head, message, deadline);
        received.map_err(|fault| self.fail("recv", (link, fault)))
    }

    /// Moves a script's messages with the given peers, each of which it knows by its place among them.
    pub(crate) fn drive(
        &mut self,
        op: &'static str,
        head: Head,
        peers: impl Iterator<Item = (usize, RankId)>,
        script: &mut dyn Script,
    ) -> Result<(), CollectiveError> {
        self.check_whole(op)?;
        let mut lanes = std::mem::take(&mut self.lanes);
        lanes.clear();
        for (place, peer) in peers {
            lanes.push(Lane::new(self.link_to(op, peer)?, place));
        }
        let done = drive(&mut self.lines, &mut lanes, head, script, Some(self.deadline));
        self.lanes = lanes;
        done.map_err(|failed| self.fail(op, failed))
    }

    fn say(
        &mut self,
        op: &'static str,
        peers: impl IntoIterator<Item = RankId>,
        message: &[u8],
    ) -> Result<(), CollectiveError> {
        let head = self.message_head();
        self.drive(op, head, peers.into_iter().map(|peer| (peer.index(), peer)), &mut Saying(message))
    }

    fn message_head(&self) -> Head {
        Head::new(self.incarnation, 0, Call::Message, None)
    }

    /// Index of the link to `peer`.
    fn link_to(&mut self, op: &'static str, peer: RankId) -> Result<usize, CollectiveError> {
        self.check_whole(op)?;
        if peer == self.me || peer.index() >= self.size() {
            return Err(CollectiveError::NoSuchPeer { op, rank: self.me, peer, n_ranks: self.size() });
        }
        Ok(peer.index() - usize::from(peer > self.me))
    }

    fn check_whole(&mut self, op: &'static str) -> Result<(), CollectiveError> {
        let fall = self.fall.clone();
        let Some(Fall { cause, culprit }) = fall.get() else { return Ok(()) };
        self.close(*culprit);
        Err(CollectiveError::Broken { op, rank: self.me, cause: cause.clone() })
    }

    /// Tells the peers whose fault it is, and closes all links.
    fn close(&mut self, culprit: RankId) {
        if !std::mem::replace(&mut self.is_closed, true) {
            let incarnation = self.incarnation;
            self.lines.iter_mut().for_each(|line| line.end(incarnation, culprit));
        }
    }

    /// Breaks the world.
    fn fail(&mut self, op: &'static str, (link, fault): Failed) -> CollectiveError {
        let peer = RankId((link + usize::from(link >= self.me.index())) as u32);
        // a neighbour's failure ends all ways at once: it is that one's
        let peer = self.culprit.get().copied().unwrap_or(peer);
        let (rank, mut culprit) = (self.me, peer);
        let error = match fault {
            Fault::Link(source) => CollectiveError::Link { op, rank, peer, source },
            Fault::Notice(failed) => {
                culprit = failed;
                CollectiveError::Told { op, rank, culprit, by: peer }
            }
            Fault::Incarnation(found) => {
                CollectiveError::Incarnation { op, rank, peer, expected: self.incarnation, found }
            }
            Fault::Call { expected, found } => {
                let (expected, found) = (expected.to_string(), found.to_string());
                CollectiveError::OutOfStep { op, rank, peer, expected, found }
            }
        };
        // a world beside this one may have been first
        let _ = self.fall.set(Fall { cause: error.to_string(), culprit });
        self.close(culprit);
        error
    }
}

/// One message to everybody who takes part.
struct Saying<'a>(&'a [u8]);

impl Script for Saying<'_> {
    fn outgoing(&self, _: usize, i: usize) -> Next<&[u8]> {
        if i == 0 { Next::Message(self.0) } else { Next::End }
    }

    fn incoming(&mut self, _: usize, _: usize) -> Next<&mut [u8]> {
        Next::End
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
