//! One rank's process: joins the replica, loads its share, then drives steps (rank 0) or follows them. It ends when the
//! serving process goes away, whatever it is doing then.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process,
    sync::mpsc::{self, Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};

use backend::{CpuBackend, Isa};
use base::{NodeId, RankId};
use collective::{CollectiveError, DEADLINE_S, Group, Mesh, SharedWorld, Solo, World};
use engine::{ConfigError, Engine, RunError, Runner, SchedulerConfig, StepError};
use hw::Machine;
use models::{Description, ModelError};
use plan::{Plan, RankPlan};
use transport::{Link, TcpLink};
use weights::{Checkpoint, WeightsError};
use wire::{
    FromRank, Init, Stats, ToRank, WireError,
    handshake::{self, HANDSHAKE_TIMEOUT_MS, HandshakeError, Party, Secret, Timed},
};

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
/// Counters are reported this often while steps run, in milliseconds.
const STATS_INTERVAL_MS: u64 = 250;

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
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("{address}: {source}{}", secret_hint(.source))]
    Handshake { address: SocketAddr, source: HandshakeError },
    #[error("{address} ended, or did not expect {rank}\nhint: its own output says why")]
    TurnedAway { address: SocketAddr, rank: RankId },
    #[error("expected {expected}, found {found}")]
    Protocol { expected: &'static str, found: String },
    #[error("cannot use a socket: {0}")]
    Io(#[from] std::io::Error),
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
}

/// Runs one rank until the serving process ends it or something fails; the serving process hears of a failure.
pub fn run_rank(options: RankOptions) -> Result<(), RankError> {
    let secret = options.secret.secret();
    let mut control = connect(options.connect, &secret, options.rank)?;
    let listener = TcpListener::bind((control.local_addr()?.ip(), 0))?;
    let machine = Machine::probe();
    let addr = listener.local_addr()?;
    wire::write_frame(&mut control, &FromRank::Listening { addr, node: this_node(NodeId(0), &machine) })?;
    let init = match wire::read_frame(&mut control) {
        Ok(ToRank::Init(init)) => *init,
        Ok(other) => return Err(unexpected("the plan", &other)),
        Err(WireError::Closed) => {
            return Err(RankError::TurnedAway { address: options.connect, rank: options.rank });
        }
        Err(e) => return Err(e.into()),
    };
    let commands = listen_to_node(control.try_clone()?);
    let ended = Rank { init, model: options.model, secret, machine, listener }.run(&mut control, &commands);
    if let Err(error) = &ended {
        if matches!(error, RankError::Collective(_) | RankError::Run(_) | RankError::Step(_)) {
            // most often a peer went away; if that is the end of the replica, the serving process says so in a moment
            thread::sleep(Duration::from_millis(END_PATIENCE_MS));
        }
        wire::write_frame(&mut control, &FromRank::Failed { message: error.to_string() })?;
    }
    ended
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

/// Reads commands on a thread of its own, so that the end of the connection ends the process in the middle of a step.
fn listen_to_node(mut control: TcpStream) -> Receiver<ToRank> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        loop {
            match wire::read_frame(&mut control) {
                Ok(ToRank::Shutdown) | Err(WireError::Closed) => process::exit(0),
                Ok(command) => {
                    if sender.send(command).is_err() {
                        return; // the rank is reporting why it ends
                    }
                }
                Err(_) => process::exit(1),
            }
        }
    });
    receiver
}

struct Rank {
    init: Init,
    model: Option<PathBuf>,
    secret: Secret,
    machine: Machine,
    listener: TcpListener,
}

impl Rank {
    fn run(self, control: &mut TcpStream, commands: &Receiver<ToRank>) -> Result<(), RankError> {
        let started = Instant::now();
        let plan = &self.init.plan;
        let me = &plan.ranks()[self.init.rank.index()];
        let world = self.link_up(plan, me)?;
        let mut runner = self.load(plan, me, world)?;
        let load_ms = started.elapsed().as_millis() as u64;
        wire::write_frame(control, &FromRank::Ready { weights: me.weights, load_ms })?;
        if me.rank != RankId(0) {
            return Ok(runner.follow()?);
        }
        let vocab = plan.model().vocab;
        let config = SchedulerConfig::new(plan.block_len(), plan.n_blocks(), plan.context_len(), vocab);
        drive(Engine::new(config, runner)?, control, commands)
    }

