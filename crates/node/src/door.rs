//! A door in the network that only opens to those who know the replica's secret. Everybody who knocks is heard on a
//! thread of its own, so that a silent stranger keeps nobody waiting. What is said after the handshake is not known here.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use base::RankId;
use wire::handshake::{self, HANDSHAKE_TIMEOUT_MS, HandshakeError, Party, Secret, Timed};

use crate::secret::nonce;

/// Connections that are heard at once; more are closed unheard.
const MAX_HEARD: usize = 64;

/// Decides about a connection: what was said on it, or why it is turned away.
type Hear<T> = dyn Fn(&TcpStream) -> Result<T, String> + Send + Sync;

/// A listening socket and those who have knocked.
pub(crate) struct Door<T> {
    listener: TcpListener,
    hear: Arc<Hear<T>>,
    n_heard: usize,
    sender: Sender<Knock<T>>,
    knocks: Receiver<Knock<T>>,
}

/// Somebody who knocked: let in with what was said, or turned away.
pub(crate) struct Knock<T> {
    pub(crate) from: SocketAddr,
    pub(crate) entry: Result<(TcpStream, T), String>,
}

impl<T: Send + 'static> Door<T> {
    /// `hear` decides who is let in; it must not take longer than a handshake may.
    pub(crate) fn new(
        listener: TcpListener,
        hear: impl Fn(&TcpStream) -> Result<T, String> + Send + Sync + 'static,
    ) -> io::Result<Door<T>> {
        listener.set_nonblocking(true)?;
        let (sender, knocks) = mpsc::channel();
        Ok(Door { listener, hear: Arc::new(hear), n_heard: 0, sender, knocks })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next one who has been heard out, waiting for `patience` at most.
    pub(crate) fn next(&mut self, patience: Duration) -> io::Result<Option<Knock<T>>> {
        loop {
            match self.listener.accept() {
                Ok((stream, from)) if self.n_heard < MAX_HEARD => self.listen_to(stream, from),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::ConnectionAborted => {}
                Err(e) => return Err(e),
            }
        }
        let knock = self.knocks.recv_timeout(patience).ok();
        self.n_heard -= usize::from(knock.is_some());
        Ok(knock)
    }

    fn listen_to(&mut self, stream: TcpStream, from: SocketAddr) {
        self.n_heard += 1;
        let (hear, sender) = (Arc::clone(&self.hear), self.sender.clone());
        thread::spawn(move || {
            let heard = stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true));
            let heard = heard.map_err(|e| e.to_string()).and_then(|()| hear(&stream));
            // fails only if the door is closed
            let _ = sender.send(Knock { from, entry: heard.map(|said| (stream, said)) });
        });
    }
}

/// The listening end's part of the handshake with a rank.
pub(crate) fn admit_rank(stream: &mut Timed<'_>, secret: &Secret, me: Party) -> Result<RankId, String> {
    match handshake::accept(stream, secret, me, nonce()) {
        Ok(Party::Rank(rank)) => Ok(rank),
        Ok(Party::Node) => Err("expected a rank, found another serving process".to_owned()),
        Err(HandshakeError::Wire(wire::WireError::Closed)) => {
            Err("it hung up before it proved that it knows the secret".to_owned())
        }
        Err(e) => Err(e.to_string()),
    }
}

/// A handshake's deadline on a connection.
pub(crate) fn timed(stream: &TcpStream) -> Timed<'_> {
    Timed::new(stream, Duration::from_millis(HANDSHAKE_TIMEOUT_MS))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn silent_strangers_keep_nobody_waiting() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hear = |mut stream: &TcpStream| {
            let mut word = [0];
            stream.read_exact(&mut word).map_err(|e| e.to_string())?;
            Ok(word[0])
        };
        let mut door = Door::new(listener, hear).unwrap();
        let address = door.address().unwrap();
        let silent: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut guest = TcpStream::connect(address).unwrap();
        io::Write::write_all(&mut guest, b"x").unwrap();
        let knock = (0..1000).find_map(|_| door.next(PATIENCE / 1000).unwrap()).unwrap();
        assert_eq!(knock.entry.unwrap().1, b'x');
        drop(silent);
        let knock = (0..1000).find_map(|_| door.next(PATIENCE / 1000).unwrap()).unwrap();
        assert!(knock.entry.is_err());
    }

    #[test]
    fn a_crowd_is_not_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut door =
            Door::new(listener, |mut stream| stream.read(&mut [0]).map_err(|e| e.to_string())).unwrap();
        let address = door.address().unwrap();
        let crowd: Vec<TcpStream> =
            (0..MAX_HEARD + 10).map(|_| TcpStream::connect(address).unwrap()).collect();
        let mut late = &crowd[MAX_HEARD + 9];
        late.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let closed = (0..1000).any(|_| {
            door.next(Duration::from_millis(1)).unwrap();
            matches!(late.read(&mut [0]), Ok(0))
        });
        assert!(closed && door.n_heard == MAX_HEARD);
    }
}
