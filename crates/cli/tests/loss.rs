//! Processes that are lost, in every order: open requests hear which one and how, and nothing stays behind.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use common::busy::{busy, end_a_rank, kill_a_rank, kill_the_server, start, stop_a_rank, stops};
use rustix::process::{Signal, kill_process};

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

#[test]
fn ranks_end_when_they_are_told_to() {
    end_a_rank(&["--tp", "2"], 0, Signal::TERM);
    end_a_rank(&["--tp", "2"], 1, Signal::INT);
    end_a_rank(&["--pp", "2"], 1, Signal::TERM);
}

#[test]
fn a_killed_server_takes_its_ranks_along() {
    kill_the_server(&["--tp", "2", "--pp", "2"], 4);
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

#[test]
fn a_stopped_rank_is_found_by_its_silence() {
    let said = stop_a_rank(&["--tp", "2"], 1, "rank 1 was lost: expected a sign of life");
    assert!(said.contains("was killed") && !said.contains("hint:"), "{said}");
}

#[test]
fn a_stopped_first_rank_is_found_by_its_silence() {
    stop_a_rank(&["--tp", "2"], 0, "rank 0 was lost: expected a sign of life");
}

#[test]
fn a_step_without_end_is_found_by_its_deadline() {
    // rank 0 waits for the other in the middle of a step, and lives
    let overdue = "rank 0 was lost: expected its step";
    let said = stop_a_rank(&["--tp", "2", "--step-deadline", "2"], 1, overdue);
    // it waits for the other, and can end in good order
    assert!(said.contains("was ended"), "{said}");
    assert!(said.contains("to end within 2.0 s, found rank 0 in it for"), "{said}");
    assert!(said.contains("hint: --step-deadline"), "{said}");
}
