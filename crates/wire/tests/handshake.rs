//! Both ends learn who the other is, or nothing.
#![allow(clippy::unwrap_used)] // a check fails by panicking

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use base::RankId;
use proptest::prelude::*;
use wire::{
    WIRE_VERSION, WireError,
    handshake::{
        Challenge, HANDSHAKE_TIMEOUT_MS, HandshakeError, Hello, Party, Role, Secret, Timed, accept, connect,
        prove, verify,
    },
    read_frame, write_frame,
};

const TIMEOUT: Duration = Duration::from_millis(HANDSHAKE_TIMEOUT_MS);
const RANK: Party = Party::Rank(RankId(3));

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

type Ends = (Result<Party, HandshakeError>, Result<Party, HandshakeError>);

fn shake(connector: Secret, acceptor: Secret) -> Ends {
    let (here, there) = sockets();
    let caller = thread::spawn(move || connect(&mut Timed::new(&here, TIMEOUT), &connector, RANK, [1; 32]));
    let accepted = accept(&mut Timed::new(&there, TIMEOUT), &acceptor, Party::Node, [2; 32]);
    drop(there);
    (caller.join().unwrap(), accepted)
}

#[test]
fn both_ends_know_each_other_and_the_stream_is_clean() {
    let secret = Secret::new([7; 32]);
    let (connected, accepted) = shake(secret.clone(), secret.clone());
    assert_eq!((connected.unwrap(), accepted.unwrap()), (Party::Node, RANK));

    let (mut here, mut there) = sockets();
    let their_secret = secret.clone();
    let caller = thread::spawn(move || {
        connect(&mut Timed::new(&here, TIMEOUT), &their_secret, RANK, [1; 32]).unwrap();
        here.write_all(b"next").unwrap();
    });
    accept(&mut Timed::new(&there, TIMEOUT), &secret, Party::Node, [2; 32]).unwrap();
    let mut next = Vec::new();
    there.read_to_end(&mut next).unwrap();
    assert_eq!(next, b"next");
    assert_eq!(there.read_timeout().unwrap(), None);
    caller.join().unwrap();
}

#[test]
fn another_secret_is_refused() {
    let (connected, accepted) = shake(Secret::new([7; 32]), Secret::new([8; 32]));
    let e = connected.unwrap_err();
    assert!(matches!(e, HandshakeError::Refused { claimed: Party::Node }), "{e}");
    assert!(accepted.is_err());
}

#[test]
fn a_caller_without_the_secret_is_refused() {
    let (mut here, there) = sockets();
    let stranger = thread::spawn(move || {
        write_frame(&mut here, &Hello { party: RANK, nonce: [0; 32] }).unwrap();
        let acceptor: Hello = read_frame(&mut here).unwrap();
        let theirs: wire::handshake::Proof = read_frame(&mut here).unwrap();
        // Its best guess is to hand back what it was given.
        let _ = acceptor;
        write_frame(&mut here, &theirs).unwrap();
    });
    let secret = Secret::new([7; 32]);
    let e = accept(&mut Timed::new(&there, TIMEOUT), &secret, Party::Node, [2; 32]).unwrap_err();
    assert!(matches!(e, HandshakeError::Refused { claimed: RANK }), "{e}");
    assert!(e.to_string().contains("rank 3"), "{e}");
    stranger.join().unwrap();
}

#[test]
fn a_stranger_gets_nothing() {
    let (mut here, there) = sockets();
    here.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let secret = Secret::new([7; 32]);
    let e = accept(&mut Timed::new(&there, TIMEOUT), &secret, Party::Node, [2; 32]).unwrap_err();
    assert!(matches!(e, HandshakeError::Wire(WireError::Foreign { .. })), "{e}");
    drop(there);
    let mut answer = Vec::new();
    let _ = here.read_to_end(&mut answer);
    assert!(answer.is_empty());
}

/// Whichever end is the newer one, both say which versions met.
#[test]
fn a_peer_of_another_version_is_refused() {
    let other = WIRE_VERSION + 1;
    let hello = [b"1fwr", &other.to_le_bytes()[..], &[5, 0, 37, 0, 0, 0], &[0; 37]].concat();
    let secret = Secret::new([7; 32]);
    let is_named = |e: HandshakeError| {
        let versions = matches!(e, HandshakeError::Wire(WireError::Version { ours: WIRE_VERSION, theirs }) if theirs == other);
        assert!(versions && e.to_string().contains(&other.to_string()), "{e}");
    };
    for accepts in [true, false] {
        let (mut here, there) = sockets();
        here.write_all(&hello).unwrap();
        let mut there = Timed::new(&there, TIMEOUT);
        is_named(match accepts {
            true => accept(&mut there, &secret, Party::Node, [2; 32]).unwrap_err(),
            false => connect(&mut there, &secret, RANK, [2; 32]).unwrap_err(),
        });
    }
}

/// One byte now and then does not stretch the deadline.
#[test]
fn a_slow_stranger_runs_out_of_time() {
    let (mut here, there) = sockets();
    let slow = thread::spawn(move || {
        for byte in *b"1fwr\x01\0\x05\0" {
            thread::sleep(Duration::from_millis(10));
            if here.write_all(&[byte]).is_err() {
                break;
            }
        }
        here
    });
    let timeout = Duration::from_millis(40);
    let e =
        accept(&mut Timed::new(&there, timeout), &Secret::new([7; 32]), Party::Node, [2; 32]).unwrap_err();
    let HandshakeError::Wire(WireError::Io(e)) = e else { panic!("{e}") };
    assert_eq!(e.kind(), std::io::ErrorKind::TimedOut);
    slow.join().unwrap();
}

proptest! {
    /// A proof holds for its secret, role, parties and nonces, and for no others.
    #[test]
    fn a_proof_holds_for_one_challenge(nonces: [[u8; 32]; 2], key: [u8; 32], rank: u32, byte in 0..32usize, bit in 0..8u32) {
        let (secret, party) = (Secret::new(key), Party::Rank(RankId(rank)));
        let challenge = Challenge {
            connector: Hello { party, nonce: nonces[0] },
            acceptor: Hello { party: Party::Node, nonce: nonces[1] },
        };
        let proof = prove(&secret, Role::Connector, &challenge);
        prop_assert!(verify(&secret, Role::Connector, &challenge, &proof));
        prop_assert!(!verify(&secret, Role::Acceptor, &challenge, &proof));
        let flip = |mut bytes: [u8; 32]| {
            bytes[byte] ^= 1 << bit;
            bytes
        };
        prop_assert!(!verify(&Secret::new(flip(key)), Role::Connector, &challenge, &proof));
        let mut other = challenge;
        other.acceptor.nonce = flip(nonces[1]);
        prop_assert!(!verify(&secret, Role::Connector, &other, &proof));
        other = challenge;
        other.connector.party = Party::Rank(RankId(rank ^ (1 << bit)));
        prop_assert!(!verify(&secret, Role::Connector, &other, &proof));
    }
}

#[test]
fn a_secret_is_not_printed() {
    assert_eq!(format!("{:?}", Secret::new([7; 32])), "Secret(..)");
}
