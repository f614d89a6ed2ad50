//! Whether ranks are alive, judged by their signs of life alone: a rank that is silent, or in one step for too long,
//! hangs. Time is handed in; what is done about a hang is decided elsewhere.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use base::RankId;
use plan::{BackendKind, Fence, Plan};

use crate::rank::BEAT_INTERVAL_MS;

/// A rank that is silent for so long hangs, or its machine does, in milliseconds: ten signs of life.
pub(super) const SILENCE_MS: u64 = 5_000;
/// How often to look, in milliseconds.
pub(super) const LOOK_MS: u64 = 250;
/// Whoever has not looked for so long did not run itself and knows nothing about others, in milliseconds.
const BLINK_MS: u64 = 2_000;

/// The latest from every rank.
pub(super) struct Pulse {
    ranks: Vec<Latest>,
    step_deadline: Duration,
    looked: Instant,
}

#[derive(Clone, Copy)]
struct Latest {
    heard: Instant,
    /// How long its step had been running then.
    busy: Option<Duration>,
}

/// A rank that hangs.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hang {
    pub(super) rank: RankId,
    kind: HangKind,
}

#[derive(Debug, PartialEq, Eq)]
enum HangKind {
    Silent {
        silence: Duration,
    },
    /// In a step for too long; with how long all ranks have been in theirs.
    Overdue {
        expected: Duration,
        busy: Vec<Option<Duration>>,
    },
}

impl Pulse {
    /// All ranks have just been heard.
    pub(super) fn new(n_ranks: usize, step_deadline: Duration, now: Instant) -> Pulse {
        Pulse { ranks: vec![Latest { heard: now, busy: None }; n_ranks], step_deadline, looked: now }
    }

    /// A sign of life, with how long the rank's step has been running.
    pub(super) fn beat(&mut self, rank: RankId, busy: Option<Duration>, now: Instant) {
        self.ranks[rank.index()] = Latest { heard: now, busy };
    }

    /// Who hangs, if anybody does: silence comes first, for it makes the others' steps long.
    pub(super) fn look(&mut self, now: Instant) -> Option<Hang> {
        let unseen = now.saturating_duration_since(self.looked);
        self.looked = now;
        if unseen > Duration::from_millis(BLINK_MS) {
            self.ranks.iter_mut().for_each(|r| r.heard = now);
        }
        self.silent(now).or_else(|| self.overdue())
    }

    fn silent(&self, now: Instant) -> Option<Hang> {
        let silences = self.ranks.iter().map(|r| now.saturating_duration_since(r.heard));
        let (rank, silence) = (0..).map(RankId).zip(silences).max_by_key(|(_, silence)| *silence)?;
        let hangs = silence > Duration::from_millis(SILENCE_MS);
        hangs.then_some(Hang { rank, kind: HangKind::Silent { silence } })
    }

    fn overdue(&self) -> Option<Hang> {
        let (rank, longest) = (0..).map(RankId).zip(&self.ranks).max_by_key(|(_, r)| r.busy)?;
        let busy = self.ranks.iter().map(|r| r.busy).collect();
        let kind = HangKind::Overdue { expected: self.step_deadline, busy };
        (longest.busy? > self.step_deadline).then_some(Hang { rank, kind })
    }
}

impl Hang {
    /// What happened, for people; `end` says what was done about it.
    pub(super) fn explain(&self, plan: &Plan, end: &str) -> String {
        let node = plan.node_of(self.rank).map_or("its node", |n| &n.name);
        let s = Duration::as_secs_f64;
        let mut text = match &self.kind {
            HangKind::Silent { silence } => format!(
                "expected a sign of life from {node} every {:.1} s, found none for {:.1} s; {end}",
                BEAT_INTERVAL_MS as f64 / 1e3,
                s(silence)
            ),
            HangKind::Overdue { expected, busy } => {
                let mut text =
                    format!("expected its step on {node} to end within {:.1} s, found ", s(expected));
                for (rank, busy) in (0..).map(RankId).zip(busy) {
                    let separator = if rank == RankId(0) { "" } else { ", " };
                    let busy = busy.map_or("in no step".to_owned(), |b| format!("in it for {:.1} s", s(&b)));
                    // writing to a string cannot fail
                    let _ = write!(text, "{separator}{rank} {busy}");
                }
                format!("{text}; {end}")
            }
        };
        if let Some(hint) = self.hint(plan) {
            text.push_str("\nhint: ");
            text.push_str(hint);
        }
        text
    }

