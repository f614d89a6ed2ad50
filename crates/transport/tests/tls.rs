//! Links over TLS: the conformance suite, and everything that must not become a link.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod certificates;
mod conformance;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use certificates::{Cluster, PATIENCE, name, pair, sockets};
use conformance::{Pair, link_conformance};
use rustls::{
    ClientConfig, ServerConfig, ServerConnection,
    version::{TLS12, TLS13},
};
use transport::{
    LinkError, TcpLink, TlsLink, recv, send,
    tls::{self, TlsError},
};

const LONG: Option<Duration> = Some(PATIENCE);
const SHORT: Duration = Duration::from_millis(50);

fn tls() -> Pair {
    let (a, b) = pair().unwrap();
    (Box::new(a), Box::new(b))
}

link_conformance!(over_tls, tls);

/// What became of both ends' handshake: the calling end's, the accepting end's.
fn shake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    server_name: &'static str,
) -> (Result<TlsLink, TlsError>, Result<TlsLink, TlsError>) {
    let (a, b) = sockets().unwrap();
    let accepting = thread::spawn(move || tls::accept(b, "caller", server, PATIENCE));
    let called = tls::connect(a, "called", client, name(server_name), PATIENCE);
    (called, accepting.join().unwrap())
}

fn errors(
    (a, b): (Result<TlsLink, TlsError>, Result<TlsLink, TlsError>),
) -> ((TlsError, String), (TlsError, String)) {
    let (a, b) = (a.err().unwrap(), b.err().unwrap());
    let words = (a.to_string(), b.to_string());
    assert!(words.0.starts_with("called") && words.1.starts_with("caller"), "{words:?}");
    ((a, words.0), (b, words.1))
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let (to_b, to_a) = shake(cluster.client(&a).unwrap(), cluster.server(&b).unwrap(), "node-b");
    assert_eq!(to_b.unwrap().peer_certificate(), b.certificate.as_ref());
    assert_eq!(to_a.unwrap().peer_certificate(), a.certificate.as_ref());
}

#[test]
fn a_caller_of_another_cluster_is_refused_and_knows_why() {
    let (ours, theirs) = (Cluster::new().unwrap(), Cluster::new().unwrap());
    let (stranger, me) = (theirs.identity("node-a").unwrap(), ours.identity("node-b").unwrap());
    let ended = shake(ours.client(&stranger).unwrap(), ours.server(&me).unwrap(), "node-b");
    let ((a, words), (b, _)) = errors(ended);
    assert!(matches!(a, TlsError::Refused { .. }) && words.contains("refuses our certificate"), "{words}");
    assert!(matches!(b, TlsError::Certificate { .. }), "{b}");
}

#[test]
fn a_called_end_of_another_cluster_is_refused_and_knows_why() {
    let (ours, theirs) = (Cluster::new().unwrap(), Cluster::new().unwrap());
    let (me, stranger) = (ours.identity("node-a").unwrap(), theirs.identity("node-b").unwrap());
    let ((a, _), (b, words)) =
        errors(shake(ours.client(&me).unwrap(), theirs.server(&stranger).unwrap(), "node-b"));
    assert!(matches!(a, TlsError::Certificate { .. }), "{a}");
    assert!(matches!(b, TlsError::Refused { .. }) && words.contains("refuses our certificate"), "{words}");
}

#[test]
fn another_name_than_the_one_called_is_refused() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let ((a, words), _) = errors(shake(cluster.client(&a).unwrap(), cluster.server(&b).unwrap(), "node-c"));
    assert!(matches!(a, TlsError::Certificate { .. }) && words.contains("node-c"), "{words}");
}

#[test]
fn an_end_without_a_certificate_is_refused() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let anonymous = cluster.client_of(&[&TLS13]).unwrap().with_no_client_auth();
    let ((a_end, _), (b_end, _)) = errors(shake(anonymous.into(), cluster.server(&b).unwrap(), "node-b"));
    assert!(matches!(a_end, TlsError::Refused { .. }), "{a_end}");
    assert!(matches!(b_end, TlsError::Anonymous { .. }), "{b_end}");

    // whoever forgets to ask for certificates gets no link either
    let careless = cluster.careless_server(&b).unwrap();
    let ((a_end, _), (b_end, _)) = errors(shake(cluster.client(&a).unwrap(), careless, "node-b"));
    assert!(matches!(a_end, TlsError::Closed { .. }), "{a_end}");
    assert!(matches!(b_end, TlsError::Anonymous { .. }), "{b_end}");
}

#[test]
fn an_older_version_is_named_at_both_ends() {
    let cluster = Cluster::new().unwrap();
    let b = cluster.identity("node-b").unwrap();
    let old = || cluster.client_of(&[&TLS12]).unwrap().with_no_client_auth().into();
    for server in [cluster.server(&b).unwrap(), cluster.careless_server(&b).unwrap()] {
        let ((a, words), (b, _)) = errors(shake(old(), server, "node-b"));
        assert!(matches!(a, TlsError::Version { .. }) && words.contains("expected TLS 1.3"), "{words}");
        assert!(matches!(b, TlsError::Version { .. }), "{b}");
    }
}

