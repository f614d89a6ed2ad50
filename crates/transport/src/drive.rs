//! The blocking calls, each a loop over non-blocking steps with one policy of waiting: spin for a bounded time
//! after the last progress, then sleep in the kernel until a link moves or the deadline passes.

use std::{
    array, hint,
    ops::Range,
    os::fd::BorrowedFd,
    thread,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Link, LinkError, Pending, Progress};

/// Sleep between looks at a link that the kernel cannot wait on, in microseconds.
const NAP_US: u64 = 50;

/// Links that one sleep waits on in the kernel; beside more, it only naps.
const MAX_SLEEP_LINKS: usize = 64;

/// First allocation for a message of unknown length, in bytes; more follows as bytes arrive.
const FIRST_ROOM_BYTES: usize = 1 << 20;

/// One link's part of an [`exchange`]: what goes out, what comes in.
#[derive(Clone, Debug)]
pub struct Lane {
    link: usize,
    /// The message, as a range of the outgoing bytes, until it is sent.
    send: Option<Range<usize>>,
    /// The rest of the message, as a range of the incoming bytes, until it is here.
    recv: Option<Range<usize>>,
    /// Whether the incoming message's header was read.
    headed: bool,
}

/// An [`exchange`] failed at one of its links.
#[derive(Debug)]
pub struct ExchangeError {
    /// Index of the link.
    pub link: usize,
    /// What happened there.
    pub source: LinkError,
}

/// Sends a message, receives one, or both, on each of several links at the same time. No order of peers, sizes or
/// full buffers can make it wait for itself: every link moves whenever it can. `out` and `into` hold the
/// messages' bytes at the lanes' ranges; a message that arrives must have exactly its range's length. `lanes` are
/// used up.
///
/// # Panics
/// If a lane's ranges or link index are out of bounds.
pub fn exchange(
    links: &mut [Box<dyn Link>],
    lanes: &mut [Lane],
    out: &[u8],
    into: &mut [u8],
    timeout: Option<Duration>,
) -> Result<(), ExchangeError> {
    let spin = lanes.iter().map(|lane| links[lane.link].spin()).max().unwrap_or_default();
    let mut wait = Wait::new(spin, timeout);
    loop {
        let mut moved = false;
        // First everybody gets what is theirs, so that no peer waits for our reading.
        for lane in lanes.iter_mut() {
            moved |= lane.send_some(links[lane.link].as_mut(), out).map_err(|e| lane.error(e))?;
        }
        for lane in lanes.iter_mut() {
            moved |= lane.recv_some(links[lane.link].as_mut(), into).map_err(|e| lane.error(e))?;
        }
        let Some(late) = lanes.iter().find(|lane| !lane.is_done()) else { return Ok(()) };
        let pending = lanes.iter().filter(|lane| !lane.is_done());
        let links = &*links;
        wait.pause(moved, pending.map(|lane| (links[lane.link].as_ref(), lane.events())))
            .map_err(|expired| late.error(expired.at(links[late.link].as_ref(), late.pending())))?;
    }
}

/// Sends one message. Two peers that only send to each other wait for ever when the messages are larger than
/// the buffers between them: [`exchange`] is for that.
pub fn send(link: &mut dyn Link, message: &[u8], timeout: Option<Duration>) -> Result<(), LinkError> {
    let mut wait = Wait::new(link.spin(), timeout);
    loop {
        let progress = link.poll_send(message)?;
        if progress == Progress::Done {
            return Ok(());
        }
        wait.pause(progress == Progress::Moved, [(&*link, PollFlags::OUT)])
            .map_err(|expired| expired.at(link, Pending::Send(message.len())))?;
    }
}

/// Receives one message of any length into `message`, whose allocation is reused. Without a time-out it waits
/// until the peer sends or goes away. After an error the contents of `message` mean nothing.
pub fn recv(link: &mut dyn Link, message: &mut Vec<u8>, timeout: Option<Duration>) -> Result<(), LinkError> {
    let mut wait = Wait::new(link.spin(), timeout);
    let mut len = None;
    let mut n_here = 0;
    loop {
        let mut moved = false;
        if len.is_none() {
            len = link.poll_len()?;
            moved = len.is_some();
        }
        if let Some(len) = len {
            make_room(message, n_here, len);
            let n = link.poll_recv(&mut message[n_here..])?;
            n_here += n;
            moved |= n > 0;
            if n_here == len {
                return Ok(());
            }
        }
        wait.pause(moved, [(&*link, PollFlags::IN)])
            .map_err(|expired| expired.at(link, len.map_or(Pending::Message, Pending::Recv)))?;
    }
}

/// Lets `message` hold more than its first `n_here` bytes, at most `len`, without trusting `len` further than
/// the bytes that already came.
fn make_room(message: &mut Vec<u8>, n_here: usize, len: usize) {
    if message.len() > len {
        message.truncate(len);
    } else if message.len() == n_here {
        message.resize(len.min(FIRST_ROOM_BYTES.max(2 * n_here)), 0);
    }
}

