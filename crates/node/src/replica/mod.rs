//! A replica as the serving process sees it: starts a rank process for each entry of the plan, hands over the plan,
//! forwards requests to rank 0 and outputs back, and notices when a rank is lost or hangs. It computes nothing.

mod gather;
mod jaccl;
mod processes;
mod pulse;
mod status;
mod supervise;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use base::{Bytes, NodeId, RankId};
use engine::Client;
use hw::Machine;
use plan::{Plan, PlanError, Topology};
use wire::{Stats, WireError};

use crate::{OpenModel, Placement, SecretLine, placement::this_node};
pub use jaccl::JacclError;

use gather::Gathering;
use jaccl::JacclDevices;
use processes::Processes;
use supervise::{Shared, Supervisor};

/// What a replica needs besides a model and a placement.
pub struct ReplicaOptions {
    /// This program, which the ranks run.
    pub executable: PathBuf,
    /// Requests that may be open at once.
    pub max_requests: u32,
    /// Ranks on other machines.
    pub remote: Option<RemoteRanks>,
    /// Time a step may take; a rank that is in one for longer hangs.
    pub step_deadline: Duration,
}

/// Ranks that somebody starts by hand on other machines; they are the plan's last ones.
pub struct RemoteRanks {
    /// How many.
    pub n: u32,
    /// Where this process waits for them.
    pub listen: SocketAddr,
    /// What they prove to know.
    pub secret: SecretLine,
}

/// What happens while a replica starts.
pub enum StartEvent<'a> {
    /// It waits for ranks of other machines.
    Waiting {
        /// Which ones.
        ranks: &'a [RankId],
        /// Where they are to connect.
        address: SocketAddr,
    },
    /// The plan is made.
    Planned {
        /// Who holds what.
        plan: &'a Plan,
        /// What differs from what was asked for.
        notes: Vec<String>,
    },
    /// A rank has loaded its share.
    Ready {
        /// Which one.
        rank: RankId,
        /// Bytes of weights it holds.
        loaded: Bytes,
        /// Time it took.
        load: Duration,
        /// What its links to the other ranks go over: "tcp", "shm", or "verbs" and the device.
        links: Vec<(RankId, String)>,
    },
}

/// Why a replica could not start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// No plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No RDMA devices.
    #[error(transparent)]
    Jaccl(#[from] JacclError),
    /// More remote ranks than ranks.
    #[error(
        "--remote: expected less than the {n_ranks} ranks of the plan, found {found}\nhint: --tp and --pp say how many ranks there are"
    )]
    TooManyRemote {
        /// Ranks of the plan.
        n_ranks: u32,
        /// Remote ranks asked for.
        found: u32,
    },
    /// The address for ranks.
    #[error(
        "cannot listen on {address} for ranks: {source}\nhint: --listen takes this machine's own address and a free port"
    )]
    Listen {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// An address that ranks elsewhere cannot call back on.
    #[error(
        "--listen: expected one address of this machine, found {address}, which stands for all\nhint: name the address under which the other machines reach this one"
    )]
    AnyAddress {
        /// What was asked for.
        address: SocketAddr,
    },
    /// A process.
    #[error("cannot start {}: {source}", .executable.display())]
    Spawn {
        /// The program.
        executable: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A rank that did not come.
    #[error("{rank} did not connect within {seconds} s")]
    Missing {
        /// Which one.
        rank: RankId,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A rank that ended before it was ready.
    #[error("{rank}: {why}")]
    Rank {
        /// Which one.
        rank: RankId,
        /// What it said, or how its process ended.
        why: String,
    },
    /// A connection.
    #[error("{rank}: {source}")]
    Wire {
        /// The rank at the other end.
        rank: RankId,
        /// What went wrong.
        source: WireError,
    },
    /// The system.
    #[error("cannot use a socket: {0}")]
    Io(#[from] std::io::Error),
}

/// A running replica. Dropping it ends its processes.
pub struct Replica {
    client: Client,
    shared: Arc<Shared>,
}

impl Replica {
    /// Plans, starts the processes, and returns when all ranks have loaded their shares.
    pub fn start(
        model: &OpenModel,
        placement: &Placement,
        options: ReplicaOptions,
        on_event: &mut dyn FnMut(StartEvent<'_>),
    ) -> Result<Replica, ReplicaError> {
        let n_remote = options.remote.as_ref().map_or(0, |r| r.n);
        let n_ranks = placement.world_size();
        if n_remote > 0 && n_remote >= n_ranks {
            return Err(ReplicaError::TooManyRemote { n_ranks, found: n_remote });
        }
        if let Some(address) = options.remote.as_ref().map(|r| r.listen).filter(|a| a.ip().is_unspecified()) {
            return Err(ReplicaError::AnyAddress { address });
        }
        let jaccl = placement.jaccl_devices.as_deref();
        let jaccl = jaccl.map(|path| JacclDevices::read(path, n_ranks)).transpose()?;
        let secret = options.remote.as_ref().map_or_else(SecretLine::fresh, |r| r.secret.clone());
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let mut gathering =
            Gathering::listen(options.remote.as_ref().map_or(loopback, |r| r.listen), secret.secret())?;

        let n_local = n_ranks - n_remote;
        let mut nodes = vec![this_node(NodeId(0), &Machine::probe())];
        if n_remote > 0 {
            let ranks: Vec<RankId> = (n_local..n_ranks).map(RankId).collect();
            on_event(StartEvent::Waiting { ranks: &ranks, address: gathering.address()? });
            nodes.extend(gathering.wait_for_remote(&ranks)?);
        }
        let goal = placement.goal(&model.description.spec, &nodes, n_remote);
        let plan = Plan::make(&Topology { nodes }, &model.description.spec, &goal)?;
        on_event(StartEvent::Planned { plan: &plan, notes: plan.notes(&goal) });

        let local: Vec<RankId> = (0..n_local).map(RankId).collect();
        let mut processes =
            Processes::spawn(&options.executable, &local, gathering.address()?, &secret, plan.fence())?;
        gathering.wait_for_local(&local, &mut processes)?;
        let controls = gathering.finish();
        let (max_requests, step_deadline) = (options.max_requests, options.step_deadline);
        let mut supervisor = Supervisor::new(plan.clone(), controls, processes, max_requests, step_deadline)?;
        supervisor.initialise(&model.path, step_deadline, jaccl.as_ref())?;
        supervisor.wait_until_ready(on_event)?;
        let (client, shared) = supervisor.run();
        Ok(Replica { client, shared })
    }

    /// The plan it runs by.
    pub fn plan(&self) -> &Plan {
        self.shared.plan()
    }

    /// The engine's counters. Who has the last output of a request has those of all its steps.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The way to its engine.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How it is, for `/health` and `/metrics`.
    pub fn status(&self) -> Box<dyn Fn() -> api::Status + Send + Sync> {
        let shared = Arc::clone(&self.shared);
        Box::new(move || status::of(&shared))
    }

    /// Ends its processes in good order.
    pub fn stop(self) {}
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.shared.end("the server is shutting down", &self.client);
    }
}
