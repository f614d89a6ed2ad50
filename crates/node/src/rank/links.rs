//! How a rank comes to its links: it calls the ranks before it, waits for those after it, and then has every connection
//! carried by the best that both of its ends have. Knows who lives where; what it takes to leave TCP is known to `near`
//! and `far`.

use std::{
    env,
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use base::RankId;
use collective::{SharedWorld, World};
use plan::{Collectives, Plan, RankPlan};
use transport::{Link, TcpLink};
use wire::{
    Init,
    handshake::{Party, Secret},
};

use super::{
    RankError, connect,
    far::{self, Devices},
    leave::Leaving,
    near,
};
use crate::door::{self, Door, Knock};

/// How often the door for peers is looked at, in milliseconds.
const POLL_MS: u64 = 2;
/// Beyond a step's deadline, time for the serving process to say which step was too long before ranks that wait for each
/// other give up, in milliseconds.
const DEADLINE_MARGIN_MS: u64 = 5_000;

/// A link, and what it goes over in people's words.
pub(super) struct Carried {
    pub(super) link: Box<dyn Link>,
    pub(super) over: String,
}

/// A rank's links, all of them.
pub(super) struct Linked {
    pub(super) world: SharedWorld,
    /// What each goes over, by peer.
    pub(super) over: Vec<(RankId, String)>,
}

/// Links a rank to all others of its plan, which do the same. `n_cores` are this machine's.
pub(super) fn link_up(
    init: &Init,
    secret: &Secret,
    listener: &TcpListener,
    n_cores: u32,
    leaving: &Leaving,
) -> Result<Linked, RankError> {
    let (plan, me) = (&init.plan, &init.plan.ranks()[init.rank.index()]);
    let mut streams = Vec::new();
    for (peer, address) in init.peers.iter().filter(|(peer, _)| *peer < me.rank) {
        streams.push((*peer, connect(*address, secret, me.rank)?));
    }
    streams.extend(wait_for_peers(init, secret, listener)?);
    let sockets = streams.iter().map(|(_, stream)| stream.as_fd().try_clone_to_owned());
    let linking = leaving.begin_to_link(sockets.collect::<Result<_, _>>()?);
    let deadline = init.step_deadline + Duration::from_millis(DEADLINE_MARGIN_MS);
    let route = Route { plan, me, deadline, directory: &env::temp_dir() };
    let (mut links, mut over) = (Vec::new(), Vec::new());
    for (peer, carried) in route.carry(streams)? {
        links.push((peer, carried.link));
        over.push((peer, carried.over));
    }
    let sockets = links.iter().filter_map(|(_, link)| link.pollable().map(|fd| fd.try_clone_to_owned()));
    let sockets = sockets.collect::<Result<_, _>>()?;
    let mut world = World::new(me.rank, links, deadline)?.with_incarnation(init.incarnation);
    if is_crowded(plan, me, n_cores) {
        world.set_spin(Duration::ZERO);
    }
    let world = world.shared();
    linking.done(&world, sockets);
    Ok(Linked { world, over })
}

/// Connections from the ranks after this one, which prove that they know the secret; others are turned away.
fn wait_for_peers(
    init: &Init,
    secret: &Secret,
    listener: &TcpListener,
) -> Result<Vec<(RankId, TcpStream)>, RankError> {
    let (me, secret) = (init.rank, secret.clone());
    let hear = move |stream: &_| door::admit_rank(&mut door::timed(stream), &secret, Party::Rank(me));
    let mut door = Door::new(listener.try_clone()?, hear)?;
    let mut due: Vec<RankId> = init.peers.iter().map(|(peer, _)| *peer).filter(|peer| *peer > me).collect();
    let mut streams = Vec::new();
    while !due.is_empty() {
        let knock = door.next(Duration::from_millis(POLL_MS))?;
        if let Some(Knock { entry: Ok((stream, peer)), .. }) = knock
            && let Some(i) = due.iter().position(|due| *due == peer)
        {
            due.swap_remove(i);
            streams.push((peer, stream));
        }
    }
    Ok(streams)
}

/// What decides over how a rank's connections are carried.
struct Route<'a> {
    plan: &'a Plan,
    me: &'a RankPlan,
    deadline: Duration,
    /// For the sockets of ranks that share memory.
    directory: &'a Path,
}

impl Route<'_> {
    /// All links, each of them agreed on with its other end, in ascending order of peers at every rank. So nobody waits for
    /// ever: of the pairs that are not done, the lowest by (lower rank, higher rank) has no lower one to hold its ends up.
    fn carry(&self, mut streams: Vec<(RankId, TcpStream)>) -> Result<Vec<(RankId, Carried)>, RankError> {
        streams.sort_by_key(|(peer, _)| *peer);
        let mut devices = Devices::default();
        let carried = streams.into_iter().map(|(peer, stream)| {
            let (me, deadline) = (self.me.rank, self.deadline);
            let is_near = self.plan.rank(peer).is_some_and(|peer| peer.node == self.me.node);
            let carried = if is_near {
                let link = TcpLink::new(stream, peer.to_string())?;
                near::carry(me, peer, link, self.directory, deadline)?
            } else if self.plan.collectives() == Collectives::MlxJaccl {
                // MLX has the devices, which bear few users
                Carried::tcp(stream, peer)?
            } else {
                far::carry(me, peer, stream, &mut devices, deadline)?
            };
            Ok((peer, carried))
        });
        carried.collect()
    }
}

/// Whether this machine runs more threads of the replica than it has cores.
fn is_crowded(plan: &Plan, me: &RankPlan, n_cores: u32) -> bool {
    let here = plan.ranks().iter().filter(|r| r.node == me.node);
    here.map(|r| r.cores.len().max(1)).sum::<usize>() > n_cores as usize
}

