//! The in-process twin of a network link: two byte pipes with a socket's small buffers, which can be told to
//! delay, to end in the middle of a message, or to break. For tests of everything above.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{ByteStream, Framed};

/// Bytes that fit into one direction of a memory link before its sender stalls.
pub const MEMORY_PIPE_BYTES: usize = 64 << 10;

/// A link inside the process.
pub type MemoryLink = Framed<MemoryStream>;

/// One end of two byte pipes.
pub struct MemoryStream {
    ends: MemoryControl,
}

/// A hand on a memory link, seen from one of its ends; the other end's hand has the directions swapped.
#[derive(Clone)]
pub struct MemoryControl {
    tx: Arc<Mutex<Pipe>>,
    rx: Arc<Mutex<Pipe>>,
}

#[derive(Default)]
struct Pipe {
    /// Bytes on their way, in pieces that can be read from a moment on.
    pieces: VecDeque<(Instant, VecDeque<u8>)>,
    n_inside: usize,
    n_total: u64,
    delay: Duration,
    /// Bytes that still get through before the pipe ends.
    n_before_end: Option<usize>,
    ended: bool,
}

impl MemoryLink {
    /// Two connected ends; the names say who each one's peer is.
    pub fn pair() -> (MemoryLink, MemoryLink) {
        let (tx, rx) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
        let there = MemoryControl { tx: rx.clone(), rx: tx.clone() };
        let here = MemoryControl { tx, rx };
        let link = |ends, peer| Framed::over(MemoryStream { ends }, peer);
        (link(here, "memory peer b"), link(there, "memory peer a"))
    }

    /// A hand on this link that outlives moving it elsewhere.
    pub fn control(&self) -> MemoryControl {
        self.stream().ends.clone()
    }
}

impl MemoryControl {
    /// Breaks both directions; bytes on their way are lost.
    pub fn cut(&self) {
        for pipe in [&self.tx, &self.rx] {
            let mut pipe = lock(pipe);
            pipe.pieces.clear();
            pipe.n_inside = 0;
            pipe.ended = true;
        }
    }

    /// Bytes sent from this end from now on take this long.
    pub fn delay(&self, delay: Duration) {
        lock(&self.tx).delay = delay;
    }

    /// Lets `n_bytes` more through from this end (headers count), then ends that direction.
    pub fn truncate_after(&self, n_bytes: usize) {
        lock(&self.tx).n_before_end = Some(n_bytes);
    }

    /// Bytes sent from this end so far, headers included.
    pub fn n_bytes_sent(&self) -> u64 {
        lock(&self.tx).n_total
    }
}

impl ByteStream for MemoryStream {
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        lock(&self.ends.rx).read(out)
    }

    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        lock(&self.ends.tx).write(parts)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn close(&mut self) {
        for pipe in [&self.ends.tx, &self.ends.rx] {
            lock(pipe).ended = true;
        }
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some((ready_at, piece)) = self.pieces.front_mut() else {
            return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        };
        if Instant::now() < *ready_at {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = out.len().min(piece.len());
        for (to, from) in out.iter_mut().zip(piece.drain(..n)) {
            *to = from;
        }
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.n_inside -= n;
        Ok(n)
    }

    fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.ended {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let room = (MEMORY_PIPE_BYTES - self.n_inside).min(self.n_before_end.unwrap_or(usize::MAX));
        let piece: VecDeque<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(room).collect();
        let n = piece.len();
        if n > 0 {
            self.pieces.push_back((Instant::now() + self.delay, piece));
        }
        self.n_inside += n;
        self.n_total += n as u64;
        if let Some(left) = &mut self.n_before_end {
            *left -= n;
            self.ended = *left == 0;
        }
        if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
}

/// A pipe is whole between any two of its methods, so a panic elsewhere leaves nothing to fear.
fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}
