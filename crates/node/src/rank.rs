//! One rank's process: joins the replica, loads its share, then drives steps (rank 0) or follows them. It ends when the
//! serving process goes away, whatever it is doing then.

mod control;
mod device;
mod drive;
mod near;

use std::{
    env, io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc::Receiver,
    thread,
    time::{Duration, Instant},
};

use backend::{Backend, BackendError};
use base::{NodeId, RankId};
use collective::{CollectiveError, SharedWorld, World};
use engine::{ConfigError, Engine, RunError, Runner, SchedulerConfig, StepError};
use hw::Machine;
use models::{Description, ModelError};
use plan::{BackendKind, Fence, Plan, RankPlan};
use transport::{Link, TcpLink};
use weights::{Checkpoint, WeightsError};
use wire::{
    FromRank, Init, ToRank, WireError,
    handshake::{self, HANDSHAKE_TIMEOUT_MS, HandshakeError, Party, Secret, Timed},
};

pub(crate) use control::BEAT_INTERVAL_MS;
use control::{Activity, Control};
pub(crate) use device::{SETTINGS, fence_setting, offered};

use crate::{
    SecretLine,
    door::{self, Door, Knock},
    placement::this_node,
    secret::nonce,
};

/// Time to reach the serving process or a peer, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 10_000;
/// How often the door for peers is looked at, in milliseconds.
const POLL_MS: u64 = 2;
/// After a failure in the middle of work, time for the serving process to end the replica, in milliseconds.
const END_PATIENCE_MS: u64 = 400;
/// Beyond a step's deadline, time for the serving process to say which step was too long before ranks that wait for each
/// other give up, in milliseconds.
const DEADLINE_MARGIN_MS: u64 = 5_000;

/// Connections to other ranks.
type Links = Vec<(RankId, Box<dyn Link>)>;

/// What a rank process is told on its command line.
pub struct RankOptions {
    /// The serving process.
    pub connect: SocketAddr,
    /// Which rank of the plan it is.
    pub rank: RankId,
    /// What all processes of the replica know.
    pub secret: SecretLine,
    /// The model on this machine; the serving process's own path when absent.
    pub model: Option<PathBuf>,
}

/// Why a rank ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each wraps the error of one part
pub enum RankError {
    #[error(
        "cannot reach {address}: {source}\nhint: start the serving process first; a firewall may be in the way"
    )]
    Connect { address: SocketAddr, source: io::Error },
    #[error("{address}: {source}{}", secret_hint(.source))]
    Handshake { address: SocketAddr, source: HandshakeError },
    #[error("{address} ended, or did not expect {rank}\nhint: its own output says why")]
    TurnedAway { address: SocketAddr, rank: RankId },
    #[error("expected {expected}, found {found}")]
    Protocol { expected: &'static str, found: String },
    #[error("cannot use a socket: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(
        "{}: the plan was made for another model than this file holds\nhint: the same file must lie on every machine",
        .path.display()
    )]
    OtherModel { path: PathBuf },
    #[error(transparent)]
    Collective(#[from] CollectiveError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Step(#[from] StepError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(
        "the plan has {rank} compute with {backend}, which this onefold was built without\nhint: MLX_DIR=… cargo build --release -p cli --features mlx"
    )]
    NotBuilt { rank: RankId, backend: BackendKind },
    #[error(
        "the {fence} fence needs {variable}={expected} in the environment, found {found}\n\
         hint: start the rank as {variable}={expected} onefold rank …"
    )]
    FenceSetting { fence: Fence, variable: &'static str, expected: &'static str, found: String },
    #[error("cannot write {}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
}

