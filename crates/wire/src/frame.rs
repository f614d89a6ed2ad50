//! Frames: a header in front of a message's body, in memory or on a blocking stream. Knows no message's content.

use std::io::{ErrorKind, Read, Write};

use base::{Sampled, Step};

use crate::{WIRE_VERSION, WireError};

/// Bytes in front of every body.
pub const HEADER_BYTES: usize = 12;

/// Longest body in bytes: a prompt of a million tokens takes a third of it.
pub const MAX_FRAME_BYTES: usize = 16 << 20;

/// How every frame starts.
const MAGIC: [u8; 4] = *b"1fwr";

/// A message that fits a frame. Its body's format is this crate's own affair.
pub trait Message: Sized {
    /// Tells messages apart on the wire.
    const KIND: u16;

    /// Longest body in bytes.
    const MAX_BYTES: usize = MAX_FRAME_BYTES;

    /// Appends the body to `frame`.
    fn append_body(&self, frame: Vec<u8>) -> Result<Vec<u8>, postcard::Error>;

    /// The message of a body, and the bytes behind it. Every count in it has been checked.
    fn parse_body(body: &[u8]) -> Result<(Self, &[u8]), WireError>;
}

/// The frame of a message.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, WireError> {
    let malformed = |source| WireError::Malformed { kind: M::KIND, source };
    let mut frame = message.append_body(vec![0; HEADER_BYTES]).map_err(malformed)?;
    let n_bytes = check_len::<M>(frame.len() - HEADER_BYTES)?;
    frame[..HEADER_BYTES].copy_from_slice(&header(M::KIND, n_bytes));
    Ok(frame)
}

/// The message of exactly one frame.
pub fn decode<M: Message>(frame: &[u8]) -> Result<M, WireError> {
    let truncated = |part, expected, found| WireError::Truncated { part, expected, found };
    let Some((header, body)) = frame.split_first_chunk() else {
        return Err(truncated("the header", HEADER_BYTES, frame.len()));
    };
    let n_bytes = check_header::<M>(header)?;
    match body.len().checked_sub(n_bytes) {
        None => Err(truncated("the body", n_bytes, body.len())),
        Some(0) => parse(body),
        Some(n_bytes) => Err(WireError::Trailing { kind: M::KIND, n_bytes }),
    }
}

/// Writes a message to a blocking stream, in one write, and flushes it.
pub fn write_frame<M: Message>(to: &mut impl Write, message: &M) -> Result<(), WireError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

/// Reads exactly one message from a blocking stream and not a byte more.
pub fn read_frame<M: Message>(from: &mut impl Read) -> Result<M, WireError> {
    let mut header = [0; HEADER_BYTES];
    match read_full(from, &mut header)? {
        0 => return Err(WireError::Closed),
        HEADER_BYTES => {}
        found => return Err(WireError::Truncated { part: "the header", expected: HEADER_BYTES, found }),
    }
    let expected = check_header::<M>(&header)?;
    // The buffer grows with what arrives, not with what was promised.
    let mut body = Vec::new();
    let found = from.take(expected as u64).read_to_end(&mut body)?;
    if found < expected {
        return Err(WireError::Truncated { part: "the body", expected, found });
    }
    parse(&body)
}

/// The frame of a step, for the links between ranks.
pub fn encode_step(step: &Step) -> Result<Vec<u8>, WireError> {
    encode(step)
}

/// The step of a frame.
pub fn decode_step(frame: &[u8]) -> Result<Step, WireError> {
    decode(frame)
}

/// The frame of a step's tokens, for the links between ranks.
#[allow(clippy::ptr_arg)] // the vector is the message
pub fn encode_sampled(sampled: &Vec<Sampled>) -> Result<Vec<u8>, WireError> {
    encode(sampled)
}

/// The tokens of a frame.
pub fn decode_sampled(frame: &[u8]) -> Result<Vec<Sampled>, WireError> {
    decode(frame)
}

fn header(kind: u16, n_bytes: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4..6].copy_from_slice(&WIRE_VERSION.to_le_bytes());
    header[6..8].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&n_bytes.to_le_bytes());
    header
}

/// Length of the body that a header announces. The magic comes first and the version second, in every version.
fn check_header<M: Message>(header: &[u8; HEADER_BYTES]) -> Result<usize, WireError> {
    let [m0, m1, m2, m3, v0, v1, k0, k1, n0, n1, n2, n3] = *header;
    let (found, theirs) = ([m0, m1, m2, m3], u16::from_le_bytes([v0, v1]));
    if found != MAGIC {
        return Err(WireError::Foreign { expected: MAGIC, found });
    }
    if theirs != WIRE_VERSION {
        return Err(WireError::Version { ours: WIRE_VERSION, theirs });
    }
    let (kind, n_bytes) = (u16::from_le_bytes([k0, k1]), u32::from_le_bytes([n0, n1, n2, n3]) as usize);
    if kind != M::KIND {
        return Err(WireError::Kind { expected: M::KIND, found: kind });
    }
    check_len::<M>(n_bytes)?;
    Ok(n_bytes)
}

fn check_len<M: Message>(n_bytes: usize) -> Result<u32, WireError> {
    let within = u32::try_from(n_bytes).ok().filter(|_| n_bytes <= M::MAX_BYTES);
    within.ok_or(WireError::TooLong { kind: M::KIND, n_bytes, limit: M::MAX_BYTES })
}

fn parse<M: Message>(body: &[u8]) -> Result<M, WireError> {
    match M::parse_body(body)? {
        (message, []) => Ok(message),
        (_, rest) => Err(WireError::Trailing { kind: M::KIND, n_bytes: rest.len() }),
    }
}

/// Fills `out` as far as there are bytes; returns how many.
fn read_full(from: &mut impl Read, out: &mut [u8]) -> Result<usize, WireError> {
    let mut n = 0;
    while n < out.len() {
        match from.read(&mut out[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(n)
}