#[test]
fn plain_text_is_shown() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let (mut plain, called) = sockets().unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let e = tls::accept(called, "caller", cluster.server(&b).unwrap(), PATIENCE).err().unwrap();
    assert!(matches!(&e, TlsError::PlainText { found, .. } if found == "GET / HTTP/1.1\\r\\n"), "{e}");

    let (calling, mut plain) = sockets().unwrap();
    plain.write_all(b"220 mail.example\r\n").unwrap();
    let e = tls::connect(calling, "called", cluster.client(&a).unwrap(), name("node-b"), PATIENCE);
    let e = e.err().unwrap().to_string();
    assert!(e.contains("called: expected TLS, found plain text \"220 mail") && e.contains("hint:"), "{e}");

    // and a link without TLS at one end is an error at the other
    let (calling, called) = sockets().unwrap();
    let mut plain = TcpLink::new(calling, "called").unwrap();
    send(&mut plain, b"hello", LONG).unwrap();
    let e = tls::accept(called, "caller", cluster.server(&b).unwrap(), PATIENCE).err().unwrap();
    assert!(matches!(e, TlsError::PlainText { .. }), "{e}");
    let e = recv(&mut plain, &mut Vec::new(), LONG).unwrap_err();
    assert!(matches!(e, LinkError::Foreign { .. } | LinkError::Closed { .. } | LinkError::Io { .. }), "{e}");
}

#[test]
fn silence_and_half_a_greeting_end_at_the_deadline() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    for said in [&[][..], &[22, 3, 1, 2, 0, 1]] {
        let (mut silent, called) = sockets().unwrap();
        silent.write_all(said).unwrap();
        let e = tls::accept(called, "caller", cluster.server(&b).unwrap(), SHORT).err().unwrap();
        assert!(matches!(e, TlsError::TimedOut { timeout: SHORT, .. }), "{e}");
        let (calling, _silent) = sockets().unwrap();
        let e = tls::connect(calling, "called", cluster.client(&a).unwrap(), name("node-b"), SHORT);
        assert!(matches!(e, Err(TlsError::TimedOut { .. })));
    }
    let (calling, gone) = sockets().unwrap();
    drop(gone);
    let e = tls::connect(calling, "called", cluster.client(&a).unwrap(), name("node-b"), PATIENCE);
    assert!(matches!(e, Err(TlsError::Closed { .. } | TlsError::Io { .. })));
}

#[test]
fn tls_without_a_link_behind_it_is_told_apart() {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let (calling, mut called) = sockets().unwrap();
    let mut other = ServerConnection::new(cluster.server(&b).unwrap()).unwrap();
    let web_server = thread::spawn(move || {
        other.writer().write_all(b"HTTP/1.1 400").unwrap();
        let mut stream = rustls::Stream::new(&mut other, &mut called);
        stream.flush().unwrap();
        let _ = stream.read(&mut [0]); // until the caller hangs up
    });
    let e = tls::connect(calling, "called", cluster.client(&a).unwrap(), name("node-b"), PATIENCE);
    let e = e.err().unwrap();
    assert!(matches!(e, TlsError::Greeting { found: [b'H', b'T', b'T', b'P'], .. }), "{e}");
    web_server.join().unwrap();
}

/// A link, and a hand on its second end's socket.
fn with_socket() -> (TlsLink, TlsLink, TcpStream) {
    let cluster = Cluster::new().unwrap();
    let (a, b) = (cluster.identity("node-a").unwrap(), cluster.identity("node-b").unwrap());
    let (calling, called) = sockets().unwrap();
    let (hand, server) = (called.try_clone().unwrap(), cluster.server(&b).unwrap());
    let accepting = thread::spawn(move || tls::accept(called, "caller", server, PATIENCE));
    let a = tls::connect(calling, "called", cluster.client(&a).unwrap(), name("node-b"), PATIENCE).unwrap();
    (a, accepting.join().unwrap().unwrap(), hand)
}

#[test]
fn an_end_without_its_word_is_not_a_close() {
    let (mut a, mut b, socket) = with_socket();
    send(&mut b, b"last words", LONG).unwrap();
    socket.shutdown(Shutdown::Both).unwrap();
    let mut message = Vec::new();
    recv(&mut a, &mut message, LONG).unwrap();
    assert_eq!(message, b"last words");
    let e = recv(&mut a, &mut message, LONG).unwrap_err();
    assert!(matches!(e, LinkError::CutOff { .. }) && e.to_string().starts_with("called: "), "{e}");
}

#[test]
fn bytes_of_somebody_between_are_an_error() {
    let (mut a, _b, mut socket) = with_socket();
    let record = [&[23, 3, 3, 0, 32][..], &[7; 32]].concat();
    socket.write_all(&record).unwrap();
    let e = recv(&mut a, &mut Vec::new(), LONG).unwrap_err();
    assert!(matches!(e, LinkError::Io { .. }) && e.to_string().contains("decrypt"), "{e}");
}
