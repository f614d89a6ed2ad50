//! A link over a pair of Unix sockets, for threads of one process that also wait on others. Knows nothing of who is at
//! the other end.

use std::{
    io::{self, IoSlice, Read, Write},
    net::Shutdown,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixStream,
    },
};

use crate::{ByteStream, Framed};

/// A link over a Unix socket that does not block.
pub type PipeLink = Framed<UnixStream>;

impl ByteStream for UnixStream {
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.read(out)
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.write_vectored(parts)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }

    fn close(&mut self) {
        // A peer that is gone already is closed enough.
        let _ = self.shutdown(Shutdown::Both);
    }
}
