//! Messages over a stream of bytes: a 12-byte header (magic, length, sequence number), then the body. Shared by
//! every link that is a byte stream underneath; knows no sockets.

use std::{
    io::{self, ErrorKind, IoSlice},
    os::fd::BorrowedFd,
    time::Duration,
};

use rustix::event::PollFlags;

use crate::{Link, LinkError, MAX_MESSAGE_BYTES, Pending, Progress, SPIN_US};

/// Bytes in front of every message.
pub const HEADER_BYTES: usize = 12;

/// How every header starts.
const MAGIC: [u8; 4] = *b"1fln";

/// A non-blocking stream of bytes in both directions. `WouldBlock` says that nothing moves now.
pub trait ByteStream: Send {
    /// Bytes that are read ahead, at least [`HEADER_BYTES`]: a smaller message comes with its header in one read and is
    /// copied once more, the middle of a larger one goes straight to its place.
    const READ_AHEAD_BYTES: usize = 16 << 10;

    /// Reads some bytes; 0 is the end, `UnexpectedEof` one that comes without the stream's own word for it.
    fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize>;
    /// Writes some of the bytes of `parts`, in order. After "would block" it is called with the same bytes again.
    fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize>;
    /// What the kernel can wait on.
    fn pollable(&self) -> Option<BorrowedFd<'_>>;
    /// As [`Link::arm`].
    fn arm(&self, events: PollFlags) -> Option<PollFlags> {
        Some(events)
    }
    /// Ends both directions.
    fn close(&mut self);
}

/// A [`Link`] over a [`ByteStream`].
pub struct Framed<S> {
    stream: S,
    peer: String,
    spin: Duration,
    /// The message that is being sent.
    outgoing: Option<Outgoing>,
    n_sent: u32,
    n_received: u32,
    /// Body bytes of the current incoming message that were not handed out yet.
    n_left: usize,
    inbox: Inbox,
}

struct Outgoing {
    header: [u8; HEADER_BYTES],
    /// Bytes that went, header included.
    n_gone: usize,
}

struct Inbox {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S: ByteStream> Framed<S> {
    /// A link over `stream` to a peer of that name.
    pub fn over(stream: S, peer: impl Into<String>) -> Framed<S> {
        Framed {
            stream,
            peer: peer.into(),
            spin: Duration::from_micros(SPIN_US),
            outgoing: None,
            n_sent: 0,
            n_received: 0,
            n_left: 0,
            inbox: Inbox { bytes: vec![0; S::READ_AHEAD_BYTES].into_boxed_slice(), start: 0, end: 0 },
        }
    }

    pub(crate) fn stream(&self) -> &S {
        &self.stream
    }

    fn begin(&mut self, len: usize) -> Result<Outgoing, LinkError> {
        let prefix = u32::try_from(len).ok().filter(|_| len <= MAX_MESSAGE_BYTES);
        let Some(prefix) = prefix else { return Err(self.too_long(len)) };
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&MAGIC);
        header[4..8].copy_from_slice(&prefix.to_le_bytes());
        header[8..].copy_from_slice(&self.n_sent.to_le_bytes());
        Ok(Outgoing { header, n_gone: 0 })
    }

    /// Length of the message that `header` announces.
    fn check_header(&mut self, header: [u8; HEADER_BYTES]) -> Result<usize, LinkError> {
        let [m0, m1, m2, m3, _, _, _, _, s0, s1, s2, s3] = header;
        let (magic, sequence) = ([m0, m1, m2, m3], u32::from_le_bytes([s0, s1, s2, s3]));
        let len = announced_len(&header);
        let peer = || self.peer.clone();
        if magic != MAGIC {
            return Err(LinkError::Foreign { peer: peer(), expected: MAGIC, found: magic });
        }
        if sequence != self.n_received {
            return Err(LinkError::Sequence { peer: peer(), expected: self.n_received, found: sequence });
        }
        if len > MAX_MESSAGE_BYTES {
            return Err(self.too_long(len));
        }
        self.n_received = self.n_received.wrapping_add(1);
        Ok(len)
    }

    /// One read into the free end of the inbox; `false` when nothing is here.
    fn fill_inbox(&mut self, pending: Pending) -> Result<bool, LinkError> {
        self.inbox.make_room();
        let read = self.stream.try_read(&mut self.inbox.bytes[self.inbox.end..]);
        let n = self.check_read(read, pending)?;
        self.inbox.end += n;
        Ok(n > 0)
    }

