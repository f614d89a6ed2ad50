//! A link over a connected TCP socket. How the connection came about, and who is at the other end, was settled
//! before.

use std::{
    io::{self, IoSlice, Read},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use crate::{ByteStream, Framed};

/// A link over TCP.
pub type TcpLink = Framed<TcpStream>;

impl TcpLink {
    /// Takes over a connected stream: makes it non-blocking and turns off the kernel's waiting for more to send.
    pub fn new(stream: TcpStream, peer_name: impl Into<String>) -> io::Result<TcpLink> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Framed::over(stream, peer_name))
    }
}

impl ByteStream for TcpStream {
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read(out)
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        send_quietly(self, parts)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn close(&mut self) {
        // A peer that is gone already is closed enough.
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// A peer that is gone is an error and no signal: not every program this runs in ignores SIGPIPE.
#[cfg(not(target_vendor = "apple"))]
fn send_quietly(socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    Ok(sendmsg(socket, parts, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL)?)
}

/// The standard library has told the socket itself.
#[cfg(target_vendor = "apple")]
fn send_quietly(mut socket: &TcpStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    std::io::Write::write_vectored(&mut socket, parts)
}
