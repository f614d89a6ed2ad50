//! The one loop that moves messages over several links at once, each whenever it can, as a script says. Knows heads and
//! links; what is moved, and what is done with it, only the script knows.

use std::time::Duration;

use base::RankId;
use rustix::event::PollFlags;
use transport::{Link, LinkError, Pending, Progress, Wait};

use crate::head::{HEAD_BYTES, Head};

/// Most that is read of a link's rest in search of a notice, in bytes.
const MAX_LAST_BYTES: usize = 64 << 20;
/// After a failure, time for half-sent messages, so that every peer can be told whose it is.
const FAREWELL: Duration = Duration::from_millis(100);
/// First allocation for a message of unknown length, in bytes; more follows as bytes arrive.
const FIRST_ROOM_BYTES: usize = 1 << 20;

/// What a script has for the next message with a peer.
pub(crate) enum Next<T> {
    /// Its body: where it is, or where it goes.
    Message(T),
    /// Something else has to arrive first.
    Later,
    /// There is none any more.
    End,
}

/// The messages of one call. Both ends count them from 0 in each direction; every length is known to both.
pub(crate) trait Script {
    /// The `i`-th message to `peer`. The same bytes until the message has gone.
    fn outgoing(&self, peer: usize, i: usize) -> Next<&[u8]>;

    /// Where the `i`-th message of `peer` goes. The same place until it is there.
    fn incoming(&mut self, peer: usize, i: usize) -> Next<&mut [u8]>;

    /// The `i`-th message of `peer` is there.
    fn arrived(&mut self, _peer: usize, _i: usize) {}
}

/// A link that takes part, and how far it is.
pub(crate) struct Lane {
    link: usize,
    /// What the script calls the peer.
    peer: usize,
    n_out: usize,
    sending: Wish,
    n_in: usize,
    receiving: Wish,
    inbound: Inbound,
}

/// What a lane waits for in one direction.
#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Link,
    Script,
    Nothing,
}

/// The message that is coming in.
#[derive(Default)]
struct Inbound {
    /// Bytes of all of it, once that is known.
    len: Option<usize>,
    head: [u8; HEAD_BYTES],
    /// Bytes of it that are here.
    n_here: usize,
}

/// Why a link's part failed.
#[derive(Debug)]
pub(crate) enum Fault {
    Link(LinkError),
    /// The peer says that a rank failed.
    Notice(RankId),
    /// The message's incarnation is another.
    Incarnation(u32),
    /// The peer is at another call.
    Call {
        expected: Head,
        found: Head,
    },
}

impl From<LinkError> for Fault {
    fn from(error: LinkError) -> Fault {
        Fault::Link(error)
    }
}

/// A fault, and the index of its link.
pub(crate) type Failed = (usize, Fault);

/// A link, and whether a message is half sent: then nothing else can be said there.
pub(crate) struct Line {
    pub(crate) link: Box<dyn Link>,
    pub(crate) is_mid_send: bool,
}

impl Line {
    /// Says that `culprit` failed if that goes at once, then closes.
    pub(crate) fn end(&mut self, incarnation: u32, culprit: RankId) {
        if !self.is_mid_send {
            // who cannot be told sees the link's end
            let _ = self.link.poll_send(&Head::notice(incarnation, culprit).to_bytes());
        }
        self.link.close();
    }

    fn send_some(&mut self, head: Head, body: &[u8]) -> Result<Progress, LinkError> {
        let progress = self.link.poll_send_parts([&head.to_bytes(), body])?;
        self.is_mid_send = progress != Progress::Done;
        Ok(progress)
    }
}

/// Moves a script's messages; all of them carry `head`.
pub(crate) fn drive(
    lines: &mut [Line],
    lanes: &mut [Lane],
    head: Head,
    script: &mut dyn Script,
    timeout: Option<Duration>,
) -> Result<(), Failed> {
    let done = move_all(lines, lanes, head, script, timeout);
    if let Err((failed, _)) = &done {
        finish_messages(lines, lanes, head, script, *failed);
    }
    done
}

/// After a failure: ends the messages that are half sent, so that the peers can be told, as far as they take them soon.
fn finish_messages(lines: &mut [Line], lanes: &mut [Lane], head: Head, script: &dyn Script, failed: usize) {
    let mut wait = Wait::new(Duration::ZERO, Some(FAREWELL));
    let mut is_over = false;
    while !is_over {
        let mut moved = false;
        for lane in lanes.iter_mut().filter(|lane| lane.link != failed) {
            let line = &mut lines[lane.link];
            if line.is_mid_send && lane.sending == Wish::Link {
                // a second failure is told nobody: that link has nothing more to send
                moved |= lane.send_some(line, head, script).unwrap_or_else(|_| {
                    lane.sending = Wish::Nothing;
                    false
                });
            }
        }
        let lines = &*lines;
        let half_sent =
            |lane: &&Lane| lane.link != failed && lines[lane.link].is_mid_send && lane.sending == Wish::Link;
        let pending =
            lanes.iter().filter(half_sent).map(|lane| (lines[lane.link].link.as_ref(), PollFlags::OUT));
        is_over = !lanes.iter().any(|lane| half_sent(&lane)) || wait.pause(moved, pending).is_err();
    }
}

