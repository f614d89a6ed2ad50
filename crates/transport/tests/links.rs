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
    HEADER_BYTES, Link, LinkError, Medium, MemoryLink, Pending, TcpLink, recv, send,
    shm::{self, TOKEN_BYTES},
};

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(30));

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

/// The suite over memory as if it were another link.
macro_rules! over_media {
    ($($kind:ident: $medium:ident,)*) => {$(
        fn $kind() -> Pair {
            let (a, b) = MemoryLink::pair_over(Medium::$medium, 1);
            (Box::new(a), Box::new(b))
        }
        link_conformance!($kind, $kind);
    )*};
}
over_media! {
    as_tb5_rdma: TB5_RDMA,
    as_tb5_ip: TB5_IP,
    as_tb4_ip: TB4_IP,
    as_10g_hub: HUB_10G,
    as_1g_ethernet: ETHERNET_1G,
    as_wifi: WIFI,
}

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
    assert_eq!((control.n_bytes_sent(), control.n_messages_sent()), (100 + HEADER_BYTES as u64, 1));
    assert_eq!(b.control().n_messages_sent(), 0);
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

/// Numbered messages of several sizes, until something is wrong with them.
fn arrived(meddle: impl FnOnce(&MemoryLink)) -> (u32, LinkError) {
    let (mut a, mut b) = MemoryLink::pair();
    meddle(&a);
    for i in 0..100_u32 {
        let body = [&i.to_le_bytes()[..], &vec![9; i as usize % 7]].concat();
        send(&mut a, &body, LONG).unwrap();
    }
    assert_eq!(a.control().n_messages_sent(), 100);
    a.close();
    let mut message = Vec::new();
    for i in 0_u32.. {
        match recv(&mut b, &mut message, LONG) {
            Ok(()) => assert_eq!(message[..4], i.to_le_bytes(), "a message out of its order"),
            Err(e) => return (i, e),
        }
    }
    unreachable!()
}

#[test]
fn lost_and_overtaken_messages_are_errors_and_follow_from_the_seed() {
    for seed in 0..5 {
        let (n_lossy, e) = arrived(|link| link.control().lose(0.05, seed));
        assert!(matches!(e, LinkError::Sequence { expected, found, .. } if expected < found), "{e}");
        assert!(e.to_string().starts_with("memory peer a is out of step"), "{e}");
        assert_eq!(arrived(|link| link.control().lose(0.05, seed)).0, n_lossy);
        let (_, e) = arrived(|link| link.control().reorder(0.05, seed));
        assert!(matches!(e, LinkError::Sequence { .. }), "{e}");
    }
    let (n, e) = arrived(|_| ());
    assert!(n == 100 && matches!(e, LinkError::Closed { pending: Pending::Message, .. }), "{n}: {e}");
}

/// Nothing tells of a cable that was pulled: only the deadline does. What was sent arrives when it is back.
#[test]
fn a_held_memory_link_is_half_open_and_comes_back() {
    let (mut a, mut b) = MemoryLink::pair();
    let mut message = Vec::new();
    for i in 0..5_u8 {
        a.control().hold(true);
        send(&mut a, &[i], LONG).unwrap();
        send(&mut b, &[i], LONG).unwrap(); // the other direction is whole
        recv(&mut a, &mut message, LONG).unwrap();
        let e = recv(&mut b, &mut message, SHORT).unwrap_err();
        assert!(matches!(e, LinkError::TimedOut { pending: Pending::Message, .. }), "{e}");
        a.control().hold(false);
        recv(&mut b, &mut message, LONG).unwrap();
        assert_eq!(message, [i]);
    }
    a.control().hold(true);
    let e = send(&mut a, &vec![0; 1 << 20], SHORT).unwrap_err();
    assert!(matches!(e, LinkError::TimedOut { pending: Pending::Send(_), .. }), "{e}");
}
