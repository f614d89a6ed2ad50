//! The conformance suite over every kind of link, and what only one kind can be made to do.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;

use std::{
    io::Write,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use conformance::{Pair, link_conformance};
use transport::{
    HEADER_BYTES, Link, LinkError, MemoryLink, TcpLink, recv, send,
    shm::{self, TOKEN_BYTES},
};

const LONG: Option<Duration> = Some(Duration::from_secs(60));

fn memory() -> Pair {
    let (a, b) = MemoryLink::pair();
    (Box::new(a), Box::new(b))
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

fn tcp() -> Pair {
    let (a, b) = sockets();
    (Box::new(TcpLink::new(a, "tcp peer b").unwrap()), Box::new(TcpLink::new(b, "tcp peer a").unwrap()))
}

/// By the same way as two processes.
fn shm() -> Pair {
    let (a, b) = sockets();
    let (mut a, mut b) = (TcpLink::new(a, "shm peer b").unwrap(), TcpLink::new(b, "shm peer a").unwrap());
    let patience = Duration::from_secs(60);
    thread::scope(|s| {
        let guest = s.spawn(|| shm::accept(&mut b, patience).unwrap());
        let maker = shm::offer(&mut a, [7; TOKEN_BYTES], &std::env::temp_dir(), patience).unwrap();
        (Box::new(maker) as Box<dyn Link>, Box::new(guest.join().unwrap()) as Box<dyn Link>)
    })
}

link_conformance!(over_memory, memory);
link_conformance!(over_tcp, tcp);
link_conformance!(over_shm, shm);

#[test]
fn a_stranger_on_the_port_is_an_error() {
    let (mut raw, b) = sockets();
    let mut b = TcpLink::new(b, "port 80").unwrap();
    raw.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let e = recv(&mut b, &mut Vec::new(), LONG).unwrap_err();
    assert!(matches!(e, LinkError::Foreign { .. }), "{e}");
}

#[test]
fn a_memory_link_counts_cuts_and_truncates() {
    let (mut a, mut b) = MemoryLink::pair();
    let (control, mut message) = (a.control(), Vec::new());
    send(&mut a, &[5; 100], LONG).unwrap();
    assert_eq!(control.n_bytes_sent(), 100 + HEADER_BYTES as u64);
    control.truncate_after(HEADER_BYTES + 60);
    recv(&mut b, &mut message, LONG).unwrap();
    assert!(send(&mut a, &[6; 100], LONG).is_err());
    assert!(matches!(recv(&mut b, &mut message, LONG), Err(LinkError::Closed { .. })));

    let (mut a, mut b) = MemoryLink::pair();
    send(&mut a, b"in flight", LONG).unwrap();
    b.control().cut();
    assert!(matches!(recv(&mut b, &mut message, LONG), Err(LinkError::Closed { .. })));
    assert!(matches!(send(&mut a, b"too late", LONG), Err(LinkError::Closed { .. })));
}

#[test]
fn a_memory_link_delays() {
    let (mut a, mut b) = MemoryLink::pair();
    let (delay, sent_at) = (Duration::from_millis(20), Instant::now());
    a.control().delay(delay);
    send(&mut a, b"slow", LONG).unwrap();
    recv(&mut b, &mut Vec::new(), LONG).unwrap();
    assert!(sent_at.elapsed() >= delay);
}
