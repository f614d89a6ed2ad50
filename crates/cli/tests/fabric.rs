//! `onefold fabric` as people type it: two processes that measure the link between them, strangers, and peers that are not
//! there or go away.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use common::{PATIENCE, Running, SECRET, onefold};
use rustix::process::Signal;
use serde_json::Value;

const SIZES: [u64; 7] = [64, 512, 4096, 8192, 65_536, 1 << 20, 16 << 20];

fn secret(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join(format!("secret-{}", text.len()));
    std::fs::write(&path, text).unwrap();
    path
}

/// `onefold fabric listen`, and where.
fn listen(secret: &Path) -> (Running, SocketAddr) {
    let mut command = onefold();
    command.args(["fabric", "listen", "127.0.0.1:0", "--secret-file"]).arg(secret);
    let mut process = Running::start(&mut command);
    let line = process.wait_for("listening on");
    let address = line.rsplit(' ').next().unwrap().parse().unwrap();
    (process, address)
}

fn bench(peer: &str, secret: &Path, args: &[&str]) -> Command {
    let mut command = onefold();
    command.args(["fabric", "bench", peer, "--secret-file"]).arg(secret).args(args);
    command
}

fn json(command: Command) -> Value {
    let output = assert_cmd::Command::from_std(command).assert().success().get_output().clone();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A command that fails, and says all of these.
fn fails(command: Command, says: &[&str]) {
    let output = assert_cmd::Command::from_std(command).assert().code(1).get_output().clone();
    let stderr = String::from_utf8(output.stderr).unwrap();
    for text in says {
        assert!(stderr.contains(text), "expected {text:?} in\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn check_rows(bench: &Value) {
    let rows = bench["rows"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["bytes"].as_u64().unwrap()).collect::<Vec<_>>(), SIZES, "{bench}");
    for row in rows {
        for number in ["latency_us_p50", "latency_us_p99", "there_gb_s", "back_gb_s", "both_gb_s"] {
            assert!(row[number].as_f64().unwrap() > 0.0, "{number} in {row}");
        }
    }
}

#[test]
fn two_processes_measure_the_link_between_them_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret(dir.path(), SECRET);
    let (mut listening, address) = listen(&secret);
    let report = json(bench(&address.to_string(), &secret, &["--quick", "--json"]));
    let [bench_there] = &report.as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!(bench_there["peer"], address.to_string());
    assert!(bench_there["link"].as_str().unwrap().starts_with("tcp over loopback"), "{report}");
    assert!(bench_there["no_verbs"].as_str().is_some(), "{report}");
    assert!(bench_there["rows"][0]["floor_us_p50"].as_f64().unwrap() > 0.0, "{report}");
    check_rows(bench_there);
    listening.wait_for("measured over tcp");

    let mut again = assert_cmd::Command::from_std(bench(&address.to_string(), &secret, &["--quick"]));
    let output = again.assert().success().get_output().clone();
    let table = String::from_utf8(output.stdout).unwrap();
    for text in ["64 B", "16 MiB", "one way us p50", "half of a round trip", "no verbs:"] {
        assert!(table.contains(text), "expected {text:?} in\n{table}");
    }
}

#[test]
fn a_machine_measures_itself() {
    let mut command = onefold();
    command.args(["fabric", "bench", "--quick", "--json"]);
    let report = json(command);
    let links: Vec<_> =
        report.as_array().unwrap().iter().map(|bench| bench["link"].as_str().unwrap()).collect();
    assert_eq!(links, ["shared memory", "tcp over loopback"]);
    report.as_array().unwrap().iter().for_each(check_rows);
    assert!(report[0]["rows"][0]["floor_us_p50"].is_null() && report[1]["rows"][0]["floor_us_p50"].is_f64());
}

#[test]
fn strangers_are_refused_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) =
        (secret(dir.path(), SECRET), secret(dir.path(), &SECRET.repeat(2).replace('\n', "")));
    let (mut listening, address) = listen(&ours);
    let address = address.to_string();
    fails(bench(&address, &theirs, &["--quick"]), &[&address, "does not know the replica's secret", "hint:"]);
    listening.wait_for("turned away");
    json(bench(&address, &ours, &["--quick", "--json"]));
}

#[test]
fn a_peer_that_is_killed_in_the_middle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret(dir.path(), SECRET);
    let (mut listening, address) = listen(&secret);
    let mut measuring = Running::start(&mut bench(&address.to_string(), &secret, &[]));
    measuring.wait_for("512 bytes");
    listening.signal(Signal::KILL);
    assert_eq!(measuring.wait(PATIENCE).code(), Some(1));
    let said = &measuring.said;
    assert!(said.contains(&format!("error: {address}")) && said.contains("hint:"), "{said}");
    listening.wait(PATIENCE);
}

#[test]
fn an_asking_end_that_is_killed_leaves_the_other_one_listening() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret(dir.path(), SECRET);
    let (mut listening, address) = listen(&secret);
    let mut measuring = Running::start(&mut bench(&address.to_string(), &secret, &[]));
    measuring.wait_for("512 bytes");
    measuring.signal(Signal::KILL);
    let line = listening.wait_for("warning: 127.0.0.1");
    assert!(line.contains("closed the link") || line.contains("failed"), "{line}");
    json(bench(&address.to_string(), &secret, &["--quick", "--json"]));
}

#[test]
fn a_peer_that_is_not_there_or_no_peer_has_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let secret = secret(dir.path(), SECRET);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(
        bench(&nobody, &secret, &[]),
        &[&nobody, "cannot reach", "hint: start `onefold fabric listen` there"],
    );
    fails(bench("no port", &secret, &[]), &["cannot find no port", "hint: write it as HOST:PORT"]);

    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let web_server = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut stream = other.accept().unwrap().0;
        let _ = stream.read(&mut [0; 64]);
        let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    });
    fails(bench(&address, &secret, &[]), &[&address, "handshake failed", "hint:"]);
    web_server.join().unwrap();
}

#[test]
fn links_are_listed_with_what_limits_them() {
    let mut command = onefold();
    command.args(["fabric", "links", "--json"]);
    let links = json(command);
    let loopback = links.as_array().unwrap().iter().find(|link| link["kind"] == "loopback").unwrap();
    assert!(loopback["addresses"].as_array().unwrap().contains(&"127.0.0.1".into()), "{links}");
    assert_eq!(loopback["findings"].as_array().unwrap().len(), 0);
    let mut command = assert_cmd::Command::from_std(onefold());
    let table = command.args(["fabric", "links"]).assert().success().get_output().stdout.clone();
    assert!(String::from_utf8(table).unwrap().contains("what limits it"));
}
