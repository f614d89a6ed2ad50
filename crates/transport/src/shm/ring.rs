//! One direction of a link: a ring of bytes between one writer and one reader, and the flags by which each says that it
//! sleeps. Where its words and bytes lie is the business of [`Shared`], so that the same code runs in memory that two
//! processes share and in a model that tries every order of their steps.
//!
//! Nothing that the other end writes is believed: its counter is loaded once and checked, our own is never read back.

use std::{
    io::{self, ErrorKind, IoSlice},
    sync::atomic::Ordering::{self, Acquire, Relaxed, Release},
};

/// After so many bytes the other end hears of them, in bytes: it copies the first piece while we copy the next.
const PIECE_BYTES: usize = 32 << 10;

/// What both ends see, all zero at the start.
pub(super) trait Shared {
    /// A number that both ends see.
    type Word: Word;

    /// Bytes of the ring, a power of two.
    fn n_bytes(&self) -> usize;
    /// One of the ring's words.
    fn word(&self, name: Name) -> &Self::Word;
    /// Copies `bytes` to place `at` of the ring.
    ///
    /// # Panics
    /// If they do not fit before the ring's end.
    fn put(&self, at: usize, bytes: &[u8]);
    /// Copies place `at` of the ring to `out`.
    ///
    /// # Panics
    /// If the ring ends before that.
    fn get(&self, at: usize, out: &mut [u8]);
    /// Orders what this thread did before against what it does after, in the eyes of all (`SeqCst`).
    fn fence();
}

/// An atomic number.
pub(super) trait Word {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

/// The words of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// Bytes written since the start; the writer's.
    Tail,
    /// Bytes read since the start; the reader's.
    Head,
    /// Not zero while the writer waits for room: set by it, cleared by whoever wakes it.
    WriterSleeps,
    /// The same for the reader, who waits for bytes.
    ReaderSleeps,
}

/// The end that writes.
pub(super) struct Writer<S> {
    shared: S,
    tail: u64,
    /// The reader's word as last seen, never more than the ring's size behind `tail`.
    head: u64,
}

/// The end that reads.
pub(super) struct Reader<S> {
    shared: S,
    head: u64,
    /// The writer's word as last seen, never more than the ring's size ahead of `head`.
    tail: u64,
}

impl<S: Shared> Writer<S> {
    pub(super) fn new(shared: S) -> Writer<S> {
        Writer { shared, tail: 0, head: 0 }
    }

    /// Writes what there is room for of `parts`, in order, and returns how many bytes that were. `wake` is called
    /// when the reader sleeps.
    pub(super) fn write(&mut self, parts: &[IoSlice<'_>], wake: impl Fn()) -> io::Result<usize> {
        let wanted = parts.iter().map(|part| part.len()).sum();
        let n = self.room(wanted)?.min(wanted);
        let (mut n_left, mut n_unseen) = (n, 0);
        for part in parts {
            let part = &part[..part.len().min(n_left)];
            n_left -= part.len();
            for piece in part.chunks(PIECE_BYTES) {
                self.put(piece);
                n_unseen += piece.len();
                // a header waits for the body that follows it: one word less to pass between the cores
                if n_unseen >= PIECE_BYTES || n_left == 0 {
                    n_unseen = 0;
                    self.shared.word(Name::Tail).store(self.tail, Release);
                    wake_sleeper(&self.shared, Name::ReaderSleeps, &wake);
                }
            }
        }
        Ok(n)
    }

    /// Says that this end is about to sleep until there is room; `false` if it should look again instead.
    pub(super) fn sleeps(&self) -> bool {
        announce(&self.shared, Name::WriterSleeps);
        let n_inside = self.tail.wrapping_sub(self.shared.word(Name::Head).load(Relaxed));
        n_inside == self.shared.n_bytes() as u64
    }

    /// Takes back what `sleeps` said.
    pub(super) fn is_awake(&self) {
        self.shared.word(Name::WriterSleeps).store(0, Relaxed);
    }

    /// Bytes that can be written now; up to date if fewer than `wanted`.
    fn room(&mut self, wanted: usize) -> io::Result<usize> {
        let n_bytes = self.shared.n_bytes();
        let n_inside = self.tail.wrapping_sub(self.head) as usize;
        if n_bytes - n_inside >= wanted {
            return Ok(n_bytes - n_inside);
        }
        // Acquire: what the reader took out before it said so is not overwritten any earlier.
        let head = self.shared.word(Name::Head).load(Acquire);
        let n_inside = check(self.tail.wrapping_sub(head), n_bytes)?;
        self.head = head;
        Ok(n_bytes - n_inside)
    }

    fn put(&mut self, bytes: &[u8]) {
        let (at, n_bytes) = place(self.tail, self.shared.n_bytes());
        let (before_end, rest) = bytes.split_at(bytes.len().min(n_bytes - at));
        self.shared.put(at, before_end);
        self.shared.put(0, rest);
        self.tail = self.tail.wrapping_add(bytes.len() as u64);
    }
}

impl<S: Shared> Reader<S> {
    pub(super) fn new(shared: S) -> Reader<S> {
        Reader { shared, head: 0, tail: 0 }
    }

