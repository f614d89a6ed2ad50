//! The door ranks come in by: accepts connections, keeps strangers out, and learns where each rank waits for its peers.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use base::{NodeId, RankId};
use plan::Node;
use wire::{
    FromRank,
    handshake::{Party, Secret},
};

use super::{Processes, ReplicaError};
use crate::door::{self, Door, Knock};

/// Time for a process of this machine to start and connect, in seconds.
const LOCAL_CONNECT_S: u64 = 30;
/// How often the door is looked at, in milliseconds.
const POLL_MS: u64 = 2;

/// Ranks that have come so far.
pub(super) struct Gathering {
    door: Door<Introduction>,
    joined: BTreeMap<RankId, Joined>,
}

/// What a rank says at the door.
struct Introduction {
    rank: RankId,
    data: SocketAddr,
    mlx: Option<SocketAddr>,
    node: Node,
}

/// A rank that has come.
pub(super) struct Joined {
    pub(super) control: TcpStream,
    /// Where it waits for its peers.
    pub(super) data: SocketAddr,
    /// Where MLX's own collectives may wait for theirs.
    pub(super) mlx: Option<SocketAddr>,
    node: Node,
}

impl Gathering {
    pub(super) fn listen(address: SocketAddr, secret: Secret) -> Result<Gathering, ReplicaError> {
        let listener =
            TcpListener::bind(address).map_err(|source| ReplicaError::Listen { address, source })?;
        let door = Door::new(listener, move |stream| introduction(stream, &secret))?;
        Ok(Gathering { door, joined: BTreeMap::new() })
    }

    /// Where ranks are to connect.
    pub(super) fn address(&self) -> Result<SocketAddr, ReplicaError> {
        Ok(self.door.address()?)
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
            if let Some(knock) = self.door.next(Duration::from_millis(POLL_MS))? {
                self.admit(knock, ranks);
            }
        }
        Ok(())
    }

    /// Lets a rank in that is expected and proved that it knows the secret; anybody else is turned away.
    fn admit(&mut self, Knock { from, entry }: Knock<Introduction>, ranks: &[RankId]) {
        match entry {
            Ok((control, Introduction { rank, data, mlx, node }))
                if ranks.contains(&rank) && !self.joined.contains_key(&rank) =>
            {
                self.joined.insert(rank, Joined { control, data, mlx, node });
            }
            Ok((_, Introduction { rank, .. })) => {
                eprintln!("warning: turned away {rank} from {from}, which is not expected or here already");
            }
            Err(why) => eprintln!("warning: turned away a connection from {from}: {why}"),
        }
    }
}

fn introduction(stream: &TcpStream, secret: &Secret) -> Result<Introduction, String> {
    let mut timed = door::timed(stream);
    let rank = door::admit_rank(&mut timed, secret, Party::Node)?;
    match wire::read_frame(&mut timed).map_err(|e| e.to_string())? {
        FromRank::Listening { addr, mlx_addr, node } => {
            Ok(Introduction { rank, data: addr, mlx: mlx_addr, node })
        }
        _ => Err(format!("{rank} did not say where it listens")),
    }
}
