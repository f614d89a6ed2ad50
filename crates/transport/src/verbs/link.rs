//! A link over one queue pair: cuts messages into frames, keeps to the credits, and turns what an unreliable device does not
//! say (a loss, a dead peer, a pulled cable) into errors in bounded time. Knows neither how the two ends found each
//! other nor what a message means.

use std::{
    collections::VecDeque,
    hint, io,
    net::TcpStream,
    os::fd::BorrowedFd,
    time::{Duration, Instant},
};

use super::{
    Limits, PortState,
    control::{Control, Note},
    credit::Credits,
    frame::{FRAME_HEADER_BYTES, Header, Incoming, Kind, PART_BYTES, Wrong},
    pair::{Completion, Completions, Pair},
    sys::STATUS_SUCCESS,
};
use crate::{Link, LinkError, MAX_MESSAGE_BYTES, Pending, Progress, SPIN_US};

/// A frame that did not arrive so long after it was sent is lost, in milliseconds. Frames take microseconds.
pub const LOSS_MS: u64 = 1000;

/// While nothing moves, how many looks at the device stand between two at the clock.
const LOOKS_A_TIME: u32 = 32;

/// While nothing moves, how often the stream beside the link is looked at, in microseconds: a system call, that
/// should not stand between two looks at the device.
const CONTROL_LOOK_US: u64 = 1000;

/// While nothing moves, how often the port is asked whether it is up, in milliseconds.
const PORT_LOOK_MS: u64 = 500;

/// Time for the frames that were sent to leave the device when a link is closed, in milliseconds.
const FLUSH_MS: u64 = 200;

/// A link over a queue pair, with a stream beside it that stays open as sign of life. When it is dropped, the peer is told,
/// and what the device holds is given back in order.
pub struct VerbsLink {
    pair: Pair,
    completions: Completions,
    control: Control,
    peer: String,
    spin: Duration,
    credits: Credits,
    incoming: Incoming,
    /// Frames whose bytes were not read yet, in order; as many as there are receives at most.
    arrived: VecDeque<Arrived>,
    /// Body bytes of the current incoming message that were not handed out yet.
    n_left: usize,
    /// Frames for sending that are free.
    free: Vec<usize>,
    n_receives: usize,
    n_sends: usize,
    /// Body bytes of the current outgoing message that went, if one is being sent.
    n_gone: Option<usize>,
    is_closed: bool,
    end: Option<End>,
    watch: Watch,
}

/// A frame with a part of a message.
struct Arrived {
    frame: usize,
    /// Length of the message that it begins.
    begins: Option<usize>,
    /// The part's bytes that were not handed out yet.
    start: usize,
    end: usize,
}

/// The peer's last word.
struct End {
    /// Frames that it sent; unknown if it died.
    n_sent: Option<u32>,
    heard: Instant,
}

/// When what was looked at last.
struct Watch {
    n_looks: u32,
    control: Instant,
    port: Instant,
    /// When the last frame was sent, and the number up to which the peer was told of them.
    sent: Instant,
    told: u32,
}

impl VerbsLink {
    /// The link over a queue pair that is connected and whose receives are all posted.
    pub(super) fn new(
        pair: Pair,
        stream: TcpStream,
        peer: String,
        limits: Limits,
        n_peer_receives: u32,
    ) -> io::Result<VerbsLink> {
        let (n_receives, n_sends) = (limits.n_receives as usize, limits.n_sends as usize);
        let now = Instant::now();
        Ok(VerbsLink {
            pair,
            completions: Completions::new(),
            control: Control::new(stream)?,
            peer,
            spin: Duration::from_micros(SPIN_US),
            credits: Credits::new(limits.n_receives, n_peer_receives),
            incoming: Incoming::default(),
            arrived: VecDeque::with_capacity(n_receives),
            n_left: 0,
            free: (n_receives..n_receives + n_sends).collect(),
            n_receives,
            n_sends,
            n_gone: None,
            is_closed: false,
            end: None,
            watch: Watch { n_looks: 0, control: now, port: now, sent: now, told: 0 },
        })
    }

