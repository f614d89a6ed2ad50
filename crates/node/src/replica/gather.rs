//! The door ranks come in by: accepts connections, keeps strangers out, and learns where each rank waits for its peers.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use base::{NodeId, RankId};
use plan::Node;
use wire::{
    FromRank,
    handshake::{self, HANDSHAKE_TIMEOUT_MS, Party, Secret, Timed},
};

use super::{Processes, ReplicaError};
use crate::secret::nonce;

/// Time for a process of this machine to start and connect, in seconds.
const LOCAL_CONNECT_S: u64 = 30;
/// How often the door is looked at, in milliseconds.
const POLL_MS: u64 = 2;

/// Ranks that have come so far.
pub(super) struct Gathering {
    listener: TcpListener,
    secret: Secret,
    joined: BTreeMap<RankId, Joined>,
}

/// A rank that has come.
pub(super) struct Joined {
    pub(super) control: TcpStream,
    /// Where it waits for its peers.
    pub(super) data: SocketAddr,
    node: Node,
}

impl Gathering {
    pub(super) fn listen(address: SocketAddr, secret: Secret) -> Result<Gathering, ReplicaError> {
        let listener =
            TcpListener::bind(address).map_err(|source| ReplicaError::Listen { address, source })?;
        listener.set_nonblocking(true)?;
        Ok(Gathering { listener, secret, joined: BTreeMap::new() })
    }

    /// Where ranks are to connect.
    pub(super) fn address(&self) -> Result<SocketAddr, ReplicaError> {
        Ok(self.listener.local_addr()?)
    }

    /// Waits, as long as it takes, for ranks that people start; returns their machines, in order.
    pub(super) fn wait_for_remote(&mut self, ranks: &[RankId]) -> Result<Vec<Node>, ReplicaError> {
        self.wait_for(ranks, || Ok(()))?;
        let nodes = ranks
            .iter()
            .zip(1..)
            .filter_map(|(rank, id)| Some(Node { id: NodeId(id), ..self.joined.get(rank)?.node.clone() }));
        Ok(nodes.collect())
    }

    /// Waits for this machine's processes.
    pub(super) fn wait_for_local(
        &mut self,
        ranks: &[RankId],
        processes: &mut Processes,
    ) -> Result<(), ReplicaError> {
        let started = Instant::now();
        self.wait_for(ranks, || {
            if let Some((rank, why)) = processes.ended() {
                return Err(ReplicaError::Rank { rank, why });
            }
            match started.elapsed().as_secs() < LOCAL_CONNECT_S {
                true => Ok(()),
                false => Err(ReplicaError::Missing { rank: ranks[0], seconds: LOCAL_CONNECT_S }),
            }
        })
    }

    /// The connections, in the order of ranks.
    pub(super) fn finish(self) -> Vec<Joined> {
        self.joined.into_values().collect()
    }

    fn wait_for(
        &mut self,
        ranks: &[RankId],
        mut check: impl FnMut() -> Result<(), ReplicaError>,
    ) -> Result<(), ReplicaError> {
        while ranks.iter().any(|rank| !self.joined.contains_key(rank)) {
            check()?;
            match self.listener.accept() {
                Ok((stream, _)) => self.admit(stream, ranks),
                Err(e) if e.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(POLL_MS)),
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Lets a rank in that is expected and proves it knows the secret; anybody else is turned away.
    fn admit(&mut self, stream: TcpStream, ranks: &[RankId]) {
        match self.greet(&stream) {
            Ok((rank, data, node)) if ranks.contains(&rank) && !self.joined.contains_key(&rank) => {
                self.joined.insert(rank, Joined { control: stream, data, node });
            }
            Ok((rank, ..)) => eprintln!("warning: turned away {rank}, which is not expected or here already"),
            Err(why) => eprintln!("warning: turned away a connection: {why}"),
        }
    }

    fn greet(&self, stream: &TcpStream) -> Result<(RankId, SocketAddr, Node), String> {
        stream.set_nonblocking(false).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut timed = Timed::new(stream, Duration::from_millis(HANDSHAKE_TIMEOUT_MS));
        let party = handshake::accept(&mut timed, &self.secret, Party::Node, nonce());
        let Party::Rank(rank) = party.map_err(|e| e.to_string())? else {
            return Err("expected a rank, found another serving process".to_owned());
        };
        match wire::read_frame(&mut timed).map_err(|e| e.to_string())? {
            FromRank::Listening { addr, node } => Ok((rank, addr, node)),
            _ => Err(format!("{rank} did not say where it listens")),
        }
    }
}
