//! How two ends of the link benchmark find each other: a door that opens to those who know the secret, and a call at it. What
//! is measured afterwards is not known here.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use wire::handshake::{self, HANDSHAKE_TIMEOUT_MS, HandshakeError, Party, Secret, Timed};

use super::bench::FabricError;
use crate::{door, secret::nonce};

/// Time to reach the other end, in milliseconds.
const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// What both ends say behind the handshake; the last byte is the version of the benchmark.
const GREETING: [u8; 4] = *b"1fb\x01";

/// A connection to an end that knows the secret and speaks the same benchmark.
pub(super) fn call(peer: &str, secret: &Secret) -> Result<TcpStream, FabricError> {
    let stream = reach(peer)?;
    let mut timed = Timed::new(&stream, Duration::from_millis(HANDSHAKE_TIMEOUT_MS));
    let refused = |source| FabricError::Handshake { peer: peer.to_owned(), source };
    handshake::connect(&mut timed, secret, Party::Node, nonce()).map_err(refused)?;
    let greeted = greet(&mut timed);
    greeted.map_err(|found| FabricError::Greeting { peer: peer.to_owned(), found })?;
    drop(timed);
    Ok(stream)
}

/// The listening end's part; why a caller is turned away.
pub(super) fn hear(stream: &TcpStream, secret: &Secret) -> Result<(), String> {
    let mut timed = door::timed(stream);
    match handshake::accept(&mut timed, secret, Party::Node, nonce()) {
        Ok(Party::Node) => greet(&mut timed),
        Ok(Party::Rank(rank)) => Err(format!("expected another machine's benchmark, found {rank}")),
        Err(HandshakeError::Wire(wire::WireError::Closed)) => {
            Err("it hung up before it proved that it knows the secret".to_owned())
        }
        Err(e) => Err(e.to_string()),
    }
}

/// Both ends say which benchmark they speak.
fn greet(stream: &mut (impl Read + Write)) -> Result<(), String> {
    let mut found = [0; GREETING.len()];
    stream.write_all(&GREETING).and_then(|()| stream.read_exact(&mut found)).map_err(|e| e.to_string())?;
    match found {
        GREETING => Ok(()),
        found => Err(format!("{found:02x?}")),
    }
}

/// Tries every address of a name, in the system's order.
fn reach(peer: &str) -> Result<TcpStream, FabricError> {
    let unknown = |source| FabricError::Unknown { peer: peer.to_owned(), source };
    let addresses: Vec<SocketAddr> = peer.to_socket_addrs().map_err(unknown)?.collect();
    let timeout = Duration::from_millis(CONNECT_TIMEOUT_MS);
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => {
                let set = stream.set_nodelay(true);
                return set
                    .map(|()| stream)
                    .map_err(|source| FabricError::Io { peer: peer.to_owned(), source });
            }
            Err(source) => last = Some(source),
        }
    }
    let source = last.unwrap_or_else(|| std::io::Error::other("the name has no address"));
    Err(FabricError::Connect { peer: peer.to_owned(), source })
}
