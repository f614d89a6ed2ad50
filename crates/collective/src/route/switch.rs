//! The thread of a rank that forwards: between the rank's own pipes, one to each other rank, and its links to
//! neighbours. Knows streams of bytes from rank to rank; what they mean, their ends know.
//!
//! A stream has a window: its source sends no more than the destination has room for. So whatever is on its way fits
//! into the rooms of the ranks it passes, every rank always takes what its neighbours send, and streams that stand still
//! hold up no others. A frame is one message of a link:
//!
//! ```text
//! 0      the stream's source
//! 1      its destination
//! 2      kind: 1 bytes of the stream; 2 room at the destination, to the source; 3 the stream's end; 4 a rank failed
//! 3..    bytes; room, u32 little-endian; nothing; that rank, u8
//! ```

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::Shutdown,
    os::{fd::AsFd, unix::net::UnixStream},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use transport::{Link, Progress, SPIN_US};

use super::Ways;

/// The rank whose failure ended the switch.
pub(crate) type Culprit = Arc<OnceLock<RankId>>;

const FRAME_HEAD_BYTES: usize = 3;
/// Most bytes of a stream in a frame.
const CHUNK_BYTES: usize = 16 << 10;
/// Bytes of a stream that may be on their way.
const WINDOW_BYTES: usize = 128 << 10;
/// Frames a turn takes from a link before the others have theirs.
const N_FRAMES_AT_ONCE: usize = 8;
/// Longest sleep, in milliseconds: nothing that wakes is lost, this is for links the kernel cannot wait on.
const SLEEP_MS: u64 = 100;
/// Sleep where there is such a link, in microseconds.
const NAP_US: u64 = 50;
/// After a failure, time to tell the neighbours, in milliseconds.
const FAREWELL_MS: u64 = 100;

const BYTES: u8 = 1;
const ROOM: u8 = 2;
const END: u8 = 3;
const FAILED: u8 = 4;

pub(super) struct Switch {
    me: usize,
    lines: Vec<Line>,
    /// By rank; none to this one.
    ports: Vec<Option<Port>>,
    /// Frames to be used again.
    free: Vec<Vec<u8>>,
    /// Streams of others that have still to end here.
    n_passing: usize,
    culprit: Culprit,
}

/// A link to a neighbour.
struct Line {
    rank: usize,
    link: Box<dyn Link>,
    queue: VecDeque<Vec<u8>>,
    frame: Vec<u8>,
    n_here: usize,
    is_in_frame: bool,
    /// Whether nothing more can be sent; whether nothing more will come.
    is_deaf: bool,
    is_over: bool,
}

/// The two streams between this rank and another.
struct Port {
    pipe: UnixStream,
    /// Index of the line to the next rank on the way.
    line: usize,
    /// Bytes that the destination has room for.
    room: usize,
    /// Whether our stream has ended; whether theirs has; whether the pipe was told.
    is_ended: bool,
    has_far_ended: bool,
    is_shut: bool,
    /// What came and the pipe did not take yet.
    stash: VecDeque<u8>,
    /// Room that the source was not told of yet.
    n_freed: usize,
}

impl Switch {
    pub(super) fn new(
        me: usize,
        ways: &Ways,
        links: Vec<(RankId, Box<dyn Link>)>,
        pipes: Vec<(usize, UnixStream)>,
        culprit: Culprit,
    ) -> Switch {
        let line = |(rank, link): (RankId, Box<dyn Link>)| Line {
            rank: rank.index(),
            link,
            queue: VecDeque::new(),
            frame: Vec::new(),
            n_here: 0,
            is_in_frame: false,
            is_deaf: false,
            is_over: false,
        };
        let lines: Vec<Line> = links.into_iter().map(line).collect();
        let mut ports: Vec<Option<Port>> = (0..ways.n_ranks()).map(|_| None).collect();
        for (to, pipe) in pipes {
            let line = lines.iter().position(|line| Some(line.rank) == ways.next(me, to)).unwrap_or_default();
            ports[to] = Some(Port {
                pipe,
                line,
                room: WINDOW_BYTES,
                is_ended: false,
                has_far_ended: false,
                is_shut: false,
                stash: VecDeque::new(),
                n_freed: 0,
            });
        }
        Switch { me, lines, ports, free: Vec::new(), n_passing: ways.n_passing(me), culprit }
    }