fn move_all(
    lines: &mut [Line],
    lanes: &mut [Lane],
    head: Head,
    script: &mut dyn Script,
    timeout: Option<Duration>,
) -> Result<(), Failed> {
    let spin = lanes.iter().map(|lane| lines[lane.link].link.spin()).max().unwrap_or_default();
    let mut wait = Wait::new(spin, timeout);
    loop {
        let mut moved = false;
        // First everybody gets what is theirs, so that no peer waits for our reading.
        for lane in lanes.iter_mut() {
            let line = &mut lines[lane.link];
            moved |= lane.send_some(line, head, script).map_err(|e| lane.failed(line, head, e))?;
        }
        for lane in lanes.iter_mut() {
            let line = &mut lines[lane.link];
            moved |= lane.recv_some(line, head, script).map_err(|fault| (lane.link, fault))?;
        }
        let Some(late) = lanes.iter().find(|lane| !lane.is_done()) else { return Ok(()) };
        // Who keeps us waiting is rather a peer that owes us something than one that waits itself.
        let late = lanes.iter().find(|lane| lane.receiving == Wish::Link).unwrap_or(late);
        let lines = &*lines;
        let pending = lanes.iter().filter(|lane| !lane.events().is_empty());
        wait.pause(moved, pending.map(|lane| (lines[lane.link].link.as_ref(), lane.events()))).map_err(
            |expired| (late.link, Fault::Link(expired.at(lines[late.link].link.as_ref(), late.pending()))),
        )?;
    }
}

/// Receives one message of any length, whose allocation is reused; without a time-out it waits until the peer sends or
/// goes away.
pub(crate) fn recv_any(
    line: &mut Line,
    head: Head,
    message: &mut Vec<u8>,
    timeout: Option<Duration>,
) -> Result<(), Fault> {
    let link = line.link.as_mut();
    let mut wait = Wait::new(link.spin(), timeout);
    let mut inbound = Inbound::default();
    loop {
        let mut moved = false;
        if let Some(len) = inbound.body_len(link, head, &mut moved)? {
            let n_body = inbound.n_here - HEAD_BYTES;
            make_room(message, n_body, len);
            let n = if n_body < len { link.poll_recv(&mut message[n_body..])? } else { 0 };
            inbound.n_here += n;
            moved |= n > 0;
            if n_body + n == len {
                return Ok(());
            }
        }
        wait.pause(moved, [(&*link, PollFlags::IN)])
            .map_err(|expired| expired.at(&*link, Pending::Message))?;
    }
}

/// Lets `message` hold more than its first `n_here` bytes, at most `len`, without trusting `len` further than the bytes
/// that already came.
fn make_room(message: &mut Vec<u8>, n_here: usize, len: usize) {
    if message.len() > len {
        message.truncate(len);
    } else if message.len() == n_here {
        message.resize(len.min(FIRST_ROOM_BYTES.max(2 * n_here)), 0);
    }
}

impl Lane {
    /// The part of a link in a call, whose peer the script knows under that number.
    pub(crate) fn new(link: usize, peer: usize) -> Lane {
        let (n_out, n_in) = (0, 0);
        Lane {
            link,
            peer,
            n_out,
            sending: Wish::Link,
            n_in,
            receiving: Wish::Link,
            inbound: Inbound::default(),
        }
    }

    fn is_done(&self) -> bool {
        self.sending == Wish::Nothing && self.receiving == Wish::Nothing
    }

    fn send_some(&mut self, line: &mut Line, head: Head, script: &dyn Script) -> Result<bool, LinkError> {
        let body = match script.outgoing(self.peer, self.n_out) {
            Next::Message(body) => body,
            Next::Later => {
                self.sending = Wish::Script;
                return Ok(false);
            }
            Next::End => {
                self.sending = Wish::Nothing;
                return Ok(false);
            }
        };
        self.sending = Wish::Link;
        let progress = line.send_some(head, body)?;
        if progress == Progress::Done {
            self.n_out += 1;
            if matches!(script.outgoing(self.peer, self.n_out), Next::End) {
                self.sending = Wish::Nothing;
            }
        }
        Ok(progress != Progress::Stalled)
    }

