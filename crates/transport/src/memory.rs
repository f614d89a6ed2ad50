//! The in-process twin of a network link: two byte pipes with a socket's small buffers, over any [`Medium`], which can be
//! told to lose messages or to let them overtake each other, to fall silent, to end in the middle of a message, or to
//! break; and which counts what was sent. For tests of everything above.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    os::fd::BorrowedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    ByteStream, Framed, HEADER_BYTES,
    framed::announced_len,
    medium::{Chance, Medium, Way},
};

/// Bytes that fit into one direction of a memory link before its sender stalls, beside those on their way.
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

struct Pipe {
    way: Way,
    loss: Chance,
    reorder: Chance,
    progress: MessageProgress,
    /// What becomes of the message that is being written.
    fate: Fate,
    /// Bytes on their way, in pieces that can be read from a moment on.
    pieces: VecDeque<(Instant, VecDeque<u8>)>,
    /// Messages that let the next one overtake them.
    overtaken: Vec<u8>,
    n_inside: usize,
    n_bytes: u64,
    n_messages: u64,
    /// Bytes that still get through before the pipe ends.
    n_before_end: Option<usize>,
    is_held: bool,
    ended: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Arrives,
    Lost,
    Overtaken,
}

impl MemoryLink {
    /// Two connected ends without anything between them; the names say who each one's peer is.
    pub fn pair() -> (MemoryLink, MemoryLink) {
        MemoryLink::pair_over(Medium::INSTANT, 0)
    }

    /// Two connected ends with a medium between them, whose jitter follows from `seed`.
    pub fn pair_over(medium: Medium, seed: u64) -> (MemoryLink, MemoryLink) {
        let pipe = |seed| Arc::new(Mutex::new(Pipe::new(Way::new(medium, seed))));
        let (tx, rx) = (pipe(seed), pipe(!seed));
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
    pub fn delay(&self, latency: Duration) {
        lock(&self.tx).way.medium.latency = latency;
    }

    /// While held, nothing that this end sends arrives, and nobody is told: a cable that was pulled. What was sent
    /// arrives when it is plugged in again.
    pub fn hold(&self, is_held: bool) {
        lock(&self.tx).is_held = is_held;
    }

    /// This share of the messages that this end sends from now on is lost, by a seed.
    pub fn lose(&self, share: f64, seed: u64) {
        lock(&self.tx).loss = Chance::new(share, seed);
    }

    /// This share of the messages that this end sends from now on is overtaken by the next one, by a seed.
    pub fn reorder(&self, share: f64, seed: u64) {
        lock(&self.tx).reorder = Chance::new(share, seed);
    }

    /// Lets `n_bytes` more through from this end (headers count), then ends that direction.
    pub fn truncate_after(&self, n_bytes: usize) {
        lock(&self.tx).n_before_end = Some(n_bytes);
    }

    /// Bytes sent from this end so far, headers included.
    pub fn n_bytes_sent(&self) -> u64 {
        lock(&self.tx).n_bytes
    }

    /// Messages sent whole from this end so far.
    pub fn n_messages_sent(&self) -> u64 {
        lock(&self.tx).n_messages
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
    fn new(way: Way) -> Pipe {
        Pipe {
            way,
            loss: Chance::default(),
            reorder: Chance::default(),
            progress: MessageProgress::default(),
            fate: Fate::Arrives,
            pieces: VecDeque::new(),
            overtaken: Vec::new(),
            n_inside: 0,
            n_bytes: 0,
            n_messages: 0,
            n_before_end: None,
            is_held: false,
            ended: false,
        }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some((ready_at, piece)) = self.pieces.front_mut() else {
            return if self.ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        };
        if self.is_held || Instant::now() < *ready_at {
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
        let room = (MEMORY_PIPE_BYTES + self.way.medium.n_in_flight()).saturating_sub(self.n_inside);
        let room = room.min(self.n_before_end.unwrap_or(usize::MAX));
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(room).collect();
        let n = bytes.len();
        self.carry(&bytes, Instant::now());
        self.n_bytes += n as u64;
        if let Some(left) = &mut self.n_before_end {
            *left -= n;
            self.ended = *left == 0;
        }
        if n == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    /// Sends bytes on their way, every message as its fate is.
    fn carry(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            if self.progress.is_between() {
                self.way.begin();
                self.fate = match (self.loss.strikes(), self.reorder.strikes()) {
                    (true, _) => Fate::Lost,
                    (false, true) => Fate::Overtaken,
                    (false, false) => Fate::Arrives,
                };
            }
            let (run, rest) = bytes.split_at(self.progress.advance(bytes));
            bytes = rest;
            match self.fate {
                Fate::Arrives => self.push(run.iter().copied().collect(), now),
                Fate::Lost => {}
                Fate::Overtaken => self.overtaken.extend(run),
            }
            if self.progress.is_between() {
                self.n_messages += 1;
                if self.fate == Fate::Arrives && !self.overtaken.is_empty() {
                    let overtaken = std::mem::take(&mut self.overtaken);
                    self.push(overtaken.into(), now);
                }
            }
        }
    }

    fn push(&mut self, piece: VecDeque<u8>, now: Instant) {
        self.n_inside += piece.len();
        self.pieces.push_back((self.way.arrival(now, piece.len()), piece));
    }
}

/// Where in a stream of messages a pipe is.
#[derive(Default)]
struct MessageProgress {
    /// The header as far as it was seen.
    header: Vec<u8>,
    n_left: usize,
}

impl MessageProgress {
    fn is_between(&self) -> bool {
        self.header.is_empty() && self.n_left == 0
    }

    /// Goes on by bytes of one message's header or body; how many that were, at least one of any.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        if self.n_left > 0 {
            let n = self.n_left.min(bytes.len());
            self.n_left -= n;
            return n;
        }
        let n = (HEADER_BYTES - self.header.len()).min(bytes.len());
        self.header.extend(&bytes[..n]);
        if let Ok(header) = <&[u8; HEADER_BYTES]>::try_from(&self.header[..]) {
            self.n_left = announced_len(header);
            self.header.clear();
        }
        n
    }
}

/// A pipe is whole between any two of its methods, so a panic elsewhere leaves nothing to fear.
fn lock(pipe: &Mutex<Pipe>) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}