    fn hint(&self, plan: &Plan) -> Option<&'static str> {
        let has_gpu = plan.rank(self.rank).is_some_and(|r| r.backend == BackendKind::Mlx);
        match (&self.kind, has_gpu && plan.fence() == Fence::Fast) {
            (_, true) => Some("the fast fence is known to wedge GPUs: use --fence safe"),
            (HangKind::Overdue { .. }, false) => {
                Some("--step-deadline allows longer steps, as long prompts on slow machines need")
            }
            (HangKind::Silent { .. }, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(60);
    const LOOK: Duration = Duration::from_millis(LOOK_MS);
    const BEAT: Duration = Duration::from_millis(BEAT_INTERVAL_MS);
    const SILENCE: Duration = Duration::from_millis(SILENCE_MS);

    /// Looks at every tick for `time`; `beats` says what each rank sends when it is to.
    fn watch(
        pulse: &mut Pulse,
        start: Instant,
        time: Duration,
        beats: impl Fn(u32, Duration) -> Option<Option<Duration>>,
    ) -> Option<(Hang, Duration)> {
        let mut passed = Duration::ZERO;
        while passed < time {
            passed += LOOK;
            if passed.as_millis().is_multiple_of(BEAT.as_millis()) {
                for rank in 0..pulse.ranks.len() as u32 {
                    if let Some(busy) = beats(rank, passed) {
                        pulse.beat(RankId(rank), busy, start + passed);
                    }
                }
            }
            if let Some(hang) = pulse.look(start + passed) {
                return Some((hang, passed));
            }
        }
        None
    }

    #[test]
    fn a_silent_rank_is_found_and_no_other() {
        let start = Instant::now();
        let mut pulse = Pulse::new(3, DEADLINE, start);
        let stops = Duration::from_secs(20);
        // the others are in a step that the silent one does not let end
        let beats = |rank, at: Duration| (rank != 1 || at < stops).then(|| at.checked_sub(stops));
        let (hang, at) = watch(&mut pulse, start, DEADLINE, beats).unwrap();
        assert_eq!(hang.rank, RankId(1));
        assert!(matches!(hang.kind, HangKind::Silent { .. }), "{hang:?}");
        assert!(at > stops + SILENCE - BEAT && at <= stops + SILENCE + LOOK, "{at:?}");
    }

    #[test]
    fn a_step_without_end_is_found() {
        let start = Instant::now();
        let mut pulse = Pulse::new(2, DEADLINE, start);
        let begins = Duration::from_secs(100);
        let beats = |rank, at: Duration| Some(if rank == 0 { at.checked_sub(begins) } else { None });
        let (hang, at) = watch(&mut pulse, start, Duration::from_secs(1000), beats).unwrap();
        assert!(at > begins + DEADLINE && at <= begins + DEADLINE + BEAT, "{at:?}");
        let busy = vec![Some(at - begins), None];
        assert_eq!(hang, Hang { rank: RankId(0), kind: HangKind::Overdue { expected: DEADLINE, busy } });
    }

    #[test]
    fn one_who_did_not_run_judges_nobody() {
        let start = Instant::now();
        let mut pulse = Pulse::new(1, DEADLINE, start);
        assert_eq!(pulse.look(start + Duration::from_secs(3600)), None);
        let wakes = start + Duration::from_secs(3600);
        let (hang, at) = watch(&mut pulse, wakes, DEADLINE, |_, _| None).unwrap();
        assert!(matches!(hang.kind, HangKind::Silent { .. }) && at > SILENCE, "{hang:?} {at:?}");
    }

    proptest! {
        #[test]
        fn ranks_that_beat_and_end_their_steps_are_left_alone(
            late_ms in proptest::collection::vec(0..SILENCE_MS, 1..4), step_ms in 0u64..60_000,
        ) {
            let start = Instant::now();
            let mut pulse = Pulse::new(late_ms.len(), DEADLINE, start);
            let beats = |rank: u32, at: Duration| {
                // beats come in bunches, never later than they may
                let bunch = late_ms[rank as usize].max(BEAT_INTERVAL_MS) / BEAT_INTERVAL_MS * BEAT_INTERVAL_MS;
                let at_ms = at.as_millis() as u64;
                at_ms.is_multiple_of(bunch).then(|| Some(Duration::from_millis(at_ms % (step_ms + 1))))
            };
            let found = watch(&mut pulse, start, Duration::from_secs(300), beats);
            prop_assert!(found.is_none(), "{:?}", found);
        }
    }
}
