//! Links: ordered, reliable pipes of messages to one peer each, driven by non-blocking steps so that any number
//! of them move at the same time and none can hold up another. Knows bytes and peers; knows neither ranks nor
//! what a message means.
//!
//! [`Link`] is the promise, [`TcpLink`], [`TlsLink`], [`ShmLink`], [`VerbsLink`](verbs::VerbsLink) and [`MemoryLink`] keep it,
//! [`exchange`], [`send`] and [`recv`] are the blocking calls. They spin for a bounded time and then wait in the kernel;
//! [`Wait`] is how, for loops of others.
//!
//! Whatever reads bytes from outside has a fuzz target whose body ordinary tests run too (`tests/hostile.rs`). With nightly
//! and cargo-fuzz, from the project's root: `cargo +nightly fuzz run framed` (`handover`, `verbs`, `collective`, `wire`),
//! with `-- -max_total_time=60` for a minute of it.

mod drive;
mod error;
mod framed;
mod medium;
mod memory;
mod pipe;
pub mod shm;
mod tcp;
pub mod tls;
pub mod verbs;

use std::{os::fd::BorrowedFd, time::Duration};

use rustix::event::PollFlags;

pub use drive::{ExchangeError, Expired, Lane, Wait, exchange, recv, send};
pub use error::{LinkError, Pending};
pub use framed::{ByteStream, Framed, HEADER_BYTES};
pub use medium::Medium;
pub use memory::{MEMORY_PIPE_BYTES, MemoryControl, MemoryLink, MemoryStream};
pub use pipe::PipeLink;
pub use shm::ShmLink;
pub use tcp::TcpLink;
pub use tls::TlsLink;

/// Longest message in bytes. A length above it on the wire is an error, so garbage never becomes an allocation.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// How long a link is polled without a pause after its last progress, in microseconds, before the thread sleeps
/// in the kernel. A wake-up costs tens of microseconds, a token step has a hundred of these waits.
pub const SPIN_US: u64 = 100;

/// What one non-blocking step of sending achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The whole message is on its way.
    Done,
    /// Some bytes went; there are more.
    Moved,
    /// Nothing moves now.
    Stalled,
}

/// A bidirectional pipe of messages to one peer.
///
/// Promises, which the conformance suite checks: messages arrive whole, once, in order, and both directions move
/// independently. A lost, cut or foreign byte stream is an error that names the peer, never a wrong message. No
/// method blocks. After an error a link is good for [`Link::close`] only.
pub trait Link: Send {
    /// The peer's name, for people.
    fn peer(&self) -> &str;

    /// Sends what goes of `message` now. To be called with the same message until it answers [`Progress::Done`].
    fn poll_send(&mut self, message: &[u8]) -> Result<Progress, LinkError> {
        self.poll_send_parts([&[], message])
    }

    /// Like [`Link::poll_send`] for a message whose bytes lie in two places: a head of its user's need not be copied
    /// together with what it is the head of.
    fn poll_send_parts(&mut self, parts: [&[u8]; 2]) -> Result<Progress, LinkError>;

    /// Between messages: the length in bytes of the next one as soon as its header is here. An empty message is
    /// consumed by this call; any other by reading its last byte.
    fn poll_len(&mut self) -> Result<Option<usize>, LinkError>;

    /// Moves the next bytes of the current message into `out` and returns how many; 0 when none are here.
    fn poll_recv(&mut self, out: &mut [u8]) -> Result<usize, LinkError>;

    /// What the kernel can wait on, if there is such a thing.
    fn pollable(&self) -> Option<BorrowedFd<'_>>;

    /// To be called before each sleep on [`Link::pollable`], by who waits for `events` (to receive, to send): the events
    /// to sleep for there, or `None` if something moved meanwhile and there is to be no sleep. A link whose bytes do not
    /// go through the kernel has itself woken here.
    fn arm(&self, events: PollFlags) -> Option<PollFlags> {
        Some(events)
    }

    /// How long to poll without a pause; [`SPIN_US`] unless set.
    fn spin(&self) -> Duration;

    /// Sets [`Link::spin`]. Zero is right where more threads are runnable than there are cores.
    fn set_spin(&mut self, spin: Duration);

    /// Ends both directions; the peer reads what was sent so far and then sees the end.
    fn close(&mut self);
}