    /// The device it goes over.
    pub fn device(&self) -> &str {
        self.pair.device().name()
    }

    /// Takes what the device has done, gives credit that is due; looks at stream and port when nothing has happened for a
    /// while. Whether anything happened.
    fn advance(&mut self, pending: Pending) -> Result<bool, LinkError> {
        let has_moved = self.complete(pending)?;
        if self.credits.owes_credit()
            && let Some(frame) = self.free.pop()
        {
            self.send_frame(frame, Kind::Credit, 0, pending)?;
        }
        if !has_moved {
            self.look(pending)?;
        }
        Ok(has_moved)
    }

    /// Takes the completions there are, at most as many as requests can be posted: a peer that sends on and on is left for
    /// the next call.
    fn complete(&mut self, pending: Pending) -> Result<bool, LinkError> {
        let n_requests = self.n_receives + self.n_sends;
        let mut n_taken = 0;
        while n_taken < n_requests {
            let n = self.pair.poll(&mut self.completions).map_err(|e| self.io(pending, e))?;
            for index in 0..n {
                let Completion { frame, status, n_bytes } = self.completions.get(index);
                if status != STATUS_SUCCESS {
                    let (peer, device) = (self.peer.clone(), self.device().to_owned());
                    return Err(LinkError::Device { peer, device, status });
                }
                match frame < self.n_receives {
                    true => self.arrive(frame, n_bytes, pending)?,
                    false => self.free.push(frame),
                }
            }
            n_taken += n;
            if !Completions::is_full(n) {
                break;
            }
        }
        Ok(n_taken > 0)
    }

    /// A frame was received.
    fn arrive(&mut self, frame: usize, n_bytes: usize, pending: Pending) -> Result<(), LinkError> {
        let bytes = self.pair.frame(frame);
        let n_bytes = n_bytes.min(bytes.len());
        let header = self.incoming.take(&bytes[..n_bytes]).map_err(|wrong| self.wrong(wrong))?;
        self.credits.granted(header.n_reposted).map_err(|expected| LinkError::Credit {
            peer: self.peer.clone(),
            expected,
            found: header.n_reposted,
        })?;
        let begins = match header.kind {
            Kind::Credit => return self.repost(frame, pending),
            Kind::First(len) => Some(len as usize),
            Kind::Next => None,
        };
        let (start, end) = (FRAME_HEADER_BYTES, FRAME_HEADER_BYTES + header.n_bytes);
        self.arrived.push_back(Arrived { frame, begins, start, end });
        Ok(())
    }

    fn repost(&mut self, frame: usize, pending: Pending) -> Result<(), LinkError> {
        self.pair.post_recv(frame).map_err(|e| self.io(pending, e))?;
        self.credits.reposted();
        Ok(())
    }

    /// Sends a frame whose part of a message is in its place.
    fn send_frame(
        &mut self,
        frame: usize,
        kind: Kind,
        n_bytes: usize,
        pending: Pending,
    ) -> Result<(), LinkError> {
        let (sequence, n_reposted) = self.credits.sent();
        let len = Header { sequence, n_reposted, kind, n_bytes }.write(self.pair.frame(frame));
        self.pair.post_send(frame, len).map_err(|e| self.io(pending, e))?;
        self.watch.sent = Instant::now();
        Ok(())
    }

    /// Looks at stream and port, each when its time has come.
    fn look(&mut self, pending: Pending) -> Result<(), LinkError> {
        self.watch.n_looks = self.watch.n_looks.wrapping_add(1);
        if !self.watch.n_looks.is_multiple_of(LOOKS_A_TIME) {
            return Ok(());
        }
        let now = Instant::now();
        if now - self.watch.control < Duration::from_micros(CONTROL_LOOK_US) {
            return Ok(());
        }
        self.watch.control = now;
        self.tell(now, pending)?;
        self.listen(now, pending)?;
        if now - self.watch.port >= Duration::from_millis(PORT_LOOK_MS) {
            self.watch.port = now;
            let state = self.pair.device().port_state().map_err(|e| self.io(pending, e))?;
            if state != PortState::Active {
                let (peer, device) = (self.peer.clone(), self.device().to_owned());
                return Err(LinkError::PortDown { peer, device, state: state.to_string(), pending });
            }
        }
        Ok(())
    }