    /// Forwards until all streams have ended, or something fails; the ends of others are waited for no longer than
    /// `patience` after this rank's own.
    pub(super) fn run(mut self, patience: Duration) {
        let mut last_moved = Instant::now();
        let mut ended_at = None;
        while !self.is_done() {
            match self.turn() {
                Ok(true) => last_moved = Instant::now(),
                Ok(false) if last_moved.elapsed() < Duration::from_micros(SPIN_US) => std::hint::spin_loop(),
                Ok(false) => self.sleep(),
                Err(culprit) => return self.fall(culprit),
            }
            if self.ports.iter().flatten().all(|port| port.is_ended)
                && ended_at.get_or_insert_with(Instant::now).elapsed() > patience
            {
                return;
            }
        }
    }

    fn is_done(&self) -> bool {
        let is_over = |port: &Port| port.is_ended && port.has_far_ended && port.stash.is_empty();
        self.n_passing == 0
            && self.ports.iter().flatten().all(is_over)
            && self.lines.iter().all(|line| line.queue.is_empty() || line.is_deaf)
    }

    /// One step of everything; whether anything moved. The error is the rank that failed.
    fn turn(&mut self) -> Result<bool, usize> {
        let mut moved = false;
        for line in 0..self.lines.len() {
            moved |= self.send_frames(line);
            for _ in 0..N_FRAMES_AT_ONCE {
                match self.lines[line].recv_frame() {
                    Ok(true) => self.take_frame(line)?,
                    Ok(false) => break,
                    Err(()) => {
                        self.has_ended(line)?;
                        break;
                    }
                }
                moved = true;
            }
        }
        for rank in 0..self.ports.len() {
            moved |= self.serve_port(rank);
        }
        Ok(moved)
    }

    fn send_frames(&mut self, line: usize) -> bool {
        let (line, mut moved) = (&mut self.lines[line], false);
        while let Some(frame) = line.queue.front() {
            // who does not listen any more may have said why: that is read first
            let progress = if line.is_deaf { Ok(Progress::Done) } else { line.link.poll_send(frame) };
            match progress {
                Ok(Progress::Done) => self.free.extend(line.queue.pop_front()),
                Ok(Progress::Moved) => return true,
                Ok(Progress::Stalled) => break,
                Err(_) => line.is_deaf = true,
            }
            moved = true;
        }
        moved
    }

    /// A neighbour that went is fine if all that goes over it has ended.
    fn has_ended(&mut self, line: usize) -> Result<(), usize> {
        let open = |port: &Port| port.line == line && !(port.is_ended && port.has_far_ended);
        if self.ports.iter().flatten().any(open) {
            return Err(self.lines[line].rank);
        }
        (self.lines[line].is_over, self.lines[line].is_deaf) = (true, true);
        Ok(())
    }

    /// Delivers or passes on the frame that has come over a line. What is no frame is the neighbour's failure.
    fn take_frame(&mut self, line: usize) -> Result<(), usize> {
        let sender = self.lines[line].rank;
        let frame = std::mem::replace(&mut self.lines[line].frame, self.free.pop().unwrap_or_default());
        let (from, to, kind) = (usize::from(frame[0]), usize::from(frame[1]), frame[2]);
        let body = &frame[FRAME_HEAD_BYTES..];
        if kind == FAILED {
            return Err(body.first().map_or(sender, |rank| usize::from(*rank)));
        }
        if to != self.me {
            let next = self.ports.get(to).and_then(Option::as_ref).map(|port| port.line);
            let next = next.filter(|next| *next != line).ok_or(sender)?;
            if kind == END {
                self.n_passing = self.n_passing.checked_sub(1).ok_or(sender)?;
            }
            self.lines[next].queue.push_back(frame);
            return Ok(());
        }
        let port = self.ports.get_mut(from).and_then(Option::as_mut).ok_or(sender)?;
        match (kind, <[u8; 4]>::try_from(body)) {
            (BYTES, _) if port.stash.len() + port.n_freed + body.len() <= WINDOW_BYTES => {
                port.stash.extend(body)
            }
            (ROOM, Ok(room)) if port.room + u32::from_le_bytes(room) as usize <= WINDOW_BYTES => {
                port.room += u32::from_le_bytes(room) as usize;
            }
            (END, _) => port.has_far_ended = true,
            _ => return Err(sender),
        }
        self.free.push(frame);
        Ok(())
    }

