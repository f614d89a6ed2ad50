//! Serves a replica over HTTP until interrupted. Binds the socket and hands `api` its clock and randomness.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use api::{AppState, Limits};
use tokio::{net::TcpListener, runtime, signal};

use crate::{OpenModel, Replica};

/// Threads of the HTTP side: it shares the machine with the ranks, which need the cores more.
const SERVER_THREADS: usize = 2;

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("cannot listen on {address}: {source}\nhint: --port chooses another port")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// The system.
    #[error("cannot serve: {0}")]
    Io(#[from] std::io::Error),
}

/// Serves `model` on `address` until Ctrl-C or SIGTERM, then ends the replica. `on_ready` hears the address bound.
pub fn serve(
    model: OpenModel,
    replica: Replica,
    address: SocketAddr,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(SERVER_THREADS) // tidy: allow(worker) tokio's name
        .enable_all()
        .build()?;
    let served = runtime.block_on(async {
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?;
        on_ready(listener.local_addr()?);
        let state = state(model, &replica);
        // open streams end with the replica, so nothing is waited for here
        tokio::select! {
            served = api::serve(listener, state) => served.map_err(ServeError::Io),
            stopped = interrupted() => stopped.map_err(ServeError::Io),
        }
    });
    replica.stop();
    served
}

fn state(model: OpenModel, replica: &Replica) -> AppState {
    AppState {
        client: replica.client().clone(),
        tokenizer: model.tokenizer,
        template: model.template,
        model_id: model.id,
        aliases: model.aliases,
        context_len: replica.plan().context_len(),
        limits: Limits::default(),
        allowed_hosts: Vec::new(),
        random: Box::new(crate::random_seed),
        unix_time_s: Box::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())),
        status: replica.status(),
    }
}

async fn interrupted() -> Result<(), std::io::Error> {
    let mut terminated = signal::unix::signal(signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = signal::ctrl_c() => interrupted,
        _ = terminated.recv() => Ok(()),
    }
}