    /// Tells the peer of frames that it did not confirm, once, when each of them must have arrived.
    fn tell(&mut self, now: Instant, pending: Pending) -> Result<(), LinkError> {
        let n_sent = self.credits.n_sent();
        let is_due = now - self.watch.sent >= Duration::from_millis(LOSS_MS);
        if is_due && self.credits.n_in_flight() > 0 && self.watch.told != n_sent && self.end.is_none() {
            match self.control.tell_sent(n_sent) {
                Ok(true) => self.watch.told = n_sent,
                Ok(false) => {}
                // reading says what became of the peer
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
                Err(e) => return Err(self.io(pending, e)),
            }
        }
        Ok(())
    }

    /// Hears what the peer says beside the link, and holds it against what arrived.
    fn listen(&mut self, now: Instant, pending: Pending) -> Result<(), LinkError> {
        // One note at a time: however many a peer sends, this comes back.
        if self.end.is_none()
            && let Some(note) = self.control.read().map_err(|e| self.io(pending, e))?
        {
            // what was sent before the note is here
            self.complete(pending)?;
            match note {
                Note::Sent(n_sent) => self.check_arrived(n_sent)?,
                Note::End(n_sent) => self.end = Some(End { n_sent: Some(n_sent), heard: now }),
                Note::Gone => self.end = Some(End { n_sent: None, heard: now }),
            }
        }
        match self.end {
            Some(End { n_sent: Some(n_sent), heard }) if now - heard >= Duration::from_millis(LOSS_MS) => {
                self.check_arrived(n_sent)
            }
            _ => Ok(()),
        }
    }

    fn check_arrived(&self, n_sent: u32) -> Result<(), LinkError> {
        match n_sent.wrapping_sub(self.incoming.n_arrived()).cast_signed() > 0 {
            true => Err(self.wrong(Wrong::Lost { n_sent })),
            false => Ok(()),
        }
    }

    /// Where nothing has arrived: whether something still can.
    fn check_open(&self, pending: Pending) -> Result<(), LinkError> {
        let is_over = match &self.end {
            Some(End { n_sent: Some(n_sent), .. }) => *n_sent == self.incoming.n_arrived(),
            Some(End { n_sent: None, .. }) => true,
            None => self.is_closed,
        };
        match is_over {
            true => Err(LinkError::Closed { peer: self.peer.clone(), pending }),
            false => Ok(()),
        }
    }

    fn wrong(&self, wrong: Wrong) -> LinkError {
        let (peer, device) = (self.peer.clone(), self.device().to_owned());
        let n_arrived = self.incoming.n_arrived();
        match wrong {
            Wrong::Lost { n_sent } => LinkError::Lost { peer, device, n_sent, n_arrived },
            Wrong::Damaged { expected, found } => {
                LinkError::Damaged { peer, device, frame: n_arrived, expected, found }
            }
            Wrong::Repeated { found } => LinkError::Sequence { peer, expected: n_arrived, found },
            Wrong::Length { expected, found } => LinkError::Length { peer, expected, found },
        }
    }

    fn io(&self, pending: Pending, source: io::Error) -> LinkError {
        LinkError::Io { peer: self.peer.clone(), pending, source }
    }
}

impl Link for VerbsLink {
    fn peer(&self) -> &str {
        &self.peer
    }

