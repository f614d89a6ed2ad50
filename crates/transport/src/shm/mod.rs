//! A link to a process of the same host: a ring of bytes each way in memory that both map, and a Unix socket beside
//! it. How two processes come to have one is in `handover`; the ring itself, with all its orderings, in `ring`.
//!
//! The socket is the doorbell and the sign of life. A futex would wake in fewer steps but cannot be waited on together
//! with other links, and says nothing of a peer that died; a socket does both in one poll(2), and only sleepers pay.
#![allow(unsafe_code)]

mod handover;
mod memory;
mod ring;

use std::{
    cell::Cell,
    io::{self, ErrorKind, IoSlice, Read},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
    sync::Arc,
};

use rustix::{
    event::PollFlags,
    net::{SendFlags, send},
};

pub use handover::{HandoverError, TOKEN_BYTES, Token, accept, offer};
use memory::{By, Memory, Ring};
use ring::{Reader, Writer};

use crate::{ByteStream, Framed, HEADER_BYTES};

/// Bytes of each direction's ring: what fits before a sender stalls.
pub const SHM_RING_BYTES: usize = memory::RING_BYTES;

/// Strokes of the bell that are taken off the socket at once; more only wake once too often.
const N_STROKES: usize = 64;

/// A link over shared memory.
pub type ShmLink = Framed<ShmStream>;

/// One end of two rings.
pub struct ShmStream {
    tx: Writer<Ring>,
    rx: Reader<Ring>,
    bell: Bell,
    /// Whether this end may have said that it sleeps.
    slept: Cell<bool>,
    /// Whether the peer is known to be gone; what it wrote before can still be read.
    peer_is_gone: bool,
    /// Whether this end was closed.
    is_closed: bool,
}

/// The socket beside the rings. A byte on it says: look again; its end says that the peer is gone.
struct Bell(UnixStream);

impl ShmStream {
    /// The end that is `own`'s, with a connected socket.
    fn new(memory: &Arc<Memory>, own: By, socket: UnixStream) -> io::Result<ShmStream> {
        let other = match own {
            By::Maker => By::Guest,
            By::Guest => By::Maker,
        };
        socket.set_nonblocking(true)?;
        Ok(ShmStream {
            tx: Writer::new(memory.ring(own)),
            rx: Reader::new(memory.ring(other)),
            bell: Bell(socket),
            slept: Cell::new(false),
            peer_is_gone: false,
            is_closed: false,
        })
    }

    /// After a sleep: takes back what was said before it, and hears what the socket has to tell. A peer that wakes us
    /// without end costs time until the deadline, no more.
    fn wake_up(&mut self) -> io::Result<()> {
        if self.slept.take() {
            self.tx.is_awake();
            self.rx.is_awake();
            self.peer_is_gone |= self.bell.has_ended()?;
        }
        Ok(())
    }
}

impl ByteStream for ShmStream {
    // A read is as cheap as a copy: the body goes straight to its place.
    const READ_AHEAD_BYTES: usize = HEADER_BYTES;

    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(0);
        }
        // before the ring is looked at: all that a peer wrote before it went is there when its end is seen
        self.wake_up()?;
        match self.rx.read(out, || self.bell.ring())? {
            0 if !self.peer_is_gone => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.wake_up()?;
        if self.is_closed || self.peer_is_gone {
            return Err(ErrorKind::BrokenPipe.into());
        }
        match self.tx.write(parts, || self.bell.ring())? {
            0 => Err(ErrorKind::WouldBlock.into()),
            n => Ok(n),
        }
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.bell.0.as_fd())
    }

    fn arm(&self, events: PollFlags) -> Option<PollFlags> {
        self.slept.set(true);
        let may_read = events.contains(PollFlags::IN) && !self.rx.sleeps();
        let may_write = events.contains(PollFlags::OUT) && !self.tx.sleeps();
        // room comes with a stroke of the bell, as bytes do
        (!may_read && !may_write).then_some(PollFlags::IN)
    }

    fn close(&mut self) {
        self.is_closed = true;
        // A peer that is gone already is closed enough.
        let _ = self.bell.0.shutdown(Shutdown::Both);
    }
}

impl Bell {
    /// Wakes the peer. Where that fails, the socket is full of strokes already, or the peer is gone, which the next
    /// sleep will tell.
    fn ring(&self) {
        #[cfg(target_os = "linux")]
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        #[cfg(not(target_os = "linux"))]
        let flags = SendFlags::DONTWAIT; // the standard library's sockets raise no signal there
        let _ = send(&self.0, &[1], flags);
    }

    /// Takes strokes off the socket; whether it has ended.
    fn has_ended(&self) -> io::Result<bool> {
        match (&self.0).read(&mut [0; N_STROKES]) {
            Ok(n) => Ok(n == 0),
            // a peer that had not heard all strokes
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(true),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests;