    /// Reads what is there, at most `out.len()` bytes, and returns how many that were. `wake` is called when the
    /// writer sleeps.
    pub(super) fn read(&mut self, out: &mut [u8], wake: impl Fn()) -> io::Result<usize> {
        let n = self.n_here(out.len())?.min(out.len());
        for piece in out[..n].chunks_mut(PIECE_BYTES) {
            self.get(piece);
            self.shared.word(Name::Head).store(self.head, Release);
            wake_sleeper(&self.shared, Name::WriterSleeps, &wake);
        }
        Ok(n)
    }

    /// Says that this end is about to sleep until there are bytes; `false` if it should look again instead.
    pub(super) fn sleeps(&self) -> bool {
        announce(&self.shared, Name::ReaderSleeps);
        self.shared.word(Name::Tail).load(Relaxed) == self.head
    }

    /// Takes back what `sleeps` said.
    pub(super) fn is_awake(&self) {
        self.shared.word(Name::ReaderSleeps).store(0, Relaxed);
    }

    /// Bytes that can be read now; up to date if fewer than `wanted`.
    fn n_here(&mut self, wanted: usize) -> io::Result<usize> {
        let n_here = self.tail.wrapping_sub(self.head) as usize;
        if n_here >= wanted {
            return Ok(n_here);
        }
        // Acquire: the bytes that the writer counted are seen too.
        let tail = self.shared.word(Name::Tail).load(Acquire);
        let n_here = check(tail.wrapping_sub(self.head), self.shared.n_bytes())?;
        self.tail = tail;
        Ok(n_here)
    }

    fn get(&mut self, out: &mut [u8]) {
        let (at, n_bytes) = place(self.head, self.shared.n_bytes());
        let (before_end, rest) = out.split_at_mut(out.len().min(n_bytes - at));
        self.shared.get(at, before_end);
        self.shared.get(0, rest);
        self.head = self.head.wrapping_add((before_end.len() + rest.len()) as u64);
    }
}

/// Sets a flag before its owner looks for the last time. The other end moves first and looks at the flag afterwards;
/// with a fence between the two steps at both ends, one of them sees the other.
fn announce<S: Shared>(shared: &S, flag: Name) {
    shared.word(flag).store(1, Relaxed);
    S::fence();
}

/// After a move: clears the other end's flag and wakes it, if it is set. Nobody is woken twice.
fn wake_sleeper<S: Shared>(shared: &S, flag: Name, wake: impl Fn()) {
    S::fence();
    if shared.word(flag).load(Relaxed) != 0 {
        shared.word(flag).store(0, Relaxed);
        wake();
    }
}

/// Bytes inside the ring, if the other end's word says something possible.
fn check(n_inside: u64, n_bytes: usize) -> io::Result<usize> {
    let possible = usize::try_from(n_inside).ok().filter(|n| *n <= n_bytes);
    possible.ok_or_else(|| {
        let why = format!(
            "the ring's counters were damaged: expected at most {n_bytes} bytes inside, found {n_inside}"
        );
        io::Error::new(ErrorKind::InvalidData, why)
    })
}

/// Where a counter's byte lies in a ring of `n_bytes`.
fn place(counter: u64, n_bytes: usize) -> (usize, usize) {
    (counter as usize & (n_bytes - 1), n_bytes)
}

#[cfg(test)]
mod model;
