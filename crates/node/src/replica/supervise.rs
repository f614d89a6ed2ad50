//! Watches a replica's ranks: a thread per connection reads, one judges. The first loss ends the replica: every open
//! request hears which rank was lost and how, and the other processes are ended.

use std::{
    net::{Shutdown, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use base::RankId;
use engine::{Client, Command, Commands};
use plan::Plan;
use wire::{FromRank, Init, Stats, ToRank, WireError};

use super::{Processes, ReplicaError, StartEvent, gather::Joined};

/// After a connection ended, time for the system to report how the process did, in milliseconds.
const SIGNAL_MS: u64 = 200;

/// What the threads and the owner share.
pub(super) struct Shared {
    controls: Vec<TcpStream>,
    processes: Mutex<Processes>,
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
        joined: Vec<Joined>,
        processes: Processes,
        max_requests: u32,
    ) -> Result<Supervisor, ReplicaError> {
        let (sender, events) = mpsc::channel();
        let mut controls = Vec::new();
        for (rank, joined) in (0..).map(RankId).zip(&joined) {
            controls.push(joined.control.try_clone()?);
            let (mut control, sender) = (joined.control.try_clone()?, sender.clone());
            thread::spawn(move || {
                loop {
                    let message = wire::read_frame(&mut control);
                    let last = message.is_err();
                    if sender.send(Event { rank, message }).is_err() || last {
                        return;
                    }
                }
            });
        }
        let (client, commands) = Client::new(max_requests);
        let (stats, down) = (Mutex::default(), Mutex::default());
        let shared = Arc::new(Shared { controls, processes: Mutex::new(processes), stats, down });
        Ok(Supervisor { shared, joined, events, client, commands })
    }

    /// Sends every rank the plan and where its peers are.
    pub(super) fn initialise(&mut self, plan: &Plan, model: &Path) -> Result<(), ReplicaError> {
        let addresses: Vec<_> = (0..).map(RankId).zip(self.joined.iter().map(|j| j.data)).collect();
        for (rank, joined) in (0..).map(RankId).zip(&mut self.joined) {
            let peers = addresses.iter().copied().filter(|(peer, _)| *peer != rank).collect();
            let init = Init { plan: plan.clone(), rank, model: model.to_owned(), peers };
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
            // the readers hold the other end as long as they run, and each says how it ended
            let Ok(Event { rank, message }) = self.events.recv() else { break };
            match message {
                Ok(FromRank::Ready { weights: loaded, load_ms }) => {
                    n_ready += 1;
                    let load = Duration::from_millis(load_ms);
                    on_event(StartEvent::Ready { rank, loaded, load });
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
    while let Ok(Event { rank, message }) = events.recv() {
        match message {
            Ok(FromRank::Outputs(outputs)) => client.deliver(outputs),
            Ok(FromRank::Stats(stats)) => *lock(&shared.stats) = stats,
            other => {
                if shared.why_down().is_none() {
                    let (rank, why) = shared.loss(rank, other);
                    let why = format!("{rank} was lost: {why}");
                    eprintln!("error: {why}");
                    shared.end(&why, client);
                }
                return;
            }
        }
    }
}

impl Shared {
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
