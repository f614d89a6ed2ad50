//! The engine: a scheduler and an executor, driven step by step. It owns no thread and never waits.

use base::{Output, Request, RequestId, Sampled, Step};

use crate::config::{ConfigError, SchedulerConfig};
use crate::scheduler::{CommitError, Scheduler, Stats};

/// Runs a step on all ranks of the replica.
///
/// Contract: row `i` of a sequence reads keys and values of positions `0..=context_len - n_rows + i` through
/// its block table and writes its own; it sees nothing else. The result has one token for each of
/// `step.samples`, in order, drawn where the logits lie. Executing the same step again gives the same tokens.
pub trait Executor {
    /// Executes one step.
    ///
    /// # Errors
    /// When a rank is lost or a computation failed; nothing of the step counts then. The error says whether the next
    /// step can be executed.
    fn execute(&mut self, step: &Step) -> Result<Vec<Sampled>, ExecuteError>;
}

/// Why a step could not be executed: whatever the executor has to say.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub enum ExecuteError {
    /// This step cannot be executed, others can: its requests fail.
    Step(Box<dyn std::error::Error + Send + Sync>),
    /// No step can be executed any more.
    Replica(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a step gave no outputs.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The executor failed.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
    /// The executor broke its contract.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

/// Token ids in, token ids out.
#[derive(Debug)]
pub struct Engine<E> {
    scheduler: Scheduler,
    executor: E,
    /// What the next `step` will say.
    outputs: Vec<Output>,
}

impl<E: Executor> Engine<E> {
    /// An engine without requests.
    ///
    /// # Errors
    /// When the limits contradict each other; see [`ConfigError`].
    pub fn new(config: SchedulerConfig, executor: E) -> Result<Engine<E>, ConfigError> {
        Ok(Engine { scheduler: Scheduler::new(config)?, executor, outputs: Vec::new() })
    }

    /// Queues a request; if it can never be answered, the next `step` says so.
    pub fn submit(&mut self, request: Request) {
        let id = request.id;
        if let Err(refused) = self.scheduler.submit(request) {
            self.outputs.push(Output::Failed { id, message: refused.to_string() });
        }
    }

    /// Ends a request and frees its blocks at once; the next `step` says so. Does nothing if it is not open.
    pub fn cancel(&mut self, id: RequestId) {
        self.outputs.extend(self.scheduler.cancel(id));
    }

    /// Computes one batch and says what became of the requests.
    ///
    /// # Errors
    /// When the executor cannot go on; no request has moved then.
    pub fn step(&mut self) -> Result<Vec<Output>, StepError> {
        if let Some(step) = self.scheduler.schedule() {
            let outputs = match self.executor.execute(&step) {
                Ok(sampled) => self.scheduler.commit(&step, sampled)?,
                Err(ExecuteError::Step(why)) => self.scheduler.fail(&step, &why.to_string()),
                Err(replica) => return Err(replica.into()),
            };
            self.outputs.extend(outputs);
        }
        Ok(std::mem::take(&mut self.outputs))
    }

    /// Whether `step` has something to compute or to say.
    pub fn has_work(&self) -> bool {
        self.scheduler.has_work() || !self.outputs.is_empty()
    }

    /// What runs the steps.
    pub fn executor(&self) -> &E {
        &self.executor
    }

    /// Gauges and counters.
    pub fn stats(&self) -> Stats {
        self.scheduler.stats()
    }
}

#[cfg(test)]
mod tests {
    use base::{FinishReason, SamplingParams, TokenId};

    use super::*;

    /// Says the position of each token; fails on demand.
    struct Positions {
        fails: Option<fn(Box<dyn std::error::Error + Send + Sync>) -> ExecuteError>,
    }

    impl Executor for Positions {
        fn execute(&mut self, step: &Step) -> Result<Vec<Sampled>, ExecuteError> {
            if let Some(error) = self.fails {
                return Err(error("rank 1 is gone".into()));
            }
            let token = |position| Sampled { token: TokenId(position), logprob: None, top: Vec::new() };
            Ok(step.samples.iter().map(|s| token(s.position)).collect())
        }
    }

    fn engine() -> Engine<Positions> {
        Engine::new(SchedulerConfig::new(16, 8, 100, 100), Positions { fails: None }).unwrap()
    }

    fn request(id: u64, n_prompt: usize, max_tokens: u32) -> Request {
        let sampling = SamplingParams::default();
        Request {
            id: RequestId(id),
            prompt: vec![TokenId(1); n_prompt],
            max_tokens,
            stop_tokens: vec![],
            sampling,
        }
    }

    fn tokens(outputs: &[Output]) -> Vec<u32> {
        let token = |o: &Output| match o {
            Output::Token { sampled, .. } => Some(sampled.token.0),
            _ => None,
        };
        outputs.iter().filter_map(token).collect()
    }

    #[test]
    fn a_request_runs_to_its_end() {
        let mut engine = engine();
        assert!(!engine.has_work());
        engine.submit(request(0, 3, 2));
        assert_eq!(tokens(&engine.step().unwrap()), [3]);
        assert_eq!(engine.stats().n_running, 1);
        let last = engine.step().unwrap();
        assert_eq!(tokens(&last), [4]);
        assert!(matches!(last[1], Output::Finished { reason: FinishReason::Length, .. }));
        assert!(!engine.has_work());
        assert_eq!(engine.step().unwrap(), []);
    }

    #[test]
    fn refusals_and_cancellations_are_outputs_of_the_next_step() {
        let mut engine = engine();
        engine.submit(request(0, 99, 2));
        engine.submit(request(1, 3, 2));
        engine.cancel(RequestId(1));
        engine.cancel(RequestId(7));
        assert!(engine.has_work());
        let outputs = engine.step().unwrap();
        assert_eq!(outputs.len(), 2);
        assert!(
            matches!(&outputs[0], Output::Failed { id: RequestId(0), message } if message.contains("99"))
        );
        let cancelled = FinishReason::Cancelled;
        assert!(
            matches!(&outputs[1], Output::Finished { id: RequestId(1), reason, .. } if *reason == cancelled)
        );
        assert!(!engine.has_work());
    }

    #[test]
    fn a_step_that_cannot_be_executed_ends_its_requests_only() {
        let mut engine = engine();
        engine.submit(request(0, 3, 2));
        engine.executor.fails = Some(ExecuteError::Step);
        let outputs = engine.step().unwrap();
        assert!(
            matches!(&outputs[..], [Output::Failed { id: RequestId(0), message }] if message.contains("gone"))
        );
        assert_eq!(engine.stats().n_blocks_used, 0);
        engine.executor.fails = None;
        engine.submit(request(1, 3, 2));
        assert_eq!(tokens(&engine.step().unwrap()), [3]);
    }

    #[test]
    fn a_failed_replica_moves_nothing() {
        let mut engine = engine();
        engine.submit(request(0, 3, 2));
        engine.submit(request(1, 0, 2));
        engine.executor.fails = Some(ExecuteError::Replica);
        assert_eq!(engine.step().unwrap_err().to_string(), "rank 1 is gone");
        engine.executor.fails = None;
        let outputs = engine.step().unwrap();
        assert_eq!(outputs.len(), 2, "the refusal is not lost either");
        assert_eq!(tokens(&outputs), [3]);
    }
}
