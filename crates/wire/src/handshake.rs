//! Who is at the other end: both ends of a new connection prove that they know the replica's secret, without
//! sending it. Keeps strangers off a rank's port; it neither hides nor protects what follows, nor stops somebody on
//! the path who passes messages on. That is TLS's work, which comes with the cluster, between hosts.
//!
//! ```text
//! connector                               acceptor
//!     Hello { party, nonce }          →
//!                                     ←   Hello { party, nonce }, Proof
//!     Proof                           →
//! ```
//! A proof is HMAC-SHA256 (RFC 2104) under the secret over the version, the prover's role, and both hellos, so that
//! neither an old one nor the other end's own can be played back.

use std::{
    fmt,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use base::RankId;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::{Message, WIRE_VERSION, WireError, read_frame, write_frame};

/// Time for a whole handshake, in milliseconds: no stranger holds a port longer.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 5_000;

/// Bytes of a secret, a nonce and a proof.
pub const SECRET_BYTES: usize = 32;

const CONTEXT: &[u8] = b"onefold handshake";

/// What all processes of a replica know and nobody else.
#[derive(Clone)]
pub struct Secret([u8; SECRET_BYTES]);

impl Secret {
    /// From random bytes, fresh for each replica.
    pub fn new(random: [u8; SECRET_BYTES]) -> Secret {
        Secret(random)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Who an end says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// The process that started the ranks.
    Node,
    /// A rank.
    Rank(RankId),
}

/// Which end of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that called.
    Connector,
    /// The one that listened.
    Acceptor,
}

/// An end's opening: who it says it is, and its challenge to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The sender.
    pub party: Party,
    /// Random bytes, used once.
    pub nonce: [u8; SECRET_BYTES],
}

/// That an end knows the secret.
#[derive(Clone, Copy, Debug)]
pub struct Proof([u8; SECRET_BYTES]);

/// Both openings: what proofs are about.
#[derive(Clone, Copy, Debug)]
pub struct Challenge {
    /// The calling end's.
    pub connector: Hello,
    /// The listening end's.
    pub acceptor: Hello,
}

/// Why a connection was refused.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The other end does not speak the handshake, or too slowly.
    #[error("the handshake failed: {0}")]
    Wire(#[from] WireError),
    /// The other end does not know the secret.
    #[error("refused: the other end says it is {} but does not know the replica's secret", name(.claimed))]
    Refused {
        /// Who it said it was.
        claimed: Party,
    },
}

/// The proof of the end with this role.
pub fn prove(secret: &Secret, role: Role, challenge: &Challenge) -> Proof {
    Proof(mac(secret, role, challenge).finalize().into_bytes().into())
}

/// Whether the end with this role gave a right proof. Takes the same time for every wrong one.
pub fn verify(secret: &Secret, role: Role, challenge: &Challenge, proof: &Proof) -> bool {
    mac(secret, role, challenge).verify_slice(&proof.0).is_ok()
}

/// The listening end's part; `nonce` is random and used once. Returns who is at the other end.
pub fn accept(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    me: Party,
    nonce: [u8; SECRET_BYTES],
) -> Result<Party, HandshakeError> {
    let connector: Hello = read_frame(stream)?;
    let challenge = Challenge { connector, acceptor: Hello { party: me, nonce } };
    write_frame(stream, &challenge.acceptor)?;
    write_frame(stream, &prove(secret, Role::Acceptor, &challenge))?;
    check(secret, Role::Connector, &challenge, &read_frame(stream)?)
}

/// The calling end's part; `nonce` is random and used once. Returns who is at the other end.
pub fn connect(
    stream: &mut (impl Read + Write),
    secret: &Secret,
    me: Party,
    nonce: [u8; SECRET_BYTES],
) -> Result<Party, HandshakeError> {
    let connector = Hello { party: me, nonce };
    write_frame(stream, &connector)?;
    let challenge = Challenge { connector, acceptor: read_frame(stream)? };
    let peer = check(secret, Role::Acceptor, &challenge, &read_frame(stream)?)?;
    write_frame(stream, &prove(secret, Role::Connector, &challenge))?;
    Ok(peer)
}

