//! The engine: token ids in, token ids out. It knows no text, no HTTP, no socket, no clock, no environment.
//!
//! The path of a token:
//! 1. [`Client::submit`] opens a request in the serving process; its [`Command`] travels to rank 0's process.
//! 2. [`Engine::submit`] queues it in the [`Scheduler`], or refuses what could never be answered.
//! 3. `schedule` grows the block tables of running sequences (preempting the last-come if blocks run out), admits
//!    waiting ones (sharing blocks with equal prefixes) and builds a [`base::Step`]: decode rows, then prefill.
//! 4. The [`Executor`] runs the step's batch on all ranks; the rank that holds the logits calls [`sample`].
//! 5. `commit` appends each token to its sequence, publishes full blocks in the prefix cache, ends sequences.
//! 6. [`Engine::step`] returns the [`base::Output`]s; they travel back, and [`Client::deliver`] puts each one
//!    into its [`RequestStream`].
//!
//! Steps 3 to 6 are [`Engine::step`]: schedule, step, sample, commit, emit.

mod ahead;
mod block;
mod client;
mod config;
mod engine;
mod runner;
mod sampler;
mod scheduler;
mod sequence;

pub use client::{Client, Command, Commands, RequestStream, SubmitError};
pub use config::{
    ConfigError, MAX_BATCH_TOKENS, MAX_PREFILLS, MAX_SEQS, MAX_WAITING_REQUESTS, PREFILL_CHUNK_TOKENS,
    SchedulerConfig,
};
pub use engine::{Engine, ExecuteError, Executor, StepError};
pub use runner::{RunError, Runner};
pub use sampler::{MIN_LOGPROB, sample};
pub use scheduler::{CommitError, Scheduler, Stats, SubmitRefused};
