//! What can go wrong on a link, always with the peer's name and what was waited for.

use std::{fmt, io, time::Duration};

/// The part of a transfer that an error interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Sending a message of so many bytes.
    Send(usize),
    /// Receiving a message of so many bytes.
    Recv(usize),
    /// Waiting for any message.
    Message,
}

impl fmt::Display for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pending::Send(n) => write!(f, "sending {n} bytes"),
            Pending::Recv(n) => write!(f, "receiving {n} bytes"),
            Pending::Message => f.write_str("waiting for a message"),
        }
    }
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The deadline passed.
    #[error("{peer}: {pending} took longer than {} ms", .timeout.as_millis())]
    TimedOut {
        /// The other end.
        peer: String,
        /// What was waited for.
        pending: Pending,
        /// The time it had.
        timeout: Duration,
    },
    /// The other end went away.
    #[error("{peer} closed the link while {pending}")]
    Closed {
        /// The other end.
        peer: String,
        /// What was waited for.
        pending: Pending,
    },
    /// An encrypted stream ended without the word that ends it.
    #[error(
        "{peer}: the encrypted link was cut off while {pending}\nhint: its process was killed, or somebody between cut it"
    )]
    CutOff {
        /// The other end.
        peer: String,
        /// What was waited for.
        pending: Pending,
    },
    /// The operating system reports a failure, such as a reset.
    #[error("{peer}: {pending} failed: {source}")]
    Io {
        /// The other end.
        peer: String,
        /// What was waited for.
        pending: Pending,
        /// The system's words.
        source: io::Error,
    },
    /// The bytes are no message of ours.
    #[error("{peer} sent a foreign message header: expected magic {expected:02x?}, found {found:02x?}")]
    Foreign {
        /// The other end.
        peer: String,
        /// How a header starts.
        expected: [u8; 4],
        /// How this one starts.
        found: [u8; 4],
    },
    /// A message was lost or repeated.
    #[error("{peer} is out of step: expected message {expected}, found message {found}")]
    Sequence {
        /// The other end.
        peer: String,
        /// Number of the next message, modulo 2^32.
        expected: u32,
        /// Number in the header.
        found: u32,
    },
    /// The message is longer than any may be.
    #[error("{peer}: a message of {n_bytes} bytes is longer than the limit of {limit} bytes")]
    TooLong {
        /// The other end.
        peer: String,
        /// Length of the message.
        n_bytes: usize,
        /// Longest allowed.
        limit: usize,
    },
    /// The message has another length than the receiver knows it must have.
    #[error("{peer} sent another message than was due: expected {expected} bytes, found {found}")]
    Length {
        /// The other end.
        peer: String,
        /// Bytes that were due.
        expected: usize,
        /// Bytes in the header.
        found: usize,
    },
    /// Packets were sent and did not arrive: an unreliable device loses them without a word.
    #[error(
        "{peer}: packets were lost on {device}: it sent {n_sent}, {n_arrived} arrived\nhint: a cable or a port is failing"
    )]
    Lost {
        /// The other end.
        peer: String,
        /// Our device.
        device: String,
        /// Packets that the peer has sent, modulo 2^32.
        n_sent: u32,
        /// Packets that arrived before the first that did not, modulo 2^32.
        n_arrived: u32,
    },
    /// A packet's bytes are not those that were sent.
    #[error(
        "{peer}: packet {packet} was damaged on {device}: expected checksum {expected:08x}, found {found:08x}"
    )]
    Damaged {
        /// The other end.
        peer: String,
        /// Our device.
        device: String,
        /// Number of the packet, modulo 2^32.
        packet: u32,
        /// The checksum in the packet.
        expected: u32,
        /// The checksum of the packet.
        found: u32,
    },
    /// The peer counts receives that it cannot have posted.
    #[error("{peer} is out of step: expected at most {expected} packets read, found {found}")]
    Credit {
        /// The other end.
        peer: String,
        /// Packets that were sent to it, modulo 2^32.
        expected: u32,
        /// Packets that it says it has read, modulo 2^32.
        found: u32,
    },
    /// The device could not do what was asked.
    #[error("{peer}: {device} ended a packet with status {status} ({})", verbs_status(*.status))]
    Device {
        /// The other end.
        peer: String,
        /// Our device.
        device: String,
        /// The status, as the verbs library numbers them.
        status: u32,
    },
    /// The device's port does not carry traffic any more.
    #[error(
        "{peer}: the port of {device} is {state} while {pending}\nhint: the cable was pulled, or the other machine is off"
    )]
    PortDown {
        /// The other end.
        peer: String,
        /// Our device.
        device: String,
        /// What the port says.
        state: String,
        /// What was waited for.
        pending: Pending,
    },
}

/// The commonest of the verbs library's completion statuses, in words.
fn verbs_status(status: u32) -> &'static str {
    match status {
        1 => "a packet longer than its receive",
        2 => "an operation the queue pair cannot do",
        4 => "memory that is not registered",
        5 => "flushed, for the queue pair has failed before",
        12 => "no answer from the other end",
        19 => "a fatal error of the device",
        _ => "see the verbs library's list",
    }
}