    fn recv_some(&mut self, line: &mut Line, head: Head, script: &mut dyn Script) -> Result<bool, Fault> {
        let body = match script.incoming(self.peer, self.n_in) {
            Next::Message(body) => body,
            Next::Later => {
                self.receiving = Wish::Script;
                return Ok(false);
            }
            Next::End => {
                self.receiving = Wish::Nothing;
                return Ok(false);
            }
        };
        self.receiving = Wish::Link;
        let (link, mut moved) = (line.link.as_mut(), false);
        let Some(found) = self.inbound.body_len(link, head, &mut moved)? else { return Ok(moved) };
        if found != body.len() {
            return Err(LinkError::Length { peer: link.peer().into(), expected: body.len(), found }.into());
        }
        let n_body = self.inbound.n_here - HEAD_BYTES;
        let n = if n_body < found { link.poll_recv(&mut body[n_body..])? } else { 0 };
        self.inbound.n_here += n;
        if n_body + n == found {
            self.inbound = Inbound::default();
            script.arrived(self.peer, self.n_in);
            self.n_in += 1;
            if matches!(script.incoming(self.peer, self.n_in), Next::End) {
                self.receiving = Wish::Nothing;
            }
            moved = true;
        }
        Ok(moved || n > 0)
    }

    fn events(&self) -> PollFlags {
        let of = |wish, event| if wish == Wish::Link { event } else { PollFlags::empty() };
        of(self.sending, PollFlags::OUT) | of(self.receiving, PollFlags::IN)
    }

    fn pending(&self) -> Pending {
        match (self.inbound.len, self.receiving) {
            (Some(len), _) => Pending::Recv(len.saturating_sub(self.inbound.n_here)),
            (None, Wish::Nothing) => Pending::Send(0),
            (None, _) => Pending::Message,
        }
    }

    /// A peer that closed may have said why before: that is what counts.
    fn failed(&mut self, line: &mut Line, head: Head, error: LinkError) -> Failed {
        let notice = self.inbound.last_words(line.link.as_mut(), head);
        (self.link, notice.map_or(Fault::Link(error), Fault::Notice))
    }
}

impl Inbound {
    /// Length of the current message's body as soon as its head is here and checked.
    fn body_len(
        &mut self,
        link: &mut dyn Link,
        expected: Head,
        moved: &mut bool,
    ) -> Result<Option<usize>, Fault> {
        if self.n_here >= HEAD_BYTES {
            return Ok(self.len.map(|len| len - HEAD_BYTES));
        }
        if !self.read_head(link, moved)? {
            return Ok(None);
        }
        let found = Head::from_bytes(self.head);
        if found.incarnation != expected.incarnation {
            return Err(Fault::Incarnation(found.incarnation));
        }
        if found.is_notice() {
            return Err(Fault::Notice(RankId(found.culprit.into())));
        }
        if found != expected {
            return Err(Fault::Call { expected, found });
        }
        Ok(self.len.map(|len| len - HEAD_BYTES))
    }

    /// Whether the whole head is here.
    fn read_head(&mut self, link: &mut dyn Link, moved: &mut bool) -> Result<bool, LinkError> {
        if self.len.is_none() {
            let Some(len) = link.poll_len()? else { return Ok(false) };
            if len < HEAD_BYTES {
                let peer = link.peer().into();
                return Err(LinkError::Length { peer, expected: HEAD_BYTES, found: len });
            }
            (self.len, *moved) = (Some(len), true);
        }
        let n = link.poll_recv(&mut self.head[self.n_here..])?;
        self.n_here += n;
        *moved |= n > 0;
        Ok(self.n_here == HEAD_BYTES)
    }

    /// Reads on to the end of what is here, in search of a notice.
    fn last_words(&mut self, link: &mut dyn Link, expected: Head) -> Option<RankId> {
        let (mut rest, mut n_read) = ([0; 4096], 0);
        while n_read < MAX_LAST_BYTES {
            match self.body_len(link, expected, &mut false) {
                Ok(Some(len)) if self.n_here - HEAD_BYTES == len => *self = Inbound::default(),
                Ok(Some(len)) => {
                    let n_left = (len + HEAD_BYTES - self.n_here).min(rest.len());
                    let n = link.poll_recv(&mut rest[..n_left]).ok().filter(|n| *n > 0)?;
                    self.n_here += n;
                    n_read += n;
                }
                Err(Fault::Notice(culprit)) => return Some(culprit),
                Ok(None) | Err(_) => return None,
            }
        }
        None
    }
}
