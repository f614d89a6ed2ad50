//! A link over a connected TCP socket. How the connection came about, and who is at the other end, was settled
//! before.

use std::{
    io::{self, IoSlice, Read},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::{AddressFamily, SocketType, socket, sockopt};

use crate::{ByteStream, Framed};

/// Bytes that the kernel may hold for each direction of a link. Buffers that begin small and grow by themselves stall two
/// ends which both send much, again and again.
const BUFFER_BYTES: usize = 4 << 20;

/// A link over TCP.
pub type TcpLink = Framed<TcpStream>;

impl TcpLink {
    /// Takes over a connected stream: makes it non-blocking, turns off the kernel's waiting for more to send, and asks for
    /// large buffers.
    pub fn new(stream: TcpStream, peer_name: impl Into<String>) -> io::Result<TcpLink> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        if has_large_buffers() {
            sockopt::set_socket_send_buffer_size(&stream, BUFFER_BYTES)?;
            sockopt::set_socket_recv_buffer_size(&stream, BUFFER_BYTES)?;
        }
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

/// Whether the system gives a socket buffers of that size. One that gives less would hold the socket to it for good, where
/// left alone its buffers grow; so this is tried on another socket.
fn has_large_buffers() -> bool {
    let granted = || -> rustix::io::Result<bool> {
        let probe = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_send_buffer_size(&probe, BUFFER_BYTES)?;
        sockopt::set_socket_recv_buffer_size(&probe, BUFFER_BYTES)?;
        let found = [sockopt::socket_send_buffer_size(&probe)?, sockopt::socket_recv_buffer_size(&probe)?];
        Ok(found.iter().all(|n_bytes| *n_bytes >= BUFFER_BYTES))
    };
    granted().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn buffers_are_large_or_the_systems_own() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sizes = |stream: &TcpStream| {
            [sockopt::socket_send_buffer_size(stream), sockopt::socket_recv_buffer_size(stream)]
                .map(Result::unwrap)
        };
        let before = sizes(&stream);
        let link = TcpLink::new(stream, "b").unwrap();
        let after = sizes(link.stream());
        match has_large_buffers() {
            true => assert!(after.iter().all(|n_bytes| *n_bytes >= BUFFER_BYTES), "{after:?}"),
            false => assert_eq!(after, before),
        }
    }
}
