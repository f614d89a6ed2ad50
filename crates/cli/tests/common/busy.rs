//! A server that is busy without end, and what must happen when one of its ranks is lost: every open request hears which
//! one and how, nothing stays behind, and the server tells that it is down and ends in good order.

use std::{
    io::BufRead,
    net::SocketAddr,
    path::PathBuf,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use weights::synthetic::{Arch, Recipe};

use super::{PATIENCE, Server, eventually, exchange, exists, gguf, is_alive, open, status};

/// From a rank's death to the error of every open request, and from the server's death to that of its ranks.
const LIMIT: Duration = Duration::from_secs(2);
const N_STREAMS: usize = 4;
/// Far more than are made before the end.
const N_TOKENS: u32 = 30_000;

/// Kills one of two ranks in the middle of requests.
pub(crate) fn kill_a_rank(placement: &[&str], victim: usize) {
    let (mut server, _dir) = start(placement);
    let ranks = server.process.ranks();
    assert_eq!(ranks.len(), 2);
    let open_requests = busy(server.address);
    let whole = whole_request(server.address);
    eventually(PATIENCE, "all requests run", || n_running(&server) == N_STREAMS as u32 + 1);

    kill_process(ranks[victim], Signal::KILL).unwrap();
    let killed = Instant::now();
    let named = format!("rank {victim} was lost: its process {}", ranks[victim].as_raw_nonzero());
    let check = |error: &Value| {
        let message = error["message"].as_str().unwrap_or_else(|| panic!("no message: {error}"));
        assert!(message.contains(&named) && message.contains("killed by signal 9"), "{message}");
        assert_eq!(error["type"], "server_error", "{error}");
    };
    for request in open_requests {
        let (error, at) = request.join().unwrap();
        assert!(at.duration_since(killed) < LIMIT, "{:?}", at.duration_since(killed));
        check(&error);
    }
    let (code, body, at) = whole.join().unwrap();
    assert!(at.duration_since(killed) < LIMIT, "{:?}", at.duration_since(killed));
    assert_eq!(code, 500, "{body}");
    check(&body["error"]);
    eventually(LIMIT, "no rank process is left", || !ranks.iter().any(|rank| exists(*rank)));

    let (code, health) = server.get("/health");
    assert_eq!((code, health["status"].as_str()), (503, Some("down")), "{health}");
    assert!(health["why"].as_str().unwrap().contains(&named), "{health}");
    let (code, body) = server.post("/v1/completions", &json!({"prompt": "a", "model": "model"}));
    assert_eq!(code, 503, "{body}");
    assert_eq!(body["error"]["code"], "replica_down", "{body}");
    check(&body["error"]);
    stops(server, Signal::TERM);
}

/// Tells one of two ranks to end in the middle of requests: it does, and they hear of it.
pub(crate) fn end_a_rank(placement: &[&str], victim: usize, signal: Signal) {
    let (mut server, _dir) = start(placement);
    let ranks = server.process.ranks();
    let open_requests = busy(server.address);
    kill_process(ranks[victim], signal).unwrap();
    let name = if signal == Signal::TERM { "SIGTERM" } else { "SIGINT" };
    let says = format!("rank {victim} was lost: it was ended by {name}");
    for request in open_requests {
        let (error, _) = request.join().unwrap();
        assert!(error["message"].as_str().is_some_and(|said| said.contains(&says)), "{error}");
    }
    eventually(LIMIT, "no rank process is left", || !ranks.iter().any(|rank| exists(*rank)));
    stops(server, Signal::TERM);
}

/// Stops a rank in the middle of requests: they fail, its process is gone, nothing more is served, and the server itself
/// ends in good order. Gives what the requests heard.
pub(crate) fn stop_a_rank(placement: &[&str], victim: usize, says: &str) -> String {
    let (mut server, _dir) = start(placement);
    let ranks = server.process.ranks();
    let open_requests = busy(server.address);
    kill_process(ranks[victim], Signal::STOP).unwrap();
    let mut said = String::new();
    for request in open_requests {
        let (error, _) = request.join().unwrap();
        said = error["message"].as_str().unwrap_or_else(|| panic!("no message: {error}")).to_owned();
        let has_ended = ["was killed", "was ended"].iter().any(|end| said.contains(end));
        assert!(said.contains(says) && has_ended, "{said}");
    }
    eventually(LIMIT, "no rank process is left", || !ranks.iter().any(|rank| exists(*rank)));
    let (code, health) = server.get("/health");
    assert_eq!((code, health["status"].as_str()), (503, Some("down")), "{health}");
    stops(server, Signal::TERM);
    said
}

/// Kills the server in the middle of requests: all `n_ranks` ranks go with it.
pub(crate) fn kill_the_server(placement: &[&str], n_ranks: usize) {
    let (mut server, _dir) = start(placement);
    let ranks = server.process.ranks();
    assert_eq!(ranks.len(), n_ranks);
    let _open = busy(server.address);
    server.process.signal(Signal::KILL);
    eventually(LIMIT, "no rank process is left", || !ranks.iter().any(|rank| is_alive(*rank)));
}

/// Exit code 0, and no rank is left.
pub(crate) fn stops(mut server: Server, signal: Signal) {
    let ranks = server.process.ranks();
    server.process.signal(signal);
    let status = server.process.wait(PATIENCE / 4);
    assert_eq!(status.code(), Some(0), "{status} {}", server.process.said);
    assert!(!ranks.iter().any(|rank| exists(*rank)), "a rank outlived the server");
}

/// Room for what a server is asked.
pub(crate) const CONTEXT: [&str; 4] = ["--context", "32000", "--kv-tokens", "160000"];

/// A model that is busy long enough.
pub(crate) fn model() -> (PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe { n_layers: 8, hidden: 128, context: 1 << 16, ..Recipe::tiny(Arch::Llama) };
    (gguf(&recipe, dir.path(), "model.gguf"), dir)
}

/// A server of it.
pub(crate) fn start(placement: &[&str]) -> (Server, TempDir) {
    let (model, dir) = model();
    (Server::start(&model, &[placement, &CONTEXT].concat()), dir)
}

type Broken = JoinHandle<(Value, Instant)>;

/// Streams that have all begun. Each gives the error it ends with, and when.
pub(crate) fn busy(address: SocketAddr) -> Vec<Broken> {
    let (begun, wait) = mpsc::channel();
    let streams = (0..N_STREAMS).map(|_| stream(address, begun.clone())).collect();
    (0..N_STREAMS).for_each(|_| wait.recv_timeout(PATIENCE).expect("a stream begins"));
    streams
}

fn stream(address: SocketAddr, begun: Sender<()>) -> Broken {
    thread::spawn(move || {
        let mut reader = open(address, "POST", "/v1/completions", &endless(true).to_string());
        assert_eq!(status(&mut reader), 200);
        let mut n_events = 0;
        for line in reader.lines() {
            let Ok(line) = line else { break };
            let Some(event) = line.strip_prefix("data: ") else { continue };
            let event: Value = serde_json::from_str(event).unwrap_or(Value::Null);
            if let Some(error) = event.get("error") {
                return (error.clone(), Instant::now());
            }
            n_events += 1;
            if n_events == 3 {
                begun.send(()).unwrap();
            }
        }
        (Value::Null, Instant::now())
    })
}

fn whole_request(address: SocketAddr) -> JoinHandle<(u16, Value, Instant)> {
    thread::spawn(move || {
        let (code, body) = exchange(open(address, "POST", "/v1/completions", &endless(false).to_string()));
        (code, body, Instant::now())
    })
}

/// A request that does not end by itself: the tokens that would end it are out of reach.
fn endless(stream: bool) -> Value {
    let out_of_reach: serde_json::Map<_, _> = (506..509).map(|id| (id.to_string(), json!(-100))).collect();
    json!({
        "model": "model", "prompt": "On and on", "max_tokens": N_TOKENS, "temperature": 0, "stream": stream,
        "logit_bias": out_of_reach,
    })
}

fn n_running(server: &Server) -> u32 {
    server.metric("onefold_sequences_running") as u32
}
