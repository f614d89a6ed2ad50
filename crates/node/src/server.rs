//! Serves a replica over HTTP until interrupted. Binds the socket and hands `api` its clock and randomness.

use std::{
    io,
    net::{self, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use api::{AppState, Limits};
use hw::Machine;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{SignalKind, signal},
};

use crate::{ModelText, OpenModel, Replica};

/// Threads of the HTTP side: it shares the machine with the ranks, which need the cores more.
const SERVER_THREADS: usize = 2;

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("cannot listen on {address}: {source}\nhint: {}", bind_hint(.source))]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The system.
    #[error("cannot serve: {0}")]
    Io(#[from] io::Error),
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrNotAvailable => "--host takes an address of this machine",
        _ => "--port chooses another port, 0 any free one",
    }
}

/// The socket of the API. Bound before a model is loaded, so that a port in use is known at once.
pub fn bind(address: SocketAddr) -> Result<net::TcpListener, ServeError> {
    let bound = net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|source| ServeError::Bind { address, source })
}

/// Serves `model` on a bound socket until Ctrl-C or SIGTERM, then ends the replica. `on_ready` hears the address.
pub fn serve(
    model: OpenModel,
    text: ModelText,
    replica: Replica,
    listener: net::TcpListener,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS) // tidy: allow(worker) tokio's name
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let listener = TcpListener::from_std(listener)?;
        let (mut interrupted, mut terminated) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        on_ready(listener.local_addr()?);
        let state = state(model, text, &replica);
        // open streams end with the replica, so nothing is waited for here
        tokio::select! {
            served = api::serve(listener, state) => served,
            _ = interrupted.recv() => Ok(()),
            _ = terminated.recv() => Ok(()),
        }
    });
    replica.stop();
    served.map_err(ServeError::Io)
}

fn state(model: OpenModel, text: ModelText, replica: &Replica) -> AppState {
    AppState {
        client: replica.client().clone(),
        tokenizer: text.tokenizer,
        template: text.template,
        model_id: model.id,
        aliases: model.aliases,
        context_len: replica.plan().context_len(),
        limits: Limits::default(),
        allowed_hosts: own_names(),
        random: Box::new(crate::random_seed),
        unix_time_s: Box::new(unix_time_s),
        status: replica.status(),
    }
}

/// Seconds since 1970.
pub(crate) fn unix_time_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
}

/// Names under which other machines reach this one: its own, and the one it has on a network without a name server.
fn own_names() -> Vec<String> {
    let name = Machine::probe().name;
    name.into_iter().flat_map(|name| [format!("{name}.local"), name]).collect()
}
