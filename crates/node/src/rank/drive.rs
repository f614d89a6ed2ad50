//! Rank 0's loop: takes what was asked, runs a step, sends what came out, and counts. It is the same over every backend.

use std::{
    process,
    sync::mpsc::{Receiver, TryRecvError},
    time::{Duration, Instant},
};

use backend::{Backend, Counters};
use engine::{Engine, Runner};
use wire::{FromRank, Stats, ToRank};

use super::{
    RankError,
    control::{Activity, Control},
    unexpected,
};

/// Counters are reported this often while steps run, in milliseconds.
const STATS_INTERVAL_MS: u64 = 250;

/// Runs until something fails; the end of the connection ends the process.
pub(super) fn drive<B: Backend>(
    mut engine: Engine<Runner<B>>,
    control: &Control,
    activity: &Activity,
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
        activity.set(true);
        let started = Instant::now();
        let outputs = engine.step()?;
        let graphs = engine.executor().backend().counters();
        reporter.count(engine.stats(), graphs, started.elapsed());
        activity.set(false);
        // before the outputs, so that who has the last token of a request also has the counters of all its steps
        if reporter.is_due(!engine.has_work()) {
            control.send(&FromRank::Stats(reporter.stats))?;
        }
        if !outputs.is_empty() {
            control.send(&FromRank::Outputs(outputs))?;
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

    fn count(&mut self, engine: engine::Stats, graphs: Counters, step: Duration) {
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
            n_graph_nodes: graphs.n_nodes,
            n_graph_launches: graphs.n_launches,
            n_graph_evals: graphs.n_evals,
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