impl Lane {
    /// A part for `links[link]`; `None` where nothing goes out or comes in.
    pub fn new(link: usize, send: Option<Range<usize>>, recv: Option<Range<usize>>) -> Lane {
        Lane { link, send, recv, headed: false }
    }

    fn is_done(&self) -> bool {
        self.send.is_none() && self.recv.is_none()
    }

    fn send_some(&mut self, link: &mut dyn Link, out: &[u8]) -> Result<bool, LinkError> {
        let Some(range) = self.send.clone() else { return Ok(false) };
        let progress = link.poll_send(&out[range])?;
        if progress == Progress::Done {
            self.send = None;
        }
        Ok(progress != Progress::Stalled)
    }

    fn recv_some(&mut self, link: &mut dyn Link, into: &mut [u8]) -> Result<bool, LinkError> {
        let Some(left) = &mut self.recv else { return Ok(false) };
        let mut moved = false;
        if !self.headed {
            let Some(found) = link.poll_len()? else { return Ok(false) };
            if found != left.len() {
                return Err(LinkError::Length { peer: link.peer().into(), expected: left.len(), found });
            }
            (self.headed, moved) = (true, true);
        }
        let n = link.poll_recv(&mut into[left.clone()])?;
        left.start += n;
        if left.start == left.end {
            self.recv = None;
        }
        Ok(moved || n > 0)
    }

    fn events(&self) -> PollFlags {
        let out = if self.send.is_some() { PollFlags::OUT } else { PollFlags::empty() };
        let into = if self.recv.is_some() { PollFlags::IN } else { PollFlags::empty() };
        out | into
    }

    fn pending(&self) -> Pending {
        match (&self.recv, &self.send) {
            (Some(left), _) => Pending::Recv(left.len()),
            (None, Some(range)) => Pending::Send(range.len()),
            (None, None) => Pending::Message,
        }
    }

    fn error(&self, source: LinkError) -> ExchangeError {
        ExchangeError { link: self.link, source }
    }
}

/// The policy of waiting, for one blocking call.
pub struct Wait {
    spin: Duration,
    timeout: Option<Duration>,
    started: Instant,
    last_progress: Instant,
}

/// The deadline passed.
#[derive(Debug)]
pub struct Expired(Duration);

impl Expired {
    /// The error that says so of one link.
    pub fn at(self, link: &dyn Link, pending: Pending) -> LinkError {
        LinkError::TimedOut { peer: link.peer().into(), pending, timeout: self.0 }
    }
}

impl Wait {
    /// Polls for `spin` after the last progress; without a time-out there is no deadline.
    pub fn new(spin: Duration, timeout: Option<Duration>) -> Wait {
        let now = Instant::now();
        Wait { spin, timeout, started: now, last_progress: now }
    }

    /// To be called after each round of steps: returns when another round makes sense. `links` are those that have
    /// not done all, with what they wait for.
    pub fn pause<'a>(
        &mut self,
        moved: bool,
        links: impl IntoIterator<Item = (&'a dyn Link, PollFlags)>,
    ) -> Result<(), Expired> {
        let now = Instant::now();
        let left = self.timeout.map(|t| t.saturating_sub(now - self.started));
        if let (Some(timeout), Some(Duration::ZERO)) = (self.timeout, left) {
            return Err(Expired(timeout));
        }
        if moved {
            self.last_progress = now;
        } else if now - self.last_progress < self.spin {
            hint::spin_loop();
        } else {
            block(links, left);
        }
        Ok(())
    }
}

/// Sleeps until one of the links is ready or `left` is over. May return early, and does not wait on more than
/// [`MAX_SLEEP_LINKS`]: a list of their descriptors has its place here without an allocation.
fn block<'a>(links: impl IntoIterator<Item = (&'a dyn Link, PollFlags)>, left: Option<Duration>) {
    let (mut fds, mut n_fds, mut all_pollable) = ([const { None }; MAX_SLEEP_LINKS], 0, true);
    for (link, events) in links {
        let Some(events) = link.arm(events) else { return };
        match link.pollable() {
            Some(fd) if n_fds < MAX_SLEEP_LINKS => {
                fds[n_fds] = Some((fd, events));
                n_fds += 1;
            }
            _ => all_pollable = false,
        }
    }
    let polled = all_pollable && sleep_on(&fds[..n_fds], left);
    if !polled {
        let nap = Duration::from_micros(NAP_US);
        thread::sleep(left.map_or(nap, |left| left.min(nap)));
    }
}

/// Whether there was something to wait on, and no error: that only means that we look again.
fn sleep_on(fds: &[Option<(BorrowedFd<'_>, PollFlags)>], left: Option<Duration>) -> bool {
    let Some(&Some(first)) = fds.first() else { return false };
    let mut list: [PollFd<'_>; MAX_SLEEP_LINKS] = array::from_fn(|i| {
        let (fd, events) = fds.get(i).copied().flatten().unwrap_or(first);
        PollFd::from_borrowed_fd(fd, events)
    });
    let timeout = left.and_then(|left| Timespec::try_from(left).ok());
    poll(&mut list[..fds.len()], timeout.as_ref()).is_ok()
}
