//! What every link promises, as checks over a pair of connected ends. A new kind of link joins by one line of
//! `link_conformance!`.

use std::{thread, time::Duration};

use transport::{Lane, Link, LinkError, Pending, exchange, recv, send};

pub(crate) type Pair = (Box<dyn Link>, Box<dyn Link>);

/// More than any buffer between two ends holds.
const LARGE: usize = 24 << 20;
const LONG: Option<Duration> = Some(Duration::from_secs(60));
const SHORT: Option<Duration> = Some(Duration::from_millis(30));

fn pattern(n: usize, seed: usize) -> Vec<u8> {
    (0..n).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8 ^ seed as u8).collect()
}

pub(crate) fn messages_keep_their_order_and_lengths((mut a, mut b): Pair) {
    let lengths = [0, 1, 11, 12, 13, 4096, 0, 16_384, 16_385, 65_536, 1_000_003, 2];
    let sender = thread::spawn(move || {
        for (i, &n) in lengths.iter().enumerate() {
            send(a.as_mut(), &pattern(n, i), LONG).unwrap();
        }
        a // stays open until everything was read
    });
    let mut message = Vec::new();
    for (i, &n) in lengths.iter().enumerate() {
        recv(b.as_mut(), &mut message, LONG).unwrap();
        assert_eq!(message, pattern(n, i), "message {i}");
    }
    sender.join().unwrap();
}

pub(crate) fn both_ends_send_more_than_the_buffers_hold((mut a, b): Pair) {
    let side = |link: Box<dyn Link>, seed: usize| {
        let (mut links, out, mut into) = ([link], pattern(LARGE, seed), vec![0; LARGE + 5]);
        let mut lanes = [Lane::new(0, Some(0..LARGE), Some(5..LARGE + 5))];
        exchange(&mut links, &mut lanes, &out, &mut into, LONG).unwrap();
        assert!(into[5..] == pattern(LARGE, 1 - seed), "side {seed} got other bytes");
    };
    a.set_spin(Duration::ZERO);
    thread::scope(|s| {
        s.spawn(move || side(a, 0));
        s.spawn(move || side(b, 1));
    });
}

/// Three ends in a ring of pairs, each starting with another peer: no order of service can be right for all.
pub(crate) fn several_links_move_together(pair: impl Fn() -> Pair) {
    let ((a, b), (c, d), (e, f)) = (pair(), pair(), pair());
    let n = LARGE / 4;
    thread::scope(|s| {
        for (seed, links) in [vec![a, f], vec![c, b], vec![e, d]].into_iter().enumerate() {
            s.spawn(move || {
                let (mut links, out, mut into) = (links, pattern(n, seed), vec![0; 2 * n]);
                let mut lanes = [0, 1].map(|i| Lane::new(i, Some(0..n), Some(i * n..(i + 1) * n)));
                exchange(&mut links, &mut lanes, &out, &mut into, LONG).unwrap();
                assert!(into[..n] == pattern(n, (seed + 1) % 3) && into[n..] == pattern(n, (seed + 2) % 3));
            });
        }
    });
}

pub(crate) fn one_direction_is_enough((a, mut b): Pair) {
    let mut links = [a];
    exchange(&mut links, &mut [Lane::new(0, Some(2..5), None)], b"..abc", &mut [], LONG).unwrap();
    let mut message = Vec::new();
    recv(b.as_mut(), &mut message, LONG).unwrap();
    assert_eq!(message, b"abc");
    send(b.as_mut(), b"", LONG).unwrap();
    exchange(&mut links, &mut [Lane::new(0, None, Some(3..3))], &[], &mut [0; 9], LONG).unwrap();
}

pub(crate) fn silence_ends_at_the_deadline((a, mut b): Pair) {
    for spin in [Duration::ZERO, Duration::from_secs(5)] {
        b.set_spin(spin);
        let e = recv(b.as_mut(), &mut Vec::new(), SHORT).unwrap_err();
        assert!(matches!(e, LinkError::TimedOut { pending: Pending::Message, .. }), "{e}");
        assert!(e.to_string().starts_with(b.peer()), "{e}");
    }
    let mut links = [a];
    let e = exchange(&mut links, &mut [Lane::new(0, None, Some(0..8))], &[], &mut [0; 8], SHORT).unwrap_err();
    assert!(matches!(e.source, LinkError::TimedOut { pending: Pending::Recv(8), .. }), "{e:?}");
    assert_eq!(e.link, 0);
}

pub(crate) fn a_peer_that_does_not_read_ends_at_the_deadline((mut a, _b): Pair) {
    let e = send(a.as_mut(), &vec![0; LARGE], SHORT).unwrap_err();
    assert!(matches!(e, LinkError::TimedOut { pending: Pending::Send(LARGE), .. }), "{e}");
}