/// Runs one rank until the serving process ends it or something fails; the serving process hears of a failure.
pub fn run_rank(options: RankOptions) -> Result<(), RankError> {
    let secret = options.secret.secret();
    let mut stream = connect(options.connect, &secret, options.rank)?;
    let machine = Machine::probe();
    let ip = stream.local_addr()?.ip();
    let listener = TcpListener::bind((ip, 0))?;
    let node = this_node(NodeId(0), &machine);
    let reserved = Reserved::new(ip, &node.backends)?;
    let addr = listener.local_addr()?;
    wire::write_frame(&mut stream, &FromRank::Listening { addr, mlx_addr: reserved.address()?, node })?;
    let init = match wire::read_frame(&mut stream) {
        Ok(ToRank::Init(init)) => *init,
        Ok(other) => return Err(unexpected("the plan", &other)),
        Err(WireError::Closed) => {
            return Err(RankError::TurnedAway { address: options.connect, rank: options.rank });
        }
        Err(e) => return Err(e.into()),
    };
    // before any peer that has linked up can look for MLX there
    drop(reserved);
    let commands = control::listen_to_node(stream.try_clone()?);
    let (control, activity) = (Control::new(stream), Activity::default());
    control.beat(activity.clone());
    let rank =
        Rank { init, model: options.model, secret, machine, listener, control: control.clone(), activity };
    let ended = rank.run(&commands);
    if let Err(error) = &ended {
        if matches!(
            error,
            RankError::Collective(_) | RankError::Run(_) | RankError::Step(_) | RankError::Backend(_)
        ) {
            // most often a peer went away; if that is the end of the replica, the serving process says so in a moment
            thread::sleep(Duration::from_millis(END_PATIENCE_MS));
        }
        control.send(&FromRank::Failed { message: error.to_string() })?;
    }
    ended
}

/// A free port for MLX's own collectives, kept from others until MLX takes it.
struct Reserved(Option<TcpListener>);

impl Reserved {
    fn new(ip: IpAddr, backends: &[BackendKind]) -> io::Result<Reserved> {
        let has_mlx = backends.contains(&BackendKind::Mlx);
        Ok(Reserved(has_mlx.then(|| TcpListener::bind((ip, 0))).transpose()?))
    }

    fn address(&self) -> io::Result<Option<SocketAddr>> {
        self.0.as_ref().map(TcpListener::local_addr).transpose()
    }
}

fn secret_hint(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::Refused { .. } => "\nhint: the secret file must hold the same line on every machine",
        HandshakeError::Wire(_) => "",
    }
}

fn unexpected(expected: &'static str, found: &ToRank) -> RankError {
    let found = match found {
        ToRank::Init(_) => "a second plan",
        ToRank::Submit(_) => "a request",
        ToRank::Cancel(_) => "a cancellation",
        ToRank::Shutdown => "the end",
    };
    RankError::Protocol { expected, found: found.to_owned() }
}

/// A connection whose other end knows the secret.
fn connect(address: SocketAddr, secret: &Secret, me: RankId) -> Result<TcpStream, RankError> {
    let timeout = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let stream = TcpStream::connect_timeout(&address, timeout)
        .map_err(|source| RankError::Connect { address, source })?;
    stream.set_nodelay(true)?;
    let timeout = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
    handshake::connect(&mut Timed::new(&stream, timeout), secret, Party::Rank(me), nonce())
        .map_err(|source| RankError::Handshake { address, source })?;
    Ok(stream)
}

struct Rank {
    init: Init,
    model: Option<PathBuf>,
    secret: Secret,
    machine: Machine,
    listener: TcpListener,
    control: Control,
    activity: Activity,
}

impl Rank {
    fn run(self, commands: &Receiver<ToRank>) -> Result<(), RankError> {
        let started = Instant::now();
        let plan = &self.init.plan;
        let me = &plan.ranks()[self.init.rank.index()];
        let world = self.link_up(plan, me)?;
        let group = device::summing_group(plan, me, &world)?;
        let checkpoint = Checkpoint::open(self.model.as_ref().unwrap_or(&self.init.model))?;
        match me.backend {
            BackendKind::Cpu => {
                let backend = device::cpu(&self.machine, me, group);
                self.compute(&checkpoint, me, backend, world, started, commands)
            }
            #[cfg(feature = "mlx")]
            BackendKind::Mlx => {
                let backend = device::mlx(plan, me, &checkpoint, self.init.mlx.as_ref(), group)?;
                self.compute(&checkpoint, me, backend, world, started, commands)
            }
            #[cfg(not(feature = "mlx"))]
            backend => Err(RankError::NotBuilt { rank: me.rank, backend }),
        }
    }

