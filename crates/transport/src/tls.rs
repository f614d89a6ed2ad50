//! Links over TCP that are encrypted and authenticated: TLS 1.3, with a certificate of each end. Knows neither which
//! certificates are good nor who owns them: the caller's rustls configuration decides about the one, and gets the peer's
//! certificate for the other.
//!
//! [`connect`] and [`accept`] take a connected stream through the handshake in bounded time. The accepting end has the last
//! word, a greeting inside the encryption: the calling end would otherwise learn with its first message only that its
//! certificate was refused.

mod error;
mod stream;

use std::{
    io::{self, ErrorKind, IoSlice},
    net::TcpStream,
    os::fd::AsFd,
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
    pki_types::ServerName,
};

pub use error::TlsError;
pub use stream::TlsStream;

use crate::{ByteStream, Framed};

/// What the accepting end says when it lets the calling end in; the last byte is the version of what follows.
const GREETING: [u8; 4] = *b"1ft\x01";

/// A link over TLS.
pub type TlsLink = Framed<TlsStream>;

impl TlsLink {
    /// The peer's own certificate in DER, which the configuration's verifier has accepted.
    pub fn peer_certificate(&self) -> &[u8] {
        self.stream().peer_certificate()
    }
}

/// The calling end's part, on a connected stream to a peer of that name. `server_name` is what the configuration's
/// verifier is to find in the peer's certificate. Takes `timeout` at most.
pub fn connect(
    stream: TcpStream,
    peer: impl Into<String>,
    config: Arc<ClientConfig>,
    server_name: ServerName<'static>,
    timeout: Duration,
) -> Result<TlsLink, TlsError> {
    let mut shaking = Shaking::new(peer.into(), timeout);
    let connection = ClientConnection::new(config, server_name);
    let connection = connection.map_err(|source| shaking.error(failure(source), &[]))?;
    let mut stream = shaking.shake(stream, connection.into())?;
    let mut greeting = [0; GREETING.len()];
    let mut n_here = 0;
    shaking.drive(&mut stream, PollFlags::IN, |stream| {
        match stream.try_read(&mut greeting[n_here..])? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => n_here += n,
        }
        Ok(n_here == greeting.len())
    })?;
    match greeting {
        GREETING => Ok(Framed::over(stream, shaking.peer)),
        found => Err(TlsError::Greeting { peer: shaking.peer, expected: GREETING, found }),
    }
}

/// The accepting end's part, on a connected stream from a peer of that name. Takes `timeout` at most, whatever a stranger
/// does; who accepts others meanwhile calls it on a thread of its own.
pub fn accept(
    stream: TcpStream,
    peer: impl Into<String>,
    config: Arc<ServerConfig>,
    timeout: Duration,
) -> Result<TlsLink, TlsError> {
    let mut shaking = Shaking::new(peer.into(), timeout);
    let connection = ServerConnection::new(config);
    let connection = connection.map_err(|source| shaking.error(failure(source), &[]))?;
    let mut stream = shaking.shake(stream, connection.into())?;
    let mut n_gone = 0;
    shaking.drive(&mut stream, PollFlags::OUT, |stream| {
        n_gone += stream.try_write(&[IoSlice::new(&GREETING[n_gone..])])?;
        Ok(n_gone == GREETING.len())
    })?;
    Ok(Framed::over(stream, shaking.peer))
}

/// A handshake under way, with its deadline.
struct Shaking {
    peer: String,
    timeout: Duration,
    deadline: Instant,
}

impl Shaking {
    fn new(peer: String, timeout: Duration) -> Shaking {
        Shaking { peer, timeout, deadline: Instant::now() + timeout }
    }

    /// TLS's own handshake, and whether it gave what a link needs: version 1.3, and the peer's certificate.
    fn shake(&mut self, stream: TcpStream, connection: Connection) -> Result<TlsStream, TlsError> {
        let mut stream = TlsStream::new(stream, connection).map_err(|source| self.error(source, &[]))?;
        self.drive(&mut stream, PollFlags::IN, TlsStream::shake_some)?;
        let version = stream.version();
        if version != Some(ProtocolVersion::TLSv1_3) {
            let found = version.map_or_else(|| "none".to_owned(), |version| format!("{version:?}"));
            return Err(TlsError::Version { peer: self.peer.clone(), found });
        }
        match stream.remember_peer() {
            true => Ok(stream),
            false => Err(TlsError::Anonymous { peer: self.peer.clone() }),
        }
    }

    /// Repeats a step until it says that all is done, and sleeps in the kernel where nothing moves.
    fn drive(
        &mut self,
        stream: &mut TlsStream,
        waits_for: PollFlags,
        mut step: impl FnMut(&mut TlsStream) -> io::Result<bool>,
    ) -> Result<(), TlsError> {
        loop {
            let is_stalled = match step(stream) {
                Ok(true) => return Ok(()),
                Ok(false) => false,
                Err(e) if e.kind() == ErrorKind::WouldBlock => true,
                Err(e) if e.kind() == ErrorKind::Interrupted => false,
                Err(e) => return Err(self.error(e, stream.last_read())),
            };
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(TlsError::TimedOut { peer: self.peer.clone(), timeout: self.timeout });
            }
            if is_stalled {
                let events = if stream.has_unsent() { waits_for | PollFlags::OUT } else { waits_for };
                let timeout = Timespec::try_from(left).ok();
                // an error here (a signal, say) only means that we look again
                let _ =
                    poll(&mut [PollFd::from_borrowed_fd(stream.socket().as_fd(), events)], timeout.as_ref());
            }
        }
    }

    fn error(&self, source: io::Error, last_read: &[u8]) -> TlsError {
        TlsError::new(self.peer.clone(), source, last_read)
    }
}

/// What TLS finds wrong, as an error of the stream.
fn failure(source: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, source)
}