    fn check_read(&self, read: io::Result<usize>, pending: Pending) -> Result<usize, LinkError> {
        match read {
            Ok(0) => Err(LinkError::Closed { peer: self.peer.clone(), pending }),
            Ok(n) => Ok(n),
            Err(e) if is_pause(&e) => Ok(0),
            Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
                Err(LinkError::CutOff { peer: self.peer.clone(), pending })
            }
            Err(source) => Err(LinkError::Io { peer: self.peer.clone(), pending, source }),
        }
    }

    fn too_long(&self, n_bytes: usize) -> LinkError {
        LinkError::TooLong { peer: self.peer.clone(), n_bytes, limit: MAX_MESSAGE_BYTES }
    }
}

impl<S: ByteStream> Link for Framed<S> {
    fn peer(&self) -> &str {
        &self.peer
    }

    fn poll_send_parts(&mut self, parts: [&[u8]; 2]) -> Result<Progress, LinkError> {
        let len = parts[0].len() + parts[1].len();
        let mut outgoing = match self.outgoing.take() {
            Some(outgoing) => outgoing,
            None => self.begin(len)?,
        };
        let mut n_gone = outgoing.n_gone;
        let mut rest = |part: &'_ [u8]| {
            let n = n_gone.min(part.len());
            n_gone -= n;
            n
        };
        let gone = [rest(&outgoing.header), rest(parts[0]), rest(parts[1])];
        let slices = [
            IoSlice::new(&outgoing.header[gone[0]..]),
            IoSlice::new(&parts[0][gone[1]..]),
            IoSlice::new(&parts[1][gone[2]..]),
        ];
        // A system call takes all at once; what is gone would only cost it time.
        let n_over = slices.iter().take(2).take_while(|slice| slice.is_empty()).count();
        let sent = self.stream.try_write(&slices[n_over..]);
        let n = match sent {
            Ok(n) => n,
            Err(e) if is_pause(&e) => 0,
            Err(source) => {
                let (peer, pending) = (self.peer.clone(), Pending::Send(len));
                return Err(match source.kind() {
                    ErrorKind::BrokenPipe => LinkError::Closed { peer, pending },
                    _ => LinkError::Io { peer, pending, source },
                });
            }
        };
        outgoing.n_gone += n;
        if outgoing.n_gone == HEADER_BYTES + len {
            self.n_sent = self.n_sent.wrapping_add(1);
            return Ok(Progress::Done);
        }
        self.outgoing = Some(outgoing);
        Ok(if n > 0 { Progress::Moved } else { Progress::Stalled })
    }

    fn poll_len(&mut self) -> Result<Option<usize>, LinkError> {
        loop {
            if let Some(header) = self.inbox.take_header() {
                self.n_left = self.check_header(header)?;
                return Ok(Some(self.n_left));
            }
            if !self.fill_inbox(Pending::Message)? {
                return Ok(None);
            }
        }
    }

    fn poll_recv(&mut self, out: &mut [u8]) -> Result<usize, LinkError> {
        let wanted = out.len().min(self.n_left);
        if wanted == 0 {
            return Ok(0);
        }
        let out = &mut out[..wanted];
        let pending = Pending::Recv(self.n_left);
        let mut n = self.inbox.take(out);
        if n == 0 && wanted >= S::READ_AHEAD_BYTES {
            let read = self.stream.try_read(out);
            n = self.check_read(read, pending)?;
        } else if n == 0 && self.fill_inbox(pending)? {
            n = self.inbox.take(out);
        }
        self.n_left -= n;
        Ok(n)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        self.stream.pollable()
    }

    fn arm(&self, events: PollFlags) -> Option<PollFlags> {
        self.stream.arm(events)
    }

    fn spin(&self) -> Duration {
        self.spin
    }

    fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    fn close(&mut self) {
        self.stream.close();
    }
}

impl Inbox {
    /// Moves what is held to the front, so that a header always fits behind it.
    fn make_room(&mut self) {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
    }

    fn take_header(&mut self) -> Option<[u8; HEADER_BYTES]> {
        let header = *self.bytes[self.start..self.end].first_chunk()?;
        self.start += HEADER_BYTES;
        Some(header)
    }

    fn take(&mut self, out: &mut [u8]) -> usize {
        let n = out.len().min(self.end - self.start);
        out[..n].copy_from_slice(&self.bytes[self.start..self.start + n]);
        self.start += n;
        n
    }
}

/// Length in bytes of the body behind a header, as the header says.
pub(crate) fn announced_len(header: &[u8; HEADER_BYTES]) -> usize {
    let [_, _, _, _, l0, l1, l2, l3, ..] = *header;
    u32::from_le_bytes([l0, l1, l2, l3]) as usize
}