    /// Moves what goes between the pipe to a rank and its line.
    fn serve_port(&mut self, rank: usize) -> bool {
        let Some(port) = &mut self.ports[rank] else { return false };
        let queue = &mut self.lines[port.line].queue;
        let (me, free) = (self.me as u8, &mut self.free);
        let frame = |free: &mut Vec<Vec<u8>>, kind| {
            let mut frame = free.pop().unwrap_or_default();
            frame.clear();
            frame.extend([me, rank as u8, kind]);
            frame
        };
        let mut moved = false;
        if !port.is_ended && port.room > 0 {
            let mut bytes = frame(free, BYTES);
            bytes.resize(FRAME_HEAD_BYTES + port.room.min(CHUNK_BYTES), 0);
            match port.pipe.read(&mut bytes[FRAME_HEAD_BYTES..]) {
                Ok(n) if n > 0 => {
                    bytes.truncate(FRAME_HEAD_BYTES + n);
                    port.room -= n;
                    queue.push_back(bytes);
                    moved = true;
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                    free.push(bytes);
                }
                _ => {
                    port.is_ended = true;
                    queue.push_back(frame(free, END));
                    moved = true;
                }
            }
        }
        moved |= port.deliver();
        if port.n_freed >= WINDOW_BYTES / 2 && !port.has_far_ended {
            let mut room = frame(free, ROOM);
            room.extend((port.n_freed as u32).to_le_bytes());
            queue.push_back(room);
            port.n_freed = 0;
            moved = true;
        }
        moved
    }

    /// Ends everything, and says whose fault it is.
    fn fall(mut self, culprit: usize) {
        let _ = self.culprit.set(RankId(culprit as u32));
        for line in self.lines.iter_mut().filter(|line| line.rank != culprit) {
            line.queue.push_back(vec![self.me as u8, line.rank as u8, FAILED, culprit as u8]);
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(FAREWELL_MS)
            && self.lines.iter().any(|line| line.rank != culprit && !line.queue.is_empty())
        {
            if !(0..self.lines.len()).fold(false, |moved, line| moved | self.send_frames(line)) {
                thread::sleep(Duration::from_micros(NAP_US));
            }
        }
    }

    /// Sleeps until something may move.
    fn sleep(&self) {
        let (mut fds, mut all_pollable) = (Vec::new(), true);
        for line in self.lines.iter().filter(|line| !line.is_over) {
            let out = if line.queue.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            let Some(events) = line.link.arm(PollFlags::IN | out) else { return };
            match line.link.pollable() {
                Some(fd) => fds.push(PollFd::from_borrowed_fd(fd, events)),
                None => all_pollable = false,
            }
        }
        for port in self.ports.iter().flatten() {
            let reads = !port.is_ended && port.room > 0;
            let into = if reads { PollFlags::IN } else { PollFlags::empty() };
            let out = if port.stash.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            // a pipe that is hung up wakes whoever asks for it
            if reads || !port.stash.is_empty() {
                fds.push(PollFd::from_borrowed_fd(port.pipe.as_fd(), into | out));
            }
        }
        let timeout = Timespec::try_from(Duration::from_millis(SLEEP_MS)).ok();
        if !all_pollable || poll(&mut fds, timeout.as_ref()).is_err() {
            thread::sleep(Duration::from_micros(NAP_US));
        }
    }
}

impl Line {
    /// Whether a whole frame is there. The error is the link's end, or what is no frame.
    fn recv_frame(&mut self) -> Result<bool, ()> {
        if self.is_over {
            return Ok(false);
        }
        if !self.is_in_frame {
            let Some(len) = self.link.poll_len().map_err(drop)? else { return Ok(false) };
            if !(FRAME_HEAD_BYTES..=FRAME_HEAD_BYTES + CHUNK_BYTES).contains(&len) {
                return Err(());
            }
            self.frame.resize(len, 0);
            (self.is_in_frame, self.n_here) = (true, 0);
        }
        self.n_here += self.link.poll_recv(&mut self.frame[self.n_here..]).map_err(drop)?;
        self.is_in_frame = self.n_here < self.frame.len();
        Ok(!self.is_in_frame)
    }
}

impl Port {
    /// Writes to the pipe what it takes.
    fn deliver(&mut self) -> bool {
        let mut moved = false;
        while !self.stash.is_empty() {
            let n = match self.pipe.write(self.stash.as_slices().0) {
                Ok(n) => n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return moved,
                // nobody reads there any more
                Err(_) => self.stash.len(),
            };
            self.stash.drain(..n);
            self.n_freed += n;
            moved = true;
        }
        if self.has_far_ended && !self.is_shut {
            // who reads sees the end; what is gone already is shut enough
            let _ = self.pipe.shutdown(Shutdown::Write);
            self.is_shut = true;
        }
        moved
    }
}
