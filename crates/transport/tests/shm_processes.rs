//! Links over shared memory between real processes: this program starts itself as the peer, which does as it is told
//! and then ends in one way or another.

#![allow(clippy::unwrap_used)] // a check fails by panicking

use std::{
    env,
    net::{TcpListener, TcpStream},
    process::{self, Child, Command},
    thread,
    time::Duration,
};

use libtest_mimic::{Arguments, Failed, Trial};
use rustix::process::{Pid, Signal, kill_process};
use transport::{
    Link, LinkError, ShmLink, TcpLink, recv, send,
    shm::{self, SHM_RING_BYTES, TOKEN_BYTES},
};

/// Where a peer finds the test.
const ADDRESS: &str = "SHM_TEST_ADDRESS";
const LONG: Option<Duration> = Some(Duration::from_secs(60));

/// Given this end of the link, and the peer that has the other.
type Test = fn(&mut ShmLink, &mut Child);

fn main() {
    if let Ok(address) = env::var(ADDRESS) {
        return be_the_peer(&address);
    }
    let tests: [(&str, Test); 5] = [
        ("sleepers_of_two_processes_wake_each_other", sleepers_wake_each_other),
        ("a_killed_peer_wakes_a_sleeping_reader", a_killed_peer_wakes_a_reader),
        ("a_killed_peer_wakes_a_sleeping_writer", a_killed_peer_wakes_a_writer),
        ("a_peer_that_exits_in_a_message_is_an_error", a_peer_exits_in_a_message),
        ("a_peer_that_exits_leaves_its_last_words", a_peer_leaves_its_last_words),
    ];
    let trial = |(name, test)| Trial::test(name, move || with_peer(test));
    libtest_mimic::run(&Arguments::from_args(), tests.map(trial).into()).exit();
}

fn with_peer(test: Test) -> Result<(), Failed> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut command = Command::new(env::current_exe()?);
    let mut child = command.env(ADDRESS, listener.local_addr()?.to_string()).spawn()?;
    let mut tcp = TcpLink::new(listener.accept()?.0, "the child")?;
    let patience = LONG.unwrap();
    let mut link = shm::offer(&mut tcp, [5; TOKEN_BYTES], &env::temp_dir(), patience)?;
    drop(tcp); // the shared memory is on its own from here
    link.set_spin(Duration::ZERO);
    test(&mut link, &mut child);
    child.kill().ok();
    child.wait()?;
    Ok(())
}

/// Echoes messages, except those that tell it how to end.
fn be_the_peer(address: &str) {
    let mut tcp = TcpLink::new(TcpStream::connect(address).unwrap(), "the test").unwrap();
    let mut link = shm::accept(&mut tcp, LONG.unwrap()).unwrap();
    drop(tcp);
    link.set_spin(Duration::ZERO);
    let mut message = Vec::new();
    while recv(&mut link, &mut message, LONG).is_ok() {
        match message.as_slice() {
            b"exit in a message" => {
                link.poll_send(&vec![1; 4 * SHM_RING_BYTES]).unwrap();
                process::exit(0);
            }
            b"exit" => {
                send(&mut link, b"last words", LONG).unwrap();
                process::exit(0);
            }
            other => send(&mut link, other, LONG).unwrap(),
        }
    }
}

fn sleepers_wake_each_other(link: &mut ShmLink, _: &mut Child) {
    let mut message = Vec::new();
    for n in [0, 1, 64, 8 << 10, SHM_RING_BYTES, 3 * SHM_RING_BYTES + 5].into_iter().cycle().take(300) {
        let sent: Vec<u8> = (0..n).map(|i| (i ^ (i >> 9)) as u8).collect();
        send(link, &sent, LONG).unwrap();
        recv(link, &mut message, LONG).unwrap();
        assert!(message == sent, "{n} bytes");
    }
}

fn a_killed_peer_wakes_a_reader(link: &mut ShmLink, child: &mut Child) {
    let e = while_killing(child, || recv(link, &mut Vec::new(), LONG)).unwrap_err();
    assert!(matches!(&e, LinkError::Closed { peer, .. } if peer == "the child"), "{e}");
    let e = send(link, b"anybody?", LONG).unwrap_err();
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
}

fn a_killed_peer_wakes_a_writer(link: &mut ShmLink, child: &mut Child) {
    kill_process(Pid::from_child(child), Signal::STOP).unwrap(); // it does not read, so the ring fills
    let e = while_killing(child, || send(link, &vec![3; 4 * SHM_RING_BYTES], LONG)).unwrap_err();
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
}

/// Does something that has no end while the peer lives.
fn while_killing<T>(child: &Child, work: impl FnOnce() -> T) -> T {
    let pid = Pid::from_child(child);
    let killer = thread::spawn(move || kill_process(pid, Signal::KILL));
    let done = work();
    killer.join().unwrap().unwrap();
    done
}

fn a_peer_exits_in_a_message(link: &mut ShmLink, _: &mut Child) {
    send(link, b"exit in a message", LONG).unwrap();
    let e = recv(link, &mut Vec::new(), LONG).unwrap_err();
    assert!(matches!(e, LinkError::Closed { pending: transport::Pending::Recv(_), .. }), "{e}");
}

fn a_peer_leaves_its_last_words(link: &mut ShmLink, child: &mut Child) {
    send(link, b"exit", LONG).unwrap();
    child.wait().unwrap(); // it is gone before anything is read
    let mut message = Vec::new();
    recv(link, &mut message, LONG).unwrap();
    assert_eq!(message, b"last words");
    let e = recv(link, &mut message, LONG).unwrap_err();
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
}