/// Whether an error only says that nothing moves now.
fn is_pause(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands out fixed bytes in pieces of `piece` bytes, then ends. Swallows what is written.
    struct Tape {
        bytes: Vec<u8>,
        at: usize,
        piece: usize,
    }

    impl ByteStream for Tape {
        fn try_read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let n = out.len().min(self.piece).min(self.bytes.len() - self.at);
            out[..n].copy_from_slice(&self.bytes[self.at..self.at + n]);
            self.at += n;
            Ok(n)
        }
        fn try_write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            Ok(parts.iter().map(|p| p.len()).sum())
        }
        fn pollable(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn close(&mut self) {}
    }

    fn link(bytes: Vec<u8>, piece: usize) -> Framed<Tape> {
        Framed::over(Tape { bytes, at: 0, piece }, "tape")
    }

    fn header(magic: [u8; 4], len: u32, sequence: u32) -> Vec<u8> {
        [magic, len.to_le_bytes(), sequence.to_le_bytes()].concat()
    }

    fn read_all(bytes: Vec<u8>, piece: usize) -> (Vec<Vec<u8>>, LinkError) {
        let mut link = link(bytes, piece);
        let mut messages = Vec::new();
        loop {
            let mut message = vec![7; 3];
            match crate::recv(&mut link, &mut message, None) {
                Ok(()) => messages.push(message),
                Err(e) => return (messages, e),
            }
        }
    }

    #[test]
    fn a_header_is_golden() {
        let outgoing = link(vec![], 1).begin(0x010203).unwrap();
        assert_eq!(&outgoing.header, b"1fln\x03\x02\x01\0\0\0\0\0");
    }

    #[test]
    fn foreign_lost_and_overlong_messages_are_told_apart() {
        let (_, e) = read_all(b"GET / HTTP/1.1\r\n\r\n".to_vec(), 5);
        assert!(matches!(e, LinkError::Foreign { found: [b'G', b'E', b'T', b' '], .. }), "{e}");
        let (_, e) = read_all(header(MAGIC, 0, 1), 5);
        assert!(matches!(e, LinkError::Sequence { expected: 0, found: 1, .. }), "{e}");
        let (_, e) = read_all(header(MAGIC, u32::MAX, 0), 5);
        assert!(matches!(e, LinkError::TooLong { n_bytes: 0xffff_ffff, .. }), "{e}");
        let mut link = link(vec![], 1);
        let e = link.begin(MAX_MESSAGE_BYTES + 1).err().unwrap();
        assert_eq!(
            e.to_string(),
            "tape: a message of 268435457 bytes is longer than the limit of 268435456 bytes"
        );
    }

    #[test]
    fn a_promised_giant_allocates_only_what_arrives() {
        let mut bytes = header(MAGIC, MAX_MESSAGE_BYTES as u32, 0);
        bytes.extend([1; 1000]);
        let (mut link, mut message) = (link(bytes, 100), Vec::new());
        let e = crate::recv(&mut link, &mut message, None).unwrap_err();
        assert!(matches!(e, LinkError::Closed { pending: Pending::Recv(_), .. }), "{e}");
        assert!(message.capacity() <= 4 << 20, "{} bytes", message.capacity());
    }

    proptest! {
        #[test]
        fn any_cut_of_the_stream_gives_the_same_messages(
            messages in prop::collection::vec(0..40_000usize, 0..6), piece in 1..50_000usize,
        ) {
            let body = |n: usize| (0..n).map(|i| (i * 31 + n) as u8).collect();
            let messages: Vec<Vec<u8>> = messages.into_iter().map(body).collect();
            let frame = |(i, m): (usize, &Vec<u8>)| [header(MAGIC, m.len() as u32, i as u32), m.clone()];
            let stream = messages.iter().enumerate().flat_map(frame);
            let (found, end) = read_all(stream.flatten().collect(), piece);
            prop_assert_eq!(found, messages);
            prop_assert!(matches!(end, LinkError::Closed { pending: Pending::Message, .. }), "{}", end);
        }

        #[test]
        fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..200), piece in 1..200usize, framed: bool) {
            let mut bytes = if framed { header(MAGIC, noise.len() as u32 / 2, 0) } else { vec![] };
            bytes.extend(&noise);
            let (found, _) = read_all(bytes, piece);
            prop_assert!(found.len() <= 1 + noise.len() / HEADER_BYTES);
        }
    }
}