    /// Loads the share, then drives or follows.
    fn compute<B: Backend + 'static>(
        &self,
        checkpoint: &Checkpoint,
        me: &RankPlan,
        backend: B,
        world: SharedWorld,
        started: Instant,
        commands: &Receiver<ToRank>,
    ) -> Result<(), RankError> {
        let plan = &self.init.plan;
        let mut runner = load(checkpoint, plan, me, backend, world)?;
        let load_ms = started.elapsed().as_millis() as u64;
        self.control.send(&FromRank::Ready { weights: me.weights, load_ms })?;
        if me.rank != RankId(0) {
            return Ok(runner.follow(|is_busy| self.activity.set(is_busy))?);
        }
        let vocab = plan.model().vocab;
        let config = SchedulerConfig::new(plan.block_len(), plan.n_blocks(), plan.context_len(), vocab);
        drive::drive(Engine::new(config, runner)?, &self.control, &self.activity, commands)
    }

    /// Links to all other ranks: calls those before it, waits for those after it.
    fn link_up(&self, plan: &Plan, me: &RankPlan) -> Result<SharedWorld, RankError> {
        let mut links = Links::new();
        for (peer, address) in self.init.peers.iter().filter(|(peer, _)| *peer < me.rank) {
            let stream = connect(*address, &self.secret, me.rank)?;
            links.push((*peer, Box::new(TcpLink::new(stream, peer.to_string())?)));
        }
        links.extend(self.wait_for_peers(me.rank)?);
        let deadline = self.init.step_deadline + Duration::from_millis(DEADLINE_MARGIN_MS);
        let is_near = |peer| plan.rank(peer).is_some_and(|peer| peer.node == me.node);
        near::share_memory(me.rank, is_near, &mut links, &env::temp_dir(), deadline)?;
        let mut world = World::new(me.rank, links, deadline)?;
        if self.is_crowded(plan, me) {
            world.set_spin(Duration::ZERO);
        }
        Ok(world.shared())
    }

    /// Links to the ranks after this one, which prove that they know the secret; others are turned away.
    fn wait_for_peers(&self, me: RankId) -> Result<Links, RankError> {
        let mut links = Links::new();
        let n_after = self.init.peers.iter().filter(|(peer, _)| *peer > me).count();
        let secret = self.secret.clone();
        let hear = move |stream: &_| door::admit_rank(&mut door::timed(stream), &secret, Party::Rank(me));
        let mut door = Door::new(self.listener.try_clone()?, hear)?;
        while links.len() < n_after {
            let knock = door.next(Duration::from_millis(POLL_MS))?;
            if let Some(Knock { entry: Ok((stream, peer)), .. }) = knock {
                links.push((peer, Box::new(TcpLink::new(stream, peer.to_string())?)));
            }
        }
        Ok(links)
    }

    /// Whether this machine runs more threads of the replica than it has cores.
    fn is_crowded(&self, plan: &Plan, me: &RankPlan) -> bool {
        let here = plan.ranks().iter().filter(|r| r.node == me.node);
        here.map(|r| r.cores.len().max(1)).sum::<usize>() > self.machine.n_cores() as usize
    }
}

fn load<B: Backend + 'static>(
    checkpoint: &Checkpoint,
    plan: &Plan,
    me: &RankPlan,
    mut backend: B,
    world: SharedWorld,
) -> Result<Runner<B>, RankError> {
    let description = Description::read(checkpoint)?;
    if description.spec != *plan.model() {
        return Err(RankError::OtherModel { path: checkpoint.path().to_owned() });
    }
    let model = models::load(checkpoint, &description, plan, me, &mut backend)?;
    let group = device::group(plan, me, &world)?;
    Ok(Runner::new(plan.clone(), me.clone(), model, backend, world, group))
}
