//! A stream whose bytes are known beforehand: it hands them out in pieces, then ends. What is written to it is gone.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
};

use transport::{ByteStream, Framed, HEADER_BYTES};

pub(crate) struct Tape {
    bytes: Vec<u8>,
    at: usize,
    piece: usize,
}

/// A link that reads `bytes`, at most `piece` at a time.
pub(crate) fn link(bytes: &[u8], piece: usize) -> Framed<Tape> {
    Framed::over(Tape { bytes: bytes.to_vec(), at: 0, piece: piece.max(1) }, "tape")
}

/// The bytes of these messages, as a link sends them.
pub(crate) fn framed(messages: &[&[u8]]) -> Vec<u8> {
    let frame = |(i, body): (usize, &&[u8])| {
        let head = [*b"1fln", (body.len() as u32).to_le_bytes(), (i as u32).to_le_bytes()].concat();
        assert_eq!(head.len(), HEADER_BYTES);
        [head, body.to_vec()].concat()
    };
    messages.iter().enumerate().flat_map(frame).collect()
}

impl ByteStream for Tape {
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = out.len().min(self.piece).min(self.bytes.len() - self.at);
        out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(parts.iter().map(|part| part.len()).sum())
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self) {}
}