/// A blocking TCP stream with one deadline over all its reads and writes together, for the time of a handshake. When
/// it is dropped, the stream waits without limit again.
pub struct Timed<'a> {
    stream: &'a TcpStream,
    deadline: Instant,
}

impl<'a> Timed<'a> {
    /// From now on for this long; [`HANDSHAKE_TIMEOUT_MS`] is meant for it.
    pub fn new(stream: &'a TcpStream, timeout: Duration) -> Timed<'a> {
        Timed { stream, deadline: Instant::now() + timeout }
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(late()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(out).map_err(name_timeout)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes).map_err(name_timeout)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        // A stream that refuses this is broken, and its next use says so.
        let _ = self.stream.set_read_timeout(None);
        let _ = self.stream.set_write_timeout(None);
    }
}

impl Message for Hello {
    const KIND: u16 = 5;
    const MAX_BYTES: usize = PARTY_BYTES + SECRET_BYTES;

    fn append_body(&self, mut frame: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
        frame.extend(party_bytes(self.party));
        frame.extend(self.nonce);
        Ok(frame)
    }

    fn parse_body(body: &[u8]) -> Result<(Hello, &[u8]), WireError> {
        let (&[tag, r0, r1, r2, r3], body) = split(Self::KIND, body)?;
        let (&nonce, rest) = split(Self::KIND, body)?;
        let party = match (tag, u32::from_le_bytes([r0, r1, r2, r3])) {
            (0, 0) => Party::Node,
            (1, rank) => Party::Rank(RankId(rank)),
            (found, _) => {
                return Err(WireError::invalid("kind of party", "0 (node) or 1 (rank)", found));
            }
        };
        Ok((Hello { party, nonce }, rest))
    }
}

impl Message for Proof {
    const KIND: u16 = 6;
    const MAX_BYTES: usize = SECRET_BYTES;

    fn append_body(&self, mut frame: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
        frame.extend(self.0);
        Ok(frame)
    }

    fn parse_body(body: &[u8]) -> Result<(Proof, &[u8]), WireError> {
        let (&proof, rest) = split(Self::KIND, body)?;
        Ok((Proof(proof), rest))
    }
}

const PARTY_BYTES: usize = 5;

fn party_bytes(party: Party) -> [u8; PARTY_BYTES] {
    let (tag, rank) = match party {
        Party::Node => (0, 0),
        Party::Rank(rank) => (1, rank.0),
    };
    let [r0, r1, r2, r3] = rank.to_le_bytes();
    [tag, r0, r1, r2, r3]
}

fn split<const N: usize>(kind: u16, body: &[u8]) -> Result<(&[u8; N], &[u8]), WireError> {
    let short = WireError::Malformed { kind, source: postcard::Error::DeserializeUnexpectedEnd };
    body.split_first_chunk().ok_or(short)
}

fn mac(secret: &Secret, role: Role, challenge: &Challenge) -> Hmac<Sha256> {
    let mac = <Hmac<Sha256> as Mac>::new_from_slice(&secret.0);
    let mut mac = mac.expect("HMAC takes a key of any length");
    mac.update(CONTEXT);
    mac.update(&WIRE_VERSION.to_le_bytes());
    mac.update(&[match role {
        Role::Connector => 0,
        Role::Acceptor => 1,
    }]);
    for hello in [&challenge.connector, &challenge.acceptor] {
        mac.update(&party_bytes(hello.party));
        mac.update(&hello.nonce);
    }
    mac
}

/// The party of the end with this role, if its proof is right.
fn check(secret: &Secret, role: Role, challenge: &Challenge, proof: &Proof) -> Result<Party, HandshakeError> {
    let claimed = match role {
        Role::Connector => challenge.connector.party,
        Role::Acceptor => challenge.acceptor.party,
    };
    match verify(secret, role, challenge, proof) {
        true => Ok(claimed),
        false => Err(HandshakeError::Refused { claimed }),
    }
}

fn name(party: &Party) -> String {
    match party {
        Party::Node => "the node".into(),
        Party::Rank(rank) => rank.to_string(),
    }
}

/// The system calls a time-out "would block".
fn name_timeout(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::WouldBlock => late(),
        _ => e,
    }
}

fn late() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "the deadline passed")
}
