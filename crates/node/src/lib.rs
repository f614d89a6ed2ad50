//! The composition root: where models come from, how a replica's processes start, are watched and end, and the HTTP
//! server. The only library crate that reads the environment and the clock and starts processes.

pub mod fabric;
pub mod models;
pub mod planning;

mod door;
mod open;
mod paths;
mod placement;
mod rank;
mod replica;
mod secret;
mod server;

pub use open::{ModelText, OpenError, OpenModel};
pub use paths::Paths;
pub use placement::{DEFAULT_CONTEXT_TOKENS, Placement};
pub use rank::{RankError, RankOptions, run_rank};
pub use replica::{JacclError, RemoteRanks, Replica, ReplicaError, ReplicaOptions, StartEvent};
pub use secret::{SecretError, SecretLine, random_seed};
pub use server::{ServeError, bind, serve};
pub use wire::Stats;
