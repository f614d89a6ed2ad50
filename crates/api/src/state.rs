//! What the router is given: the engine's client, the model's text side, limits, and where time, randomness and
//! the replica's health come from. It holds no policy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use engine::Client;
use text::{ChatTemplate, Tokenizer};
use tokio::sync::Semaphore;

use crate::metrics::Metrics;

/// Bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;
/// Seconds for a request's body to arrive.
pub const BODY_TIMEOUT_S: u64 = 30;
/// Prompts that are templated and tokenised at the same time; others wait. Each keeps one thread busy.
pub const MAX_ENCODING: usize = 2;

/// Everything the endpoints need.
pub struct AppState {
    /// The way to the engine.
    pub client: Client,
    /// The model's tokenizer.
    pub tokenizer: Arc<Tokenizer>,
    /// The model's chat template; without one, chat requests are refused.
    pub template: Option<ChatTemplate>,
    /// The name under which the model is served.
    pub model_id: String,
    /// Other names that mean the same model.
    pub aliases: Vec<String>,
    /// Tokens of prompt and answer together.
    pub context_len: u32,
    /// Bounds on what a request may cost before the engine sees it.
    pub limits: Limits,
    /// Names under which browsers may reach the server, besides localhost and IP addresses.
    pub allowed_hosts: Vec<String>,
    /// Source of seeds and ids.
    pub random: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Seconds since 1970.
    pub unix_time_s: Box<dyn Fn() -> u64 + Send + Sync>,
    /// How the replica is.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
}

/// Bounds on what a request may cost before the engine sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a body.
    pub body_bytes: usize,
    /// Time for a body to arrive.
    pub body_timeout: Duration,
    /// Prompts that are encoded at the same time.
    pub n_encoding: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes: MAX_BODY_BYTES,
            body_timeout: Duration::from_secs(BODY_TIMEOUT_S),
            n_encoding: MAX_ENCODING,
        }
    }
}

/// How the replica is: whether it answers, and what its scheduler counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Why it does not answer; `None` when it does.
    pub down: Option<String>,
    /// Numbers for `/metrics`.
    pub gauges: Vec<Gauge>,
}

/// One number for `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// The metric's full name.
    pub name: String,
    /// What it counts, in one line.
    pub help: String,
    /// Its value now.
    pub value: f64,
}

/// The state with what the router keeps itself.
pub(crate) struct Server {
    pub(crate) app: AppState,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) encoders: Arc<Semaphore>,
    /// When the server started, as the models list reports it.
    pub(crate) started_unix_s: u64,
}

impl Server {
    pub(crate) fn new(app: AppState) -> Arc<Server> {
        Arc::new(Server {
            metrics: Arc::new(Metrics::new()),
            encoders: Arc::new(Semaphore::new(app.limits.n_encoding.max(1))),
            started_unix_s: (app.unix_time_s)(),
            app,
        })
    }

    /// A fresh id such as `chatcmpl-4f1c…`.
    pub(crate) fn fresh_id(&self, prefix: &str) -> String {
        format!("{prefix}-{:016x}{:016x}", (self.app.random)(), (self.app.random)())
    }

    /// Whether `name` means the served model.
    pub(crate) fn serves(&self, name: &str) -> bool {
        name == self.app.model_id || self.app.aliases.iter().any(|alias| alias == name)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("model_id", &self.app.model_id).finish_non_exhaustive()
    }
}
