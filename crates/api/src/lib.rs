//! The HTTP surface: OpenAI's dialect over the engine's client. A dialect turns JSON into an `Ask` and an answer's
//! events back into JSON; everything between is shared. It binds no socket and knows no rank, plan or weight.
//!
//! Nothing a client sends is ignored in silence: a parameter is honoured, asks for nothing, or is refused by name.

mod answer;
mod ask;
mod body;
mod cut;
mod errors;
mod hosts;
mod metrics;
mod openai;
mod params;
mod router;
mod state;
mod stream;

pub use ask::{MAX_LOGIT_BIASES, MAX_LOGPROBS, MAX_STOP_BYTES, MAX_STOPS};
pub use errors::RETRY_AFTER_S;
pub use router::{router, serve};
pub use state::{AppState, BODY_TIMEOUT_S, Gauge, Limits, MAX_BODY_BYTES, MAX_ENCODING, Status};
pub use stream::KEEP_ALIVE_S;
