//! Two ends in one process, with a hand on the memory and the sockets between them: what a dishonest peer can do, and
//! whether sleepers are woken.

use std::{
    io::{IoSlice, Write},
    os::unix::net::UnixStream,
    sync::{Arc, atomic::Ordering::SeqCst},
    thread,
    time::Duration,
};

use super::{
    By, Memory, Ring, SHM_RING_BYTES, ShmLink, ShmStream,
    ring::{Name, Shared, Writer},
};
use crate::{Link, LinkError, Pending, recv, send};

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(30));

/// A link to a peer that the test plays itself, with the peer's memory and socket.
struct Played {
    link: ShmLink,
    /// What the peer writes.
    theirs: Ring,
    /// What the peer reads.
    ours: Ring,
    socket: UnixStream,
    memory: Arc<Memory>,
}

fn played() -> Played {
    let (near_memory, file) = Memory::make().unwrap();
    let memory = Memory::open(file).unwrap();
    let (socket, near) = UnixStream::pair().unwrap();
    let mut link = ShmLink::over(ShmStream::new(&near_memory, By::Maker, near).unwrap(), "rank 1");
    link.set_spin(Duration::ZERO);
    Played { link, theirs: memory.ring(By::Guest), ours: memory.ring(By::Maker), socket, memory }
}

fn wait_for(ring: &Ring, flag: Name) {
    while ring.word(flag).load(SeqCst) == 0 {
        thread::yield_now();
    }
}

#[test]
fn damaged_counters_are_an_error_that_names_the_peer() {
    for lie in [SHM_RING_BYTES as u64 + 1, u64::MAX, 1 << 63] {
        let Played { mut link, theirs, socket: _socket, .. } = played();
        theirs.word(Name::Tail).store(lie, SeqCst);
        let e = recv(&mut link, &mut Vec::new(), LONG).unwrap_err();
        let LinkError::Io { peer, source, .. } = &e else { panic!("{e}") };
        assert_eq!(peer, "rank 1");
        let expected = format!("expected at most {SHM_RING_BYTES} bytes inside, found {lie}");
        assert!(source.to_string().contains(&expected), "{e}");
    }
    let Played { mut link, ours, socket: _socket, .. } = played();
    ours.word(Name::Head).store(1, SeqCst); // more than was ever written
    let e = send(&mut link, &vec![0; SHM_RING_BYTES], LONG).unwrap_err();
    assert!(matches!(e, LinkError::Io { pending: Pending::Send(SHM_RING_BYTES), .. }), "{e}");
}

#[test]
fn a_hostile_header_is_an_error() {
    type Case<'a> = (&'a [u8; 12], fn(&LinkError) -> bool);
    let headers: [Case<'_>; 3] = [
        (b"GET / HTTP/1", |e| matches!(e, LinkError::Foreign { found: [b'G', b'E', b'T', b' '], .. })),
        (b"1fln\xff\xff\xff\xff\0\0\0\0", |e| matches!(e, LinkError::TooLong { .. })),
        (b"1fln\x01\0\0\0\x05\0\0\0", |e| matches!(e, LinkError::Sequence { expected: 0, found: 5, .. })),
    ];
    for (header, is_right) in headers {
        let Played { mut link, theirs, socket: _socket, .. } = played();
        Writer::new(theirs).write(&[IoSlice::new(header)], || ()).unwrap();
        let e = recv(&mut link, &mut Vec::new(), LONG).unwrap_err();
        assert!(is_right(&e), "{e}");
    }
}

#[test]
fn our_own_counters_are_not_read_back() {
    let Played { mut link, theirs, ours, socket: _socket, .. } = played();
    let mut peer = Writer::new(theirs);
    for i in 0..3u8 {
        ours.word(Name::Tail).store(u64::MAX / 3, SeqCst);
        peer.write(&[IoSlice::new(&[b'1', b'f', b'l', b'n', 1, 0, 0, 0, i, 0, 0, 0, i])], || ()).unwrap();
        let mut message = Vec::new();
        recv(&mut link, &mut message, LONG).unwrap();
        assert_eq!(message, [i]);
        send(&mut link, &[i], LONG).unwrap();
        assert_eq!(ours.word(Name::Tail).load(SeqCst), 13 * (u64::from(i) + 1));
    }
}

#[test]
fn strokes_of_the_bell_without_end_do_not_outlast_the_deadline() {
    let Played { mut link, socket, .. } = played();
    socket.set_nonblocking(true).unwrap();
    while (&socket).write(&[1; 4096]).is_ok() {}
    let e = recv(&mut link, &mut Vec::new(), SHORT).unwrap_err();
    assert!(matches!(e, LinkError::TimedOut { .. }), "{e}");
}

#[test]
fn a_peer_that_always_sleeps_and_never_listens_holds_nobody_up() {
    let Played { mut link, ours, socket: _socket, .. } = played();
    // more strokes than the socket holds
    for _ in 0..10_000 {
        ours.word(Name::ReaderSleeps).store(1, SeqCst);
        send(&mut link, b"", LONG).unwrap();
    }
}

#[test]
fn sleepers_on_both_sides_are_woken() {
    let Played { mut link, theirs, ours, socket, memory } = played();
    let (wakes_reader, wakes_writer) = (vec![3; 7], vec![4; 3 * SHM_RING_BYTES]);
    thread::scope(|s| {
        let near = s.spawn(|| {
            let mut message = Vec::new();
            recv(&mut link, &mut message, LONG).unwrap();
            assert_eq!(message, wakes_reader);
            send(&mut link, &wakes_writer, LONG).unwrap();
        });
        wait_for(&theirs, Name::ReaderSleeps);
        let far_stream = ShmStream::new(&memory, By::Guest, socket).unwrap();
        let mut far = ShmLink::over(far_stream, "rank 0");
        send(&mut far, &wakes_reader, LONG).unwrap();
        wait_for(&ours, Name::WriterSleeps);
        let mut message = Vec::new();
        recv(&mut far, &mut message, LONG).unwrap();
        assert!(message == wakes_writer);
        near.join().unwrap();
    });
}
