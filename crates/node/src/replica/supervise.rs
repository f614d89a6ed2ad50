//! Watches a replica's ranks: a thread per connection reads, one judges. The first loss ends the replica, be it a process
//! that ended or one that hangs: every open request hears which rank was lost and how, and the other processes are ended.

use std::{
    net::{Shutdown, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use engine::{Client, Command, Commands};
use plan::{Collectives, Plan, PlanError};
use wire::{FromRank, Init, MlxPeers, Stats, ToRank, WireError};

use super::{
    Processes, ReplicaError, StartEvent,
    gather::Joined,
    jaccl::JacclDevices,
    pulse::{LOOK_MS, Pulse},
};
use crate::secret;

/// After a connection ended, time for the system to report how the process did, in milliseconds.
const SIGNAL_MS: u64 = 200;

/// What the threads and the owner share.
pub(super) struct Shared {
    plan: Plan,
    controls: Vec<TcpStream>,
    processes: Mutex<Processes>,
    pulse: Mutex<Pulse>,
    stats: Mutex<Stats>,
    /// Why it is down, once it is.
    down: Mutex<Option<String>>,
}

/// What a rank's connection gave.
struct Event {
    rank: RankId,
    message: Result<FromRank, WireError>,
}

/// A replica on its way up.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    joined: Vec<Joined>,
    events: Receiver<Event>,
    client: Client,
    commands: Commands,
}

impl Supervisor {
    pub(super) fn new(
        plan: Plan,
        joined: Vec<Joined>,
        processes: Processes,
        max_requests: u32,
        step_deadline: Duration,
    ) -> Result<Supervisor, ReplicaError> {
        let controls = joined.iter().map(|j| j.control.try_clone()).collect::<Result<_, _>>()?;
        let pulse = Mutex::new(Pulse::new(joined.len(), step_deadline, Instant::now()));
        let (stats, down) = (Mutex::default(), Mutex::default());
        let shared =
            Arc::new(Shared { plan, controls, processes: Mutex::new(processes), pulse, stats, down });
        let (sender, events) = mpsc::channel();
        for (rank, joined) in (0..).map(RankId).zip(&joined) {
            let (control, sender, shared) =
                (joined.control.try_clone()?, sender.clone(), Arc::clone(&shared));
            thread::spawn(move || read(rank, control, &shared, &sender));
        }
        let (client, commands) = Client::new(max_requests);
        Ok(Supervisor { shared, joined, events, client, commands })
    }

    /// Sends every rank the plan and where its peers are.
    pub(super) fn initialise(
        &mut self,
        model: &Path,
        step_deadline: Duration,
        jaccl: Option<&JacclDevices>,
    ) -> Result<(), ReplicaError> {
        let plan = &self.shared.plan;
        let addresses: Vec<_> = (0..).map(RankId).zip(self.joined.iter().map(|j| j.data)).collect();
        let stages = (0..plan.n_stages()).map(|stage| mlx_peers(plan, stage, &self.joined, jaccl));
        let stages = stages.collect::<Result<Vec<_>, _>>()?;
        let incarnation = secret::incarnation();
        for (me, joined) in plan.ranks().iter().zip(&mut self.joined) {
            let rank = me.rank;
            let peers = addresses.iter().copied().filter(|(peer, _)| *peer != rank).collect();
            let (plan, model, mlx) = (plan.clone(), model.to_owned(), stages[me.stage as usize].clone());
            let init = Init { plan, rank, model, peers, mlx, step_deadline, incarnation };
            wire::write_frame(&mut joined.control, &ToRank::Init(Box::new(init)))
                .map_err(|source| ReplicaError::Wire { rank, source })?;
        }
        Ok(())
    }

    /// Returns when every rank has loaded its share.
    pub(super) fn wait_until_ready(
        &mut self,
        on_event: &mut dyn FnMut(StartEvent<'_>),
    ) -> Result<(), ReplicaError> {
        let mut n_ready = 0;
        while n_ready < self.joined.len() {
            let Event { rank, message } = match next(&self.events, &self.shared) {
                Next::Event(event) => event,
                Next::Hang(rank, why) => return Err(ReplicaError::Rank { rank, why }),
                Next::End => break,
            };
            match message {
                Ok(FromRank::Ready { weights: loaded, load_ms, links }) => {
                    n_ready += 1;
                    let load = Duration::from_millis(load_ms);
                    on_event(StartEvent::Ready { rank, loaded, load, links });
                }
                other => {
                    let (rank, why) = self.shared.loss(rank, other);
                    return Err(ReplicaError::Rank { rank, why });
                }
            }
        }
        Ok(())
    }

    /// Starts to forward requests and outputs.
    pub(super) fn run(self) -> (Client, Arc<Shared>) {
        let Supervisor { shared, mut joined, events, client, commands } = self;
        let rank_0 = joined.swap_remove(0).control;
        thread::spawn(move || forward(commands, rank_0));
        let (watched, deliver_to) = (Arc::clone(&shared), client.clone());
        thread::spawn(move || watch(&events, &watched, &deliver_to));
        (client, shared)
    }
}

/// Requests and cancellations to rank 0. If it is lost, its reader says so.
fn forward(mut commands: Commands, mut rank_0: TcpStream) {
    while let Some(command) = commands.blocking_next() {
        let message = match command {
            Command::Submit(request) => ToRank::Submit(request),
            Command::Cancel(id) => ToRank::Cancel(id),
        };
        if wire::write_frame(&mut rank_0, &message).is_err() {
            return;
        }
    }
}

fn watch(events: &Receiver<Event>, shared: &Shared, client: &Client) {
    loop {
        let (rank, why) = match next(events, shared) {
            Next::Event(Event { message: Ok(FromRank::Outputs(outputs)), .. }) => {
                client.deliver(outputs);
                continue;
            }
            Next::Event(Event { message: Ok(FromRank::Stats(stats)), .. }) => {
                *lock(&shared.stats) = stats;
                continue;
            }
            _ if shared.why_down().is_some() => return,
            Next::Event(Event { rank, message }) => shared.loss(rank, message),
            Next::Hang(rank, why) => (rank, why),
            Next::End => return,
        };
        let why = format!("{rank} was lost: {why}");
        eprintln!("error: {why}");
        return shared.end(&why, client);
    }
}

/// What there is to do next.
enum Next {
    Event(Event),
    /// A rank hung and was ended.
    Hang(RankId, String),
    /// Every reader has ended.
    End,
}

fn next(events: &Receiver<Event>, shared: &Shared) -> Next {
    loop {
        let event = events.recv_timeout(Duration::from_millis(LOOK_MS));
        let hang = lock(&shared.pulse).look(Instant::now());
        match (event, hang) {
            (Ok(event), _) => return Next::Event(event),
            (Err(RecvTimeoutError::Disconnected), _) => return Next::End,
            (Err(RecvTimeoutError::Timeout), None) => {}
            (Err(RecvTimeoutError::Timeout), Some(hang)) => {
                let end = lock(&shared.processes).end_one(hang.rank);
                return Next::Hang(hang.rank, hang.explain(&shared.plan, &end));
            }
        }
    }
}

/// Reads a rank's messages to the end: signs of life are noted at once, the rest waits for its turn.
fn read(rank: RankId, mut control: TcpStream, shared: &Shared, events: &Sender<Event>) {
    loop {
        let message = wire::read_frame(&mut control);
        if let Ok(FromRank::Beat { busy_ms }) = message {
            lock(&shared.pulse).beat(rank, busy_ms.map(Duration::from_millis), Instant::now());
            continue;
        }
        let last = message.is_err();
        if events.send(Event { rank, message }).is_err() || last {
            return;
        }
    }
}

/// How the ranks of a stage meet in MLX's own collectives, if the plan uses them.
fn mlx_peers(
    plan: &Plan,
    stage: u32,
    joined: &[Joined],
    jaccl: Option<&JacclDevices>,
) -> Result<Option<MlxPeers>, ReplicaError> {
    let missing = |rank, what: &str| ReplicaError::Rank { rank, why: format!("it gave no {what}") };
    let ranks = plan.stage_ranks(stage);
    let (first, last) = (ranks[0], ranks[ranks.len() - 1]);
    let host =
        |rank: RankId| joined[rank.index()].mlx.ok_or_else(|| missing(rank, "address for MLX's collectives"));
    Ok(match (plan.collectives(), jaccl) {
        (Collectives::Onefold, _) => None,
        (Collectives::MlxRing, _) => {
            let hosts = ranks.iter().map(|rank| host(*rank)).collect::<Result<_, _>>()?;
            Some(MlxPeers::Ring { hosts })
        }
        (Collectives::MlxJaccl, Some(devices)) => {
            let devices = devices.among(first.index()..last.index() + 1);
            Some(MlxPeers::Jaccl { devices, coordinator: host(first)? })
        }
        // the planner chooses this only with devices
        (Collectives::MlxJaccl, None) => return Err(PlanError::JacclDevices.into()),
    })
}

impl Shared {
    /// The plan it runs by.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The counters reported last.
    pub(super) fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    /// Why the replica does not answer, if it does not.
    pub(super) fn why_down(&self) -> Option<String> {
        lock(&self.down).clone()
    }

    /// Ends the replica: fails what is open, closes the connections, which ends every rank, and waits for them.
    pub(super) fn end(&self, why: &str, client: &Client) {
        lock(&self.down).get_or_insert_with(|| why.to_owned());
        client.fail_all(why);
        for control in &self.controls {
            // fails only if the other end has closed it already
            let _ = control.shutdown(Shutdown::Both);
        }
        lock(&self.processes).end();
    }

    /// Which rank was the first to go, and how: a process that a signal ended, before a rank that merely reports that a
    /// peer went away.
    fn loss(&self, rank: RankId, message: Result<FromRank, WireError>) -> (RankId, String) {
        let patience = Duration::from_millis(SIGNAL_MS);
        let killed = lock(&self.processes).find_killed(patience);
        let said = match message {
            Ok(FromRank::Failed { message }) => message,
            Ok(_) => "it sent a message that is out of turn".to_owned(),
            Err(WireError::Closed) => "its connection was closed".to_owned(),
            Err(e) => e.to_string(),
        };
        killed.unwrap_or((rank, said))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // every holder leaves the value whole
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
