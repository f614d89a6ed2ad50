//! Whole replicas, as people start them: however a model is shared out the answer is the same, on this machine and with
//! ranks that join from elsewhere, and strangers at the door change nothing.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{io::Write, net::TcpStream, time::Duration};

use common::{PATIENCE, Running, SECRET, Server, Waiting, gguf, other_host, rank, uneven};

const PROMPT: &str = "The ranks share every layer";
const N_TOKENS: u32 = 48;

#[test]
fn every_placement_gives_the_same_answer() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let answer = |args: &[&str]| Server::start(&model, args).complete(PROMPT, N_TOKENS);
    let alone = answer(&[]);
    assert!(alone.chars().count() > N_TOKENS as usize / 4, "{alone:?}");
    for args in [
        "--tp 2",
        "--tp 3",
        "--tp 2 --split 1,2",
        "--tp 2 --split 5,1",
        "--pp 2",
        "--pp 4",
        "--pp 2 --stage-split 3,1",
        "--tp 2 --pp 2",
        "--tp 2 --pp 2 --split 1,2 --stage-split 1,3",
    ] {
        let shared = answer(&args.split(' ').collect::<Vec<_>>());
        assert_eq!(shared, alone, "{args}");
    }
}

#[test]
fn a_rank_joins_by_hand_past_strangers() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let copy = gguf(&uneven(), dir.path(), "copy.gguf");
    let (secret, wrong) = (dir.path().join("secret"), dir.path().join("wrong"));
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::write(&wrong, SECRET.to_uppercase()).unwrap();
    let alone = Server::start(&model, &[]).complete(PROMPT, N_TOKENS);

    let Waiting { mut process, door } = Waiting::start(&model, &["--tp", "2"], other_host(), &secret);

    let silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(door).unwrap()).collect();
    for garbage in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 4096], b"1fwr", &[]] {
        // may be hung up on in the middle
        let _ = TcpStream::connect(door).unwrap().write_all(garbage);
    }
    (0..4).for_each(|_| drop(process.wait_for("turned away a connection")));
    assert!(process.said.contains("expected magic"), "{}", process.said);

    let mut stranger = Running::start(&mut rank(door, 1, &wrong, &copy));
    assert_eq!(stranger.wait(PATIENCE).code(), Some(1));
    assert!(stranger.said.contains("does not know the replica's secret\nhint:"), "{}", stranger.said);
    process.wait_for("it hung up before it proved that it knows the secret");

    let mut unexpected = Running::start(&mut rank(door, 7, &secret, &copy));
    assert_eq!(unexpected.wait(PATIENCE).code(), Some(1));
    assert!(unexpected.said.contains("did not expect rank 7\nhint:"), "{}", unexpected.said);
    process.wait_for("turned away rank 7");

    let mut remote = Running::start(&mut rank(door, 1, &secret, &copy));
    let server = Server::ready(process);
    assert_eq!(server.complete(PROMPT, N_TOKENS), alone);
    drop(silent);
    drop(server);
    // it may hear first that the serving process or that the other rank is gone, and ends either way
    remote.wait(Duration::from_secs(2));
}

#[test]
fn a_remote_rank_with_another_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let other = gguf(&weights::synthetic::Recipe { n_layers: 3, ..uneven() }, dir.path(), "other.gguf");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();

    let Waiting { mut process, door } = Waiting::start(&model, &["--pp", "2"], "127.0.0.1:0", &secret);
    let mut remote = Running::start(&mut rank(door, 1, &secret, &other));
    for running in [&mut process, &mut remote] {
        assert_eq!(running.wait(PATIENCE).code(), Some(1));
        assert!(running.said.contains("other.gguf: the plan was made for another model"), "{}", running.said);
    }
    assert!(process.said.contains("error: rank 1:"), "{}", process.said);
}
