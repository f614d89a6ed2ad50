//! The stream beside a verbs link. It was authenticated before; here it carries the agreement on the link, and afterwards
//! stays open as the peer's sign of life, with short notes: how many packets were sent, so that a silent loss is noticed,
//! and that the end is the end. Knows no device.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

/// Longest text of the agreement in bytes.
const MAX_TEXT_BYTES: usize = 512;
/// Bytes of a note: its kind and a number.
const NOTE_BYTES: usize = 5;
/// What is left to write when a link ends is given so much time, in milliseconds.
const LAST_WORDS_MS: u64 = 100;

/// What a peer says of the packets it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// So many packets were sent a while ago.
    Sent(u32),
    /// So many packets were sent, and there will be no more.
    End(u32),
    /// The stream ended without a word: the peer died.
    Gone,
}

/// The stream while the link stands; nothing blocks.
pub(super) struct Control {
    stream: TcpStream,
    /// A note as far as it came.
    incoming: ([u8; NOTE_BYTES], usize),
    /// A note as far as it went.
    outgoing: ([u8; NOTE_BYTES], usize),
}

impl Control {
    pub(super) fn new(stream: TcpStream) -> io::Result<Control> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok(Control { stream, incoming: ([0; NOTE_BYTES], 0), outgoing: ([0; NOTE_BYTES], NOTE_BYTES) })
    }

    /// The peer's next note, if one is here. A note of another kind is an error.
    pub(super) fn read(&mut self) -> io::Result<Option<Note>> {
        let (bytes, n_here) = &mut self.incoming;
        while *n_here < NOTE_BYTES {
            match self.stream.read(&mut bytes[*n_here..]) {
                Ok(0) => return Ok(Some(Note::Gone)),
                Ok(n) => *n_here += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // it may have ended with notes of ours unread
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok(Some(Note::Gone)),
                Err(e) => return Err(e),
            }
        }
        *n_here = 0;
        let [kind, n @ ..] = *bytes;
        match kind {
            b's' => Ok(Some(Note::Sent(u32::from_le_bytes(n)))),
            b'e' => Ok(Some(Note::End(u32::from_le_bytes(n)))),
            _ => Err(io::Error::new(ErrorKind::InvalidData, format!("a note of kind {kind:#04x}"))),
        }
    }

    /// Begins to tell how many packets were sent; `false` while an earlier note is not gone yet.
    pub(super) fn tell_sent(&mut self, n_sent: u32) -> io::Result<bool> {
        if !self.write_on()? {
            return Ok(false);
        }
        self.outgoing = (note(b's', n_sent), 0);
        self.write_on()?;
        Ok(true)
    }

    /// Says that no packet follows, and ends this direction. A peer that is gone already need not hear it.
    pub(super) fn end(&mut self, n_sent: u32) {
        let _ = self.stream.set_nonblocking(false);
        let _ = self.stream.set_write_timeout(Some(Duration::from_millis(LAST_WORDS_MS)));
        let (bytes, n_gone) = self.outgoing;
        let _ = self.stream.write_all(&[&bytes[n_gone..], &note(b'e', n_sent)].concat());
        let _ = self.stream.shutdown(Shutdown::Write);
        let _ = self.stream.set_nonblocking(true);
    }

    /// Writes what is left of a note; whether nothing is.
    fn write_on(&mut self) -> io::Result<bool> {
        let (bytes, n_gone) = &mut self.outgoing;
        while *n_gone < NOTE_BYTES {
            match self.stream.write(&bytes[*n_gone..]) {
                Ok(n) => *n_gone += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

fn note(kind: u8, n: u32) -> [u8; NOTE_BYTES] {
    let [a, b, c, d] = n.to_le_bytes();
    [kind, a, b, c, d]
}

/// The stream while the two ends agree: texts of a kind, each within a time.
pub(super) struct Talk<'a>(pub(super) &'a TcpStream);

impl Talk<'_> {
    /// Sends a text; what is longer than any may be is cut.
    pub(super) fn say(&mut self, kind: u8, text: &[u8], timeout: Duration) -> io::Result<()> {
        let text = &text[..text.len().min(MAX_TEXT_BYTES)];
        let [low, high] = (text.len() as u16).to_le_bytes();
        self.0.set_write_timeout(Some(timeout))?;
        self.0.write_all(&[&[kind, low, high], text].concat())
    }

    /// Receives a text and its kind.
    pub(super) fn hear(&mut self, timeout: Duration) -> io::Result<(u8, Vec<u8>)> {
        let deadline = Instant::now() + timeout;
        let mut head = [0; 3];
        self.fill(&mut head, deadline)?;
        let [kind, low, high] = head;
        let len = usize::from(u16::from_le_bytes([low, high]));
        if len > MAX_TEXT_BYTES {
            let found = format!("expected at most {MAX_TEXT_BYTES} bytes, found {len}");
            return Err(io::Error::new(ErrorKind::InvalidData, found));
        }
        let mut text = vec![0; len];
        self.fill(&mut text, deadline)?;
        Ok((kind, text))
    }

    fn fill(&mut self, mut out: &mut [u8], deadline: Instant) -> io::Result<()> {
        while !out.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.0.set_read_timeout(Some(left))?;
            match self.0.read(out) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => out = &mut out[n..],
                // how a read time-out is reported
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    pub(in super::super) fn streams() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (a, listener.accept().unwrap().0)
    }

    /// The next note, waited for.
    fn next(control: &mut Control) -> io::Result<Note> {
        let deadline = Instant::now() + LONG;
        while Instant::now() < deadline {
            if let Some(note) = control.read()? {
                return Ok(note);
            }
            std::thread::yield_now();
        }
        Err(ErrorKind::TimedOut.into())
    }

    #[test]
    fn notes_arrive_and_the_end_is_the_end() {
        let (a, b) = streams();
        let (mut a, mut b) = (Control::new(a).unwrap(), Control::new(b).unwrap());
        assert_eq!(b.read().unwrap(), None);
        assert!(a.tell_sent(7).unwrap());
        assert!(a.tell_sent(u32::MAX).unwrap());
        a.end(8);
        assert_eq!(next(&mut b).unwrap(), Note::Sent(7));
        assert_eq!(next(&mut b).unwrap(), Note::Sent(u32::MAX));
        assert_eq!(next(&mut b).unwrap(), Note::End(8));
        assert_eq!(next(&mut b).unwrap(), Note::Gone);
        drop(b);
        assert_eq!(next(&mut a).unwrap(), Note::Gone);
    }

    #[test]
    fn pieces_of_notes_are_put_together_and_foreign_ones_refused() {
        let (mut raw, b) = streams();
        raw.set_nodelay(true).unwrap();
        let mut b = Control::new(b).unwrap();
        let (first, rest) = (&note(b's', 0x0102_0304)[..2], &note(b's', 0x0102_0304)[2..]);
        raw.write_all(first).unwrap();
        while b.incoming.1 < first.len() {
            assert_eq!(b.read().unwrap(), None);
        }
        raw.write_all(rest).unwrap();
        assert_eq!(next(&mut b).unwrap(), Note::Sent(0x0102_0304));
        raw.write_all(b"GET / HTTP/1.1").unwrap();
        assert_eq!(next(&mut b).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn texts_are_heard_whole_and_in_time() {
        let (a, b) = streams();
        Talk(&a).say(b'x', &[1; 2 * MAX_TEXT_BYTES], LONG).unwrap();
        Talk(&a).say(b'y', b"", LONG).unwrap();
        assert_eq!(Talk(&b).hear(LONG).unwrap(), (b'x', vec![1; MAX_TEXT_BYTES]));
        assert_eq!(Talk(&b).hear(LONG).unwrap(), (b'y', vec![]));
        let e = Talk(&b).hear(Duration::from_millis(20)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TimedOut);
        (&a).write_all(&[b'z', 0xff, 0xff]).unwrap();
        assert_eq!(Talk(&b).hear(LONG).unwrap_err().kind(), ErrorKind::InvalidData);
        drop(a);
        assert_eq!(Talk(&b).hear(LONG).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