/// It takes a part first.
pub(crate) fn a_peer_that_stops_reading_ends_at_the_deadline((mut a, mut b): Pair) {
    let (mut part, mut is_begun, mut n_read) = (vec![0; 1 << 20], false, 0);
    let peer = a.peer().to_owned();
    let timeout = Some(Duration::from_millis(300));
    let sender = thread::spawn(move || send(a.as_mut(), &vec![0; LARGE], timeout).unwrap_err());
    while n_read < LARGE / 8 && !sender.is_finished() {
        is_begun = is_begun || b.poll_len().unwrap().is_some();
        n_read += if is_begun { b.poll_recv(&mut part).unwrap() } else { 0 };
    }
    let e = sender.join().unwrap();
    assert!(matches!(e, LinkError::TimedOut { pending: Pending::Send(LARGE), .. }), "{e}");
    assert!(e.to_string().starts_with(&peer), "{e}");
}

/// It has no deadline and sleeps, for the buffers are full.
pub(crate) fn a_dropped_end_wakes_a_sender((mut a, mut b): Pair) {
    a.set_spin(Duration::ZERO);
    let peer = a.peer().to_owned();
    let sender = thread::spawn(move || send(a.as_mut(), &vec![0; LARGE], None).unwrap_err());
    while b.poll_len().unwrap().is_none() {
        thread::yield_now();
    }
    b.poll_recv(&mut [0; 5000]).unwrap();
    drop(b);
    let e = sender.join().unwrap();
    assert!(matches!(e, LinkError::Closed { .. } | LinkError::Io { .. }), "{e}");
    assert!(e.to_string().starts_with(&peer), "{e}");
}

pub(crate) fn a_closed_link_gives_what_was_sent_and_then_an_error((mut a, mut b): Pair) {
    send(a.as_mut(), b"last words", LONG).unwrap();
    a.close();
    let mut message = Vec::new();
    recv(b.as_mut(), &mut message, LONG).unwrap();
    assert_eq!(message, b"last words");
    let e = recv(b.as_mut(), &mut message, LONG).unwrap_err();
    assert!(matches!(e, LinkError::Closed { pending: Pending::Message, .. }), "{e}");
    assert!(send(a.as_mut(), b"more", LONG).is_err());
}

pub(crate) fn a_dropped_end_wakes_a_sleeper((a, mut b): Pair) {
    b.set_spin(Duration::ZERO);
    let sleeper = thread::spawn(move || recv(b.as_mut(), &mut Vec::new(), None).unwrap_err());
    drop(a);
    let e = sleeper.join().unwrap();
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
}

pub(crate) fn half_a_message_is_an_error((mut a, mut b): Pair) {
    // Larger than the buffers, so that a part goes and the rest never does.
    a.poll_send(&vec![1; LARGE]).unwrap();
    a.close();
    let e = recv(b.as_mut(), &mut Vec::new(), LONG).unwrap_err();
    assert!(matches!(e, LinkError::Closed { pending: Pending::Recv(_), .. }), "{e}");
}

pub(crate) fn another_length_than_due_is_an_error((mut a, b): Pair) {
    send(a.as_mut(), &[0; 12], LONG).unwrap();
    let e = exchange(&mut [b], &mut [Lane::new(0, None, Some(0..8))], &[], &mut [0; 8], LONG).unwrap_err();
    assert!(matches!(e.source, LinkError::Length { expected: 8, found: 12, .. }), "{e:?}");
}

macro_rules! link_conformance {
    ($(#[$attribute:meta])* $kind:ident, $pair:expr) => {
        link_conformance!(@each [$(#[$attribute])*] $kind, $pair,
            messages_keep_their_order_and_lengths,
            both_ends_send_more_than_the_buffers_hold,
            one_direction_is_enough,
            silence_ends_at_the_deadline,
            a_peer_that_does_not_read_ends_at_the_deadline,
            a_peer_that_stops_reading_ends_at_the_deadline,
            a_closed_link_gives_what_was_sent_and_then_an_error,
            a_dropped_end_wakes_a_sleeper,
            a_dropped_end_wakes_a_sender,
            half_a_message_is_an_error,
            another_length_than_due_is_an_error);
    };
    (@each $attributes:tt $kind:ident, $pair:expr, $($check:ident),*) => {
        mod $kind {
            use super::*;
            link_conformance!(@one $attributes several_links_move_together,
                conformance::several_links_move_together($pair));
            $(link_conformance!(@one $attributes $check, conformance::$check($pair()));)*
        }
    };
    (@one [$(#[$attribute:meta])*] $check:ident, $run:expr) => {
        #[test]
        $(#[$attribute])*
        fn $check() {
            $run;
        }
    };
}
pub(crate) use link_conformance;
