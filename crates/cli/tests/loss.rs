//! Processes that are lost, in every order: open requests hear which one and how, and nothing stays behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{
    io::BufRead,
    net::SocketAddr,
    sync::mpsc::{self, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use common::{PATIENCE, Server, eventually, exchange, exists, gguf, is_alive, open, status};
use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use weights::synthetic::{Arch, Recipe};

/// From a rank's death to the error of every open request, and from the server's death to that of its ranks.
const LIMIT: Duration = Duration::from_secs(2);
const N_STREAMS: usize = 4;
/// Far more than are made before the end.
const N_TOKENS: u32 = 30_000;

#[test]
fn a_killed_first_rank_fails_every_request() {
    kill_a_rank(&["--tp", "2"], 0);
}

#[test]
fn a_killed_second_rank_fails_every_request() {
    kill_a_rank(&["--tp", "2"], 1);
}

#[test]
fn a_killed_last_stage_fails_every_request() {
    kill_a_rank(&["--pp", "2"], 1);
}

fn kill_a_rank(placement: &[&str], victim: usize) {
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

#[test]
fn a_killed_server_takes_its_ranks_along() {
    let (mut server, _dir) = start(&["--tp", "2", "--pp", "2"]);
    let ranks = server.process.ranks();
    assert_eq!(ranks.len(), 4);
    let _open = busy(server.address);
    server.process.signal(Signal::KILL);
    eventually(LIMIT, "no rank process is left", || !ranks.iter().any(|rank| is_alive(*rank)));
}

#[test]
fn an_interrupted_server_ends_in_good_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let (server, _dir) = start(&["--tp", "2"]);
        let _open = busy(server.address);
        stops(server, signal);
    }
}

#[test]
fn an_idle_server_ends_in_good_order() {
    // signalled as soon as it says that it is there
    let (server, _dir) = start(&[]);
    stops(server, Signal::TERM);
}

#[test]
fn a_stopped_rank_does_not_outlive_the_server() {
    let (mut server, _dir) = start(&["--tp", "2"]);
    let ranks = server.process.ranks();
    let _open = busy(server.address);
    kill_process(ranks[1], Signal::STOP).unwrap();
    stops(server, Signal::TERM);
}

/// Exit code 0, and no rank is left.
fn stops(mut server: Server, signal: Signal) {
    let ranks = server.process.ranks();
    server.process.signal(signal);
    let status = server.process.wait(PATIENCE / 4);
    assert_eq!(status.code(), Some(0), "{status} {}", server.process.said);
    assert!(!ranks.iter().any(|rank| exists(*rank)), "a rank outlived the server");
}

/// A server of a model that is busy long enough.
fn start(placement: &[&str]) -> (Server, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe { n_layers: 8, hidden: 128, context: 1 << 16, ..Recipe::tiny(Arch::Llama) };
    let model = gguf(&recipe, dir.path(), "model.gguf");
    let context = ["--context", "32000", "--kv-tokens", "160000"];
    (Server::start(&model, &[placement, &context].concat()), dir)
}

type Broken = JoinHandle<(Value, Instant)>;

/// Streams that have all begun. Each gives the error it ends with, and when.
fn busy(address: SocketAddr) -> Vec<Broken> {
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
    use std::io::Read;
    let mut page = String::new();
    open(server.address, "GET", "/metrics", "").read_to_string(&mut page).unwrap();
    let line = page.lines().find(|line| line.starts_with("onefold_sequences_running ")).unwrap();
    line.split(' ').nth(1).unwrap().parse::<f64>().unwrap() as u32
}
