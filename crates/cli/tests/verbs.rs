//! Replicas whose ranks are linked by RDMA verbs: the tokens are those of every other link, lost and leaving ranks are named in
//! bounded time, and devices hold nothing afterwards. It needs devices that are joined by a cable, as `cargo xtask rdma-guest`
//! makes them: rxea1 at 10.80.1.1 and rxeb1 at 10.80.1.2, and streams between these two that leave from either.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use common::{PATIENCE, Running, SECRET, Server, Waiting, busy, eventually, gguf, rank, uneven};
use rustix::process::Signal;

const PROMPT: &str = "The ranks share every layer";
const N_TOKENS: u32 = 32;
/// One end of the cable.
const LISTEN: &str = "10.80.1.1:0";
/// From a rank's end to the error of every open request, on a machine that is emulated; waiting for a deadline takes a minute.
const LIMIT: Duration = Duration::from_secs(15);

/// A server with rank 0 at one end of the cable, and rank 1 at the other, started by hand.
fn linked(model: &Path, args: &[&str]) -> (Server, Running) {
    let secret = model.with_file_name("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let args = [&["--tp", "2"], args].concat();
    let Waiting { mut process, door } = Waiting::start(model, &args, LISTEN, &secret);
    let mut remote = Running::start(&mut rank(door, 1, &secret, model));
    for _ in 0..2 {
        let line = process.wait_for(" is ready: ");
        let is_over = |me, peer, device| {
            line.starts_with(&format!("rank {me} "))
                && line.ends_with(&format!(", to rank {peer} over verbs {device}"))
        };
        assert!(is_over(0, 1, "rxeb1") || is_over(1, 0, "rxea1"), "{line}\n{}", process.said);
    }
    assert!(!process.said.contains("warning: "), "{}", process.said);
    let server = Server::ready(process);
    assert!(remote.is_running());
    (server, remote)
}

/// What the kernel counts of every device's domains, queues, queue pairs and regions.
fn held() -> String {
    let output = Command::new("rdma").args(["resource", "show"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn nothing_is_held(before: &str) {
    eventually(PATIENCE, "the devices hold what they held before", || held() == before);
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn the_answer_over_verbs_is_the_one_over_every_other_link() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let near = Server::start(&model, &["--tp", "2"]);
    assert!(near.process.said.contains("over shm"), "{}", near.process.said);
    let expected = near.complete(PROMPT, N_TOKENS);
    drop(near);

    let before = held();
    let (server, mut remote) = linked(&model, &[]);
    assert_ne!(held(), before);
    assert_eq!(server.complete(PROMPT, N_TOKENS), expected);
    busy::stops(server, Signal::TERM);
    assert_eq!(remote.wait(LIMIT).code(), Some(0), "{}", remote.said);
    nothing_is_held(&before);
}

/// Ends rank 1 by a signal in the middle of requests; what these say.
fn lose_a_rank(signal: Signal) -> (Running, String) {
    let before = held();
    let (model, _dir) = busy::model();
    let (server, mut remote) = linked(&model, &busy::CONTEXT);
    let open_requests = busy::busy(server.address);
    remote.signal(signal);
    let lost = Instant::now();
    let mut said = String::new();
    for request in open_requests {
        let (error, at) = request.join().unwrap();
        assert!(at.duration_since(lost) < LIMIT, "{:?}: {error}", at.duration_since(lost));
        said = error["message"].as_str().unwrap_or_else(|| panic!("no message: {error}")).to_owned();
        assert!(said.contains("rank 1 was lost: "), "{said}");
    }
    remote.wait(LIMIT);
    busy::stops(server, Signal::TERM);
    nothing_is_held(&before);
    (remote, said)
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_killed_rank_is_named() {
    let (_, said) = lose_a_rank(Signal::KILL);
    assert!(said.contains("its connection was closed"), "{said}");
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_rank_that_is_told_to_end_gives_everything_back() {
    let (mut remote, said) = lose_a_rank(Signal::TERM);
    assert!(said.contains("it was ended by SIGTERM"), "{said}");
    assert_eq!(remote.wait(LIMIT).code(), Some(0), "{}", remote.said);
}
