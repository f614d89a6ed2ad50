//! A TCP socket with TLS over it, as steps that never block. Knows no messages and no handshake's end: bytes go in, and are
//! reported as gone when the kernel has all of what they were encrypted to.

use std::{
    io::{self, ErrorKind, IoSlice, Read, Write},
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use rustls::{Connection, ProtocolVersion};

use crate::ByteStream;

use super::failure;

/// Encrypted bytes that one read takes from the kernel: several records of 16 KiB, for each read costs a system call.
const READ_BYTES: usize = 128 << 10;
/// Bytes that are encrypted ahead of the kernel's taking them.
const WRITE_BYTES: usize = 128 << 10;

/// A socket with TLS over it.
pub struct TlsStream {
    socket: TcpStream,
    connection: Connection,
    /// The peer's own certificate, in DER.
    peer_certificate: Box<[u8]>,
    arrived: Arrived,
    /// Bytes that were encrypted and are not reported as written yet.
    n_held: usize,
    is_closed: bool,
}

/// Encrypted bytes as they came from the kernel.
struct Arrived {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl TlsStream {
    /// Takes over a connected socket, before the handshake.
    pub(super) fn new(socket: TcpStream, mut connection: Connection) -> io::Result<TlsStream> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        connection.set_buffer_limit(Some(WRITE_BYTES));
        let arrived = Arrived { bytes: vec![0; READ_BYTES].into_boxed_slice(), start: 0, end: 0 };
        Ok(TlsStream {
            socket,
            connection,
            peer_certificate: Box::default(),
            arrived,
            n_held: 0,
            is_closed: false,
        })
    }

    /// A step of the handshake; whether that is over, and all that belongs to it sent.
    pub(super) fn shake_some(&mut self) -> io::Result<bool> {
        self.flush()?;
        if !self.connection.is_handshaking() {
            return Ok(true);
        }
        match self.take_in() {
            // what TLS has to say about an error belongs to the handshake too
            Err(e) if e.kind() != ErrorKind::WouldBlock => {
                let _ = self.flush();
                Err(e)
            }
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            taken => taken.map(|_| false),
        }
    }

    /// Keeps the peer's certificate; `false` if it showed none.
    pub(super) fn remember_peer(&mut self) -> bool {
        let certificate = self.connection.peer_certificates().and_then(<[_]>::first);
        let certificate = certificate.map(|der| Box::from(der.as_ref()));
        let is_there = certificate.is_some();
        self.peer_certificate = certificate.unwrap_or_default();
        is_there
    }

    pub(super) fn peer_certificate(&self) -> &[u8] {
        &self.peer_certificate
    }

    pub(super) fn version(&self) -> Option<ProtocolVersion> {
        self.connection.protocol_version()
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.connection.wants_write()
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// What the last read from the kernel brought.
    pub(super) fn last_read(&self) -> &[u8] {
        &self.arrived.bytes[..self.arrived.end]
    }

    /// Gives the kernel what is encrypted; "would block" if it does not take all.
    fn flush(&mut self) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(&mut self.socket)? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Decrypts the next of what arrived, after a read from the kernel if need be. 0 is the end, clean or not: the
    /// connection tells them apart.
    fn take_in(&mut self) -> io::Result<usize> {
        if self.arrived.start == self.arrived.end {
            // an end leaves nothing behind, so that it is found again
            (self.arrived.start, self.arrived.end) = (0, 0);
            self.arrived.end = self.socket.read(&mut self.arrived.bytes)?;
        }
        let mut rest = &self.arrived.bytes[self.arrived.start..self.arrived.end];
        let n = self.connection.read_tls(&mut rest)?;
        self.arrived.start += n;
        self.connection.process_new_packets().map_err(failure)?;
        Ok(n)
    }
}

impl ByteStream for TlsStream {
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.is_closed {
            return Ok(0);
        }
        loop {
            match self.connection.reader().read(out) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.take_in()?;
            // answers of TLS's own, such as to a change of keys; if they stall, the next write sends them
            match self.flush() {
                Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.is_closed {
            return Err(ErrorKind::BrokenPipe.into());
        }
        self.flush()?;
        if self.n_held == 0 {
            self.n_held = self.connection.writer().write_vectored(parts)?;
            // If the kernel stalls here, the caller comes again with the same bytes, of which these are the first.
            self.flush()?;
        }
        Ok(std::mem::take(&mut self.n_held))
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.as_fd())
    }

    /// Says that this is the end, as far as the kernel takes it: a peer that does not read will find it cut off.
    fn close(&mut self) {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.connection.send_close_notify();
            // a peer that is gone already is closed enough
            let _ = self.flush();
            let _ = self.socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        self.close();
    }
}