#[cfg(test)]
mod tests {
    use std::thread;

    use base::{Bytes, LayerBytes, ModelSpec, NodeId};
    use collective::CollectiveError;
    use plan::{BackendKind, Fence, Goal, Node, Topology};
    use transport::{recv, send};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A plan whose ranks share every layer, so many on each node.
    fn plan(ranks_per_node: &[u32]) -> Plan {
        let tp = ranks_per_node.iter().sum();
        let layer = LayerBytes { attention: Bytes(1000), ffn: Bytes(2000), replicated: Bytes(16) };
        let model = ModelSpec {
            hidden: 64,
            n_heads: 8,
            n_kv_heads: 4,
            head_dim: 8,
            ffn: 128,
            vocab: 256,
            max_context: 512,
            head_unit: 1,
            ffn_unit: 32,
            layers: vec![layer; 2],
            embedding: Bytes(8192),
            head: None,
            latent: None,
        };
        let node = |id| Node {
            id: NodeId(id),
            name: format!("node {id}"),
            memory: Bytes(1 << 30),
            n_cores: 8,
            backends: vec![BackendKind::Cpu],
            is_mac: false,
        };
        let goal = Goal {
            tp,
            pp: 1,
            split: None,
            stage_split: None,
            context_len: 64,
            n_kv_tokens: Some(128),
            threads_per_rank: 1,
            ranks_per_node: Some(ranks_per_node.to_vec()),
            backends: None,
            collectives: None,
            has_jaccl_devices: false,
            fence: Fence::Safe,
        };
        let nodes = (0..ranks_per_node.len() as u32).map(node).collect();
        Plan::make(&Topology { nodes }, &model, &goal).unwrap()
    }

    /// Every rank's links, made at the same time, with shared memory handed over in `directory`.
    fn carried(plan: &Plan, directory: &Path) -> Vec<Vec<(RankId, Carried)>> {
        let n_ranks = plan.world_size();
        let mut streams: Vec<Vec<(RankId, TcpStream)>> = (0..n_ranks).map(|_| Vec::new()).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        // in no order that a rank could rely on
        for high in (1..n_ranks).rev() {
            for low in 0..high {
                let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let far = listener.accept().unwrap().0;
                streams[low as usize].push((RankId(high), near));
                streams[high as usize].push((RankId(low), far));
            }
        }
        thread::scope(|s| {
            let ranks = plan.ranks().iter().zip(streams).map(|(me, streams)| {
                s.spawn(move || Route { plan, me, deadline: LONG, directory }.carry(streams).unwrap())
            });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_of_one_node_share_memory_and_others_do_not() {
        let plan = plan(&[2, 1, 1]);
        for (me, links) in (0..).map(RankId).zip(carried(&plan, &env::temp_dir())) {
            let peers: Vec<RankId> = links.iter().map(|(peer, _)| *peer).collect();
            assert!(peers.is_sorted() && peers.len() == 3 && !peers.contains(&me));
            for (peer, carried) in links {
                let over = if me < RankId(2) && peer < RankId(2) { "shm" } else { "tcp" };
                assert_eq!(carried.over, over, "{me} to {peer}");
            }
        }
    }

    #[test]
    fn ranks_that_cannot_share_memory_keep_their_links() {
        let mut links = carried(&plan(&[2]), Path::new("/nowhere/at/all"));
        let (mut far, mut near) = (links.pop().unwrap(), links.pop().unwrap());
        let (near, far) = (&mut near[0].1, &mut far[0].1);
        assert!(near.over == "tcp" && far.over == "tcp");
        send(near.link.as_mut(), b"as before", Some(LONG)).unwrap();
        let mut message = Vec::new();
        recv(far.link.as_mut(), &mut message, Some(LONG)).unwrap();
        assert_eq!(message, b"as before");
    }

    /// Two ranks, linked as processes do it, each told its own incarnation; what becomes of a message of rank 0's.
    fn message_across(incarnations: [u32; 2]) -> Result<Vec<u8>, CollectiveError> {
        let plan = plan(&[1, 1]);
        let listeners = [0, 1].map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let addresses = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
        let secret = Secret::new([7; 32]);
        let (plan, secret, listeners) = (&plan, &secret, &listeners);
        let worlds = thread::scope(|s| {
            let ranks = [0, 1].map(|rank: usize| {
                s.spawn(move || {
                    let peer = 1 - rank;
                    let init = Init {
                        plan: plan.clone(),
                        rank: RankId(rank as u32),
                        model: "model.gguf".into(),
                        peers: vec![(RankId(peer as u32), addresses[peer])],
                        mlx: None,
                        step_deadline: LONG,
                        incarnation: incarnations[rank],
                    };
                    link_up(&init, secret, &listeners[rank], 8, &Leaving::default()).unwrap()
                })
            });
            ranks.map(|rank| rank.join().unwrap())
        });
        let [near, far] = worlds;
        assert_eq!(
            (&near.over, &far.over),
            (&vec![(RankId(1), "tcp".into())], &vec![(RankId(0), "tcp".into())])
        );
        near.world.lock().unwrap().send(RankId(1), b"hello").unwrap();
        let mut message = Vec::new();
        far.world.lock().unwrap().recv(RankId(0), &mut message).map(|()| message)
    }

    #[test]
    fn what_another_incarnation_sends_is_refused() {
        assert_eq!(message_across([5, 5]).unwrap(), b"hello");
        let e = message_across([4, 5]).unwrap_err();
        assert!(matches!(e, CollectiveError::Incarnation { expected: 5, found: 4, .. }), "{e}");
    }
}
