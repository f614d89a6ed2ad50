//! What a node and its rank processes tell each other, in the project's own types.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use base::{Bytes, Output, RankId, Request, RequestId};
use plan::{Collectives, Node, Plan};

use crate::WireError;

/// What a node tells a rank.
#[derive(Clone, Debug, PartialEq)]
pub enum ToRank {
    /// Load your share and link up; the first message.
    Init(Box<Init>),
    /// Answer this request (rank 0 only).
    Submit(Request),
    /// Stop answering it (rank 0 only).
    Cancel(RequestId),
    /// End in good order.
    Shutdown,
}

/// All a rank needs to start.
#[derive(Clone, Debug, PartialEq)]
pub struct Init {
    /// The whole plan.
    pub plan: Plan,
    /// Which of its entries is the receiver's.
    pub rank: RankId,
    /// The checkpoint, as a path on the receiver's machine.
    pub model: PathBuf,
    /// Where other ranks listen for their peers.
    pub peers: Vec<(RankId, SocketAddr)>,
    /// How the ranks of the receiver's stage meet in MLX's own collectives, if these are the plan's.
    pub mlx: Option<MlxPeers>,
    /// Time a step may take, in whole milliseconds; whoever waits longer for another rank gives up.
    pub step_deadline: Duration,
    /// Which forming of the ranks this is; another start of the replica has another one.
    pub incarnation: u32,
}

/// What MLX's own collectives need to know of the ranks of a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MlxPeers {
    /// Its ring.
    Ring {
        /// Where each rank of the stage listens, in their order.
        hosts: Vec<SocketAddr>,
    },
    /// Its RDMA.
    Jaccl {
        /// JSON: for each rank of the stage its devices to each rank of the stage.
        devices: String,
        /// Where the stage's first rank listens.
        coordinator: SocketAddr,
    },
}

/// What a rank tells its node. Who it is was settled by the handshake.
#[derive(Clone, Debug, PartialEq)]
pub enum FromRank {
    /// It waits for its peers here, on this machine.
    Listening {
        /// Its data listener.
        addr: SocketAddr,
        /// A free address for MLX's own collectives, if it can compute with MLX.
        mlx_addr: Option<SocketAddr>,
        /// What the planner needs to know of the machine; its id is the receiver's to give.
        node: Node,
    },
    /// Its share is loaded and all links stand.
    Ready {
        /// Bytes of weights it holds.
        weights: Bytes,
        /// Time this took, in milliseconds.
        load_ms: u64,
        /// What its links to the other ranks go over: "tcp", "shm", or "verbs" and the device.
        links: Vec<(RankId, String)>,
    },
    /// Tokens and ends of answers (rank 0 only).
    Outputs(Vec<Output>),
    /// It cannot go on; nothing follows.
    Failed {
        /// What went wrong, for people.
        message: String,
    },
    /// How it is doing (rank 0 only).
    Stats(Stats),
    /// It is alive; sent at intervals from a thread of its own, whatever else it is doing.
    Beat {
        /// How long the step that it is in has been running, in milliseconds; `None` between steps.
        busy_ms: Option<u64>,
    },
}

/// The engine's counters. Those that say so count from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that hold blocks.
    pub n_running: u32,
    /// Sequences that wait to be admitted.
    pub n_waiting: u32,
    /// KV blocks in use.
    pub n_blocks_used: u32,
    /// All KV blocks.
    pub n_blocks: u32,
    /// Sequences sent back to the queue, from the start.
    pub n_preemptions: u64,
    /// Tokens found in the prefix cache, from the start.
    pub n_prefix_hit_tokens: u64,
    /// Steps, from the start.
    pub n_steps: u64,
    /// Tokens computed in prefill, from the start.
    pub n_prefill_tokens: u64,
    /// Time of the steps with prefill in them, from the start, in microseconds.
    pub prefill_us: u64,
    /// Tokens computed in decode, from the start.
    pub n_decode_tokens: u64,
    /// Time of the steps without prefill, from the start, in microseconds.
    pub decode_us: u64,
    /// Nodes of the graphs that rank 0's device was handed, from the start; 0 where it computes at once.
    pub n_graph_nodes: u64,
    /// Those of them that launch something, from the start.
    pub n_graph_launches: u64,
    /// Such graphs, from the start.
    pub n_graph_evals: u64,
}

impl Init {
    /// The receiver and its peers are different ranks of the plan, and what is said of MLX's collectives fits it.
    pub(crate) fn check(self) -> Result<Init, WireError> {
        let n_ranks = self.plan.world_size();
        let named = self.peers.iter().map(|(rank, _)| *rank);
        let mut ranks: Vec<RankId> = named.chain([self.rank]).collect();
        ranks.sort();
        let twice = ranks.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
        if let Some(rank) = twice {
            return Err(WireError::Rank { what: "a rank is named twice", rank, n_ranks });
        }
        match ranks.last() {
            Some(&rank) if rank.0 >= n_ranks => {
                Err(WireError::Rank { what: "the plan has no such rank", rank, n_ranks })
            }
            _ => self.check_mlx(),
        }
    }

    fn check_mlx(self) -> Result<Init, WireError> {
        let found = match &self.mlx {
            None => Collectives::Onefold,
            Some(MlxPeers::Ring { .. }) => Collectives::MlxRing,
            Some(MlxPeers::Jaccl { .. }) => Collectives::MlxJaccl,
        };
        if found != self.plan.collectives() {
            return Err(WireError::invalid("collectives to meet in", self.plan.collectives(), found));
        }
        match &self.mlx {
            Some(MlxPeers::Ring { hosts }) if hosts.len() != self.plan.tp_size() as usize => {
                Err(WireError::invalid("hosts of MLX's ring", self.plan.tp_size(), hosts.len()))
            }
            _ => Ok(self),
        }
    }
}