    fn poll_send_parts(&mut self, parts: [&[u8]; 2]) -> Result<Progress, LinkError> {
        let len = parts[0].len() + parts[1].len();
        let pending = Pending::Send(len);
        if len > MAX_MESSAGE_BYTES {
            let (peer, n_bytes) = (self.peer.clone(), len);
            return Err(LinkError::TooLong { peer, n_bytes, limit: MAX_MESSAGE_BYTES });
        }
        if self.is_closed || self.end.is_some() {
            return Err(LinkError::Closed { peer: self.peer.clone(), pending });
        }
        let mut has_moved = false;
        loop {
            while self.credits.has_data_credit()
                && let Some(frame) = self.free.pop()
            {
                let n_gone = self.n_gone.unwrap_or_default();
                let kind = self.n_gone.map_or(Kind::First(len as u32), |_| Kind::Next);
                let n = PART_BYTES.min(len - n_gone);
                copy_part(parts, n_gone, &mut self.pair.frame(frame)[FRAME_HEADER_BYTES..][..n]);
                self.send_frame(frame, kind, n, pending)?;
                if n_gone + n == len {
                    self.n_gone = None;
                    return Ok(Progress::Done);
                }
                self.n_gone = Some(n_gone + n);
                has_moved = true;
            }
            // Only now, for a message that fits leaves without a look at the device.
            if !self.advance(pending)? {
                return Ok(if has_moved { Progress::Moved } else { Progress::Stalled });
            }
        }
    }

    fn poll_len(&mut self) -> Result<Option<usize>, LinkError> {
        if self.arrived.is_empty() && !self.advance(Pending::Message)? {
            self.check_open(Pending::Message)?;
        }
        let Some(first) = self.arrived.front() else { return Ok(None) };
        // `Incoming` let nothing through that does not begin a message where one ended.
        let Some(len) = first.begins else { return Ok(None) };
        if len > MAX_MESSAGE_BYTES {
            return Err(LinkError::TooLong {
                peer: self.peer.clone(),
                n_bytes: len,
                limit: MAX_MESSAGE_BYTES,
            });
        }
        if len == 0 {
            let frame = first.frame;
            self.arrived.pop_front();
            self.repost(frame, Pending::Message)?;
        }
        self.n_left = len;
        Ok(Some(len))
    }

    fn poll_recv(&mut self, out: &mut [u8]) -> Result<usize, LinkError> {
        let wanted = out.len().min(self.n_left);
        let pending = Pending::Recv(self.n_left);
        if wanted > 0 && self.arrived.is_empty() && !self.advance(pending)? {
            self.check_open(pending)?;
        }
        let mut n_here = 0;
        while n_here < wanted
            && let Some(first) = self.arrived.front_mut()
        {
            let n = (wanted - n_here).min(first.end - first.start);
            let (frame, start) = (first.frame, first.start);
            first.start += n;
            let is_read = first.start == first.end;
            out[n_here..n_here + n].copy_from_slice(&self.pair.frame(frame)[start..start + n]);
            n_here += n;
            if is_read {
                self.arrived.pop_front();
                self.repost(frame, pending)?;
            }
        }
        self.n_left -= n_here;
        // A peer that waits for credit must not wait for our next call.
        if self.credits.owes_credit() {
            self.advance(pending)?;
        }
        Ok(n_here)
    }

    fn pollable(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn spin(&self) -> Duration {
        self.spin
    }

    fn set_spin(&mut self, spin: Duration) {
        self.spin = spin;
    }

    fn close(&mut self) {
        if self.is_closed {
            return;
        }
        self.is_closed = true;
        // What was sent leaves the device before the peer hears that this was all.
        let deadline = Instant::now() + Duration::from_millis(FLUSH_MS);
        while self.free.len() < self.n_sends && Instant::now() < deadline {
            if self.complete(Pending::Message).is_err() {
                break;
            }
            hint::spin_loop();
        }
        self.control.end(self.credits.n_sent());
    }
}

/// out = bytes of two parts, laid end to end, from `start` on.
fn copy_part([head, body]: [&[u8]; 2], start: usize, out: &mut [u8]) {
    let (in_head, in_body) = (start.min(head.len()), start.saturating_sub(head.len()));
    let (from_head, from_body) = out.split_at_mut((head.len() - in_head).min(out.len()));
    from_head.copy_from_slice(&head[in_head..][..from_head.len()]);
    from_body.copy_from_slice(&body[in_body..][..from_body.len()]);
}

impl Drop for VerbsLink {
    fn drop(&mut self) {
        self.close();
    }
}