    /// Links to all other ranks: calls those before it, waits for those after it.
    fn link_up(&self, plan: &Plan, me: &RankPlan) -> Result<SharedWorld, RankError> {
        let mut links = Links::new();
        for (peer, address) in self.init.peers.iter().filter(|(peer, _)| *peer < me.rank) {
            let stream = connect(*address, &self.secret, me.rank)?;
            links.push((*peer, Box::new(TcpLink::new(stream, peer.to_string())?)));
        }
        links.extend(self.wait_for_peers(me.rank)?);
        let mut world = World::new(me.rank, links, Duration::from_secs(DEADLINE_S))?;
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

    fn load(&self, plan: &Plan, me: &RankPlan, world: SharedWorld) -> Result<Runner<CpuBackend>, RankError> {
        let path = self.model.as_ref().unwrap_or(&self.init.model);
        let checkpoint = Checkpoint::open(path)?;
        let description = Description::read(&checkpoint)?;
        if description.spec != *plan.model() {
            return Err(RankError::OtherModel { path: path.clone() });
        }
        let group = || -> Result<Box<dyn Group>, CollectiveError> {
            Ok(match plan.tp_size() {
                1 => Box::new(Solo),
                _ => Box::new(Mesh::new(world.clone(), plan.stage_ranks(me.stage))?),
            })
        };
        let usable = self.machine.cores.as_deref().unwrap_or_default();
        let cores: Vec<usize> = me.cores.iter().filter_map(|&c| usable.get(c as usize).copied()).collect();
        let mut backend = CpuBackend::new(kernels::Pool::new(&cores), Isa::detect(), group()?);
        let model = models::load(&checkpoint, &description, plan, me, &mut backend)?;
        let group = group()?;
        Ok(Runner::new(plan.clone(), me.clone(), model, backend, world, group))
    }
}

/// Rank 0's loop: takes what was asked, runs a step, sends what came out.
fn drive(
    mut engine: Engine<Runner<CpuBackend>>,
    control: &mut TcpStream,
    commands: &Receiver<ToRank>,
) -> Result<(), RankError> {
    let mut reporter = Reporter::new();
    loop {
        while let Some(command) = next_command(commands, engine.has_work()) {
            match command {
                ToRank::Submit(request) => engine.submit(request),
                ToRank::Cancel(id) => engine.cancel(id),
                other => return Err(unexpected("a request", &other)),
            }
        }
        let started = Instant::now();
        let outputs = engine.step()?;
        reporter.count(engine.stats(), started.elapsed());
        if !outputs.is_empty() {
            wire::write_frame(control, &FromRank::Outputs(outputs))?;
        }
        if reporter.is_due(!engine.has_work()) {
            wire::write_frame(control, &FromRank::Stats(reporter.stats))?;
        }
    }
}

/// The next command if there is one now, or, without other work, as soon as there is one.
fn next_command(commands: &Receiver<ToRank>, has_work: bool) -> Option<ToRank> {
    let next =
        if has_work { commands.try_recv() } else { commands.recv().map_err(|_| TryRecvError::Disconnected) };
    match next {
        Ok(command) => Some(command),
        Err(TryRecvError::Empty) => None,
        // the reader ends the process when the connection ends; nothing else drops the sender
        Err(TryRecvError::Disconnected) => process::exit(0),
    }
}

/// Adds up the engine's counters and the time of its steps.
struct Reporter {
    stats: Stats,
    reported: Instant,
}

impl Reporter {
    fn new() -> Reporter {
        Reporter { stats: Stats::default(), reported: Instant::now() }
    }

    fn count(&mut self, engine: engine::Stats, step: Duration) {
        let us = step.as_micros() as u64;
        let has_prefill = engine.n_prefill_tokens > self.stats.n_prefill_tokens;
        self.stats = Stats {
            n_running: engine.n_running,
            n_waiting: engine.n_waiting,
            n_blocks_used: engine.n_blocks_used,
            n_blocks: engine.n_blocks,
            n_preemptions: engine.n_preemptions,
            n_prefix_hit_tokens: engine.n_prefix_hit_tokens,
            n_steps: self.stats.n_steps + 1,
            n_prefill_tokens: engine.n_prefill_tokens,
            prefill_us: self.stats.prefill_us + if has_prefill { us } else { 0 },
            n_decode_tokens: engine.n_decode_tokens,
            decode_us: self.stats.decode_us + if has_prefill { 0 } else { us },
        };
    }

    /// Whether to report now: at intervals, and when work has run out.
    fn is_due(&mut self, is_idle: bool) -> bool {
        let due = is_idle || self.reported.elapsed() >= Duration::from_millis(STATS_INTERVAL_MS);
        if due {
            self.reported = Instant::now();
        }
        due
    }
}
