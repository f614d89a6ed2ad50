//! What a link gives, measured over it: one end asks, the other does as it is told. Knows messages, not how the link came about.
//!
//! The asking end sends a task of nine bytes (kind, size, count), both do it, and the answering end confirms with one byte
//! what it has received. How often something is done follows from how long it takes, so that a slow link takes no longer.

use std::{
    hint,
    io::{self, ErrorKind, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::event::PollFlags;
use transport::{Link, LinkError, Pending, Progress, Wait, recv, send};

/// Message sizes in bytes.
const SIZES: [usize; 7] = [64, 512, 4 << 10, 8 << 10, 64 << 10, 1 << 20, 16 << 20];
/// Round trips and messages of one task, at most.
const MAX_COUNT: u32 = 20_000;
/// Round trips and messages of one task, at least.
const MIN_COUNT: u32 = 3;
/// Round trips before those that count.
const N_WARM: u32 = 3;
/// Round trips that are asked for at once, at most: the time is looked at between.
const MAX_BATCH: u32 = 256;
/// Bandwidth is the median of so many turns.
const N_TURNS: usize = 3;
/// Time for one message, in seconds: 16 MiB at the slowest that is still a link.
const MESSAGE_TIMEOUT_S: u64 = 30;
/// Time in which the asking end must say what to do next, in seconds.
const TASK_TIMEOUT_S: u64 = 60;
/// How long both ends poll before they sleep, in milliseconds: a benchmark has nothing better to do.
const SPIN_MS: u64 = 20;
/// What confirms a task.
const CONFIRMED: &[u8] = b"c";
/// Bytes of a task.
const TASK_BYTES: usize = 9;

/// How long to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Long enough for numbers that repeat.
    Full,
    /// Only long enough to show that everything runs.
    Quick,
}

/// What one message size gives.
#[derive(Clone, Debug, PartialEq)]
pub struct BenchRow {
    /// Size of each message.
    pub n_bytes: usize,
    /// Round trips measured.
    pub n_rounds: usize,
    /// Half of a round trip, median, in microseconds.
    pub latency_us_p50: f64,
    /// Half of a round trip that 99 of 100 do not exceed, in microseconds.
    pub latency_us_p99: f64,
    /// The same over a bare socket, both ends spinning, median; `None` where no socket is beneath.
    pub floor_us_p50: Option<f64>,
    /// From the asking end to the other, in GB/s (10^9 bytes).
    pub there_gb_s: f64,
    /// From the other end to the asking one, in GB/s.
    pub back_gb_s: f64,
    /// Each way while both send, in GB/s.
    pub both_gb_s: f64,
}

/// What the answering end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Task {
    kind: Kind,
    size: usize,
    count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// To send every message back.
    Echo = b'e',
    /// To receive.
    Receive = b'r',
    /// To send.
    Send = b's',
    /// To do both at once.
    Both = b'b',
    /// That it is over.
    End = b'.',
}

impl Effort {
    /// Time for one task.
    fn budget(self) -> Duration {
        match self {
            Effort::Full => Duration::from_millis(150),
            Effort::Quick => Duration::from_millis(1),
        }
    }

    /// Messages that fit into the budget.
    fn count(self, each: Duration) -> u32 {
        let n = self.budget().as_nanos() / each.as_nanos().max(1);
        u32::try_from(n).unwrap_or(MAX_COUNT).clamp(MIN_COUNT, MAX_COUNT)
    }
}

/// The asking end's part: all sizes, smallest first; `tell` gets each row as soon as it is measured. `floors` are the medians
/// of [`ask_floor`], or nothing.
pub(super) fn ask(
    link: &mut dyn Link,
    effort: Effort,
    floors: &[f64],
    mut tell: impl FnMut(&BenchRow),
) -> Result<Vec<BenchRow>, LinkError> {
    link.set_spin(Duration::from_millis(SPIN_MS));
    let mut rows = Vec::with_capacity(SIZES.len());
    for (at, size) in SIZES.into_iter().enumerate() {
        let row = measure(link, effort, size, floors.get(at).copied())?;
        tell(&row);
        rows.push(row);
    }
    send(link, &Task { kind: Kind::End, size: 0, count: 0 }.encode(), Some(message_timeout()))?;
    Ok(rows)
}

/// The answering end's part, until the other one says that it is over.
pub(super) fn answer(link: &mut dyn Link) -> Result<(), LinkError> {
    link.set_spin(Duration::from_millis(SPIN_MS));
    let (mut told, mut into) = (Vec::new(), Vec::new());
    loop {
        recv(link, &mut told, Some(Duration::from_secs(TASK_TIMEOUT_S)))?;
        let Some(task) = Task::decode(&told) else { return Err(foreign(link)) };
        let (n, out) = (task.count, vec![1; task.size]);
        into.resize(task.size, 0);
        match task.kind {
            Kind::Echo => {
                for _ in 0..n {
                    pump(link, [0, 1], &out, &mut into)?;
                    pump(link, [1, 0], &out, &mut into)?;
                }
                continue;
            }
            Kind::Receive => pump(link, [0, n], &out, &mut into)?,
            Kind::Send => pump(link, [n, 0], &out, &mut into)?,
            Kind::Both => pump(link, [n, n], &out, &mut into)?,
            Kind::End => return Ok(()),
        }
        send(link, CONFIRMED, Some(message_timeout()))?;
    }
}

fn measure(
    link: &mut dyn Link,
    effort: Effort,
    size: usize,
    floor_us_p50: Option<f64>,
) -> Result<BenchRow, LinkError> {
    let times = for_a_while(effort, |count| round_trips(link, size, count))?;
    let each = Duration::from_secs_f64(halves(times.clone()).0 / 1e6);
    let mut bandwidth = |kind| -> Result<f64, LinkError> {
        let mut turns = [0.0; N_TURNS];
        for turn in &mut turns {
            *turn = stream(link, Task { kind, size, count: effort.count(each) })?;
        }
        turns.sort_by(f64::total_cmp);
        Ok(turns[N_TURNS / 2])
    };
    let (there_gb_s, back_gb_s) = (bandwidth(Kind::Receive)?, bandwidth(Kind::Send)?);
    let both_gb_s = bandwidth(Kind::Both)?;
    let (latency_us_p50, latency_us_p99) = halves(times.clone());
    Ok(BenchRow {
        n_bytes: size,
        n_rounds: times.len(),
        latency_us_p50,
        latency_us_p99,
        floor_us_p50,
        there_gb_s,
        back_gb_s,
        both_gb_s,
    })
}

/// Times of rounds, asked for in batches that grow, until the budget is spent.
fn for_a_while<E>(
    effort: Effort,
    mut batch: impl FnMut(u32) -> Result<Vec<Duration>, E>,
) -> Result<Vec<Duration>, E> {
    batch(N_WARM)?;
    let (started, mut times) = (Instant::now(), Vec::new());
    let mut n_times = 0;
    while n_times < MIN_COUNT || (started.elapsed() < effort.budget() && n_times < MAX_COUNT) {
        times.extend(batch(n_times.clamp(MIN_COUNT, MAX_BATCH))?);
        n_times = times.len() as u32;
    }
    Ok(times)
}

fn round_trips(link: &mut dyn Link, size: usize, count: u32) -> Result<Vec<Duration>, LinkError> {
    send(link, &Task { kind: Kind::Echo, size, count }.encode(), Some(message_timeout()))?;
    let (out, mut into) = (vec![1; size], vec![0; size]);
    let mut round = |_| {
        let started = Instant::now();
        pump(link, [1, 0], &out, &mut into)?;
        pump(link, [0, 1], &out, &mut into)?;
        Ok(started.elapsed())
    };
    (0..count).map(&mut round).collect()
}

/// GB/s of one direction, from the first byte to the peer's word that it has all.
fn stream(link: &mut dyn Link, task: Task) -> Result<f64, LinkError> {
    let (out, mut into, n) = (vec![1; task.size], vec![0; task.size], task.count);
    let counts = match task.kind {
        Kind::Receive => [n, 0],
        Kind::Send => [0, n],
        _ => [n, n],
    };
    send(link, &task.encode(), Some(message_timeout()))?;
    let started = Instant::now();
    pump(link, counts, &out, &mut into)?;
    let mut confirmed = Vec::new();
    recv(link, &mut confirmed, Some(message_timeout()))?;
    if confirmed != CONFIRMED {
        return Err(foreign(link));
    }
    Ok(f64::from(n) * task.size as f64 / started.elapsed().as_secs_f64() / 1e9)
}

/// Sends and receives so many messages, all of the same size, both directions as fast as each goes.
fn pump(
    link: &mut dyn Link,
    [mut n_out, mut n_in]: [u32; 2],
    out: &[u8],
    into: &mut [u8],
) -> Result<(), LinkError> {
    let new_wait = |link: &dyn Link| Wait::new(link.spin(), Some(message_timeout()));
    let (mut wait, mut begun) = (new_wait(link), None);
    while n_out > 0 || n_in > 0 {
        let (mut moved, before) = (false, n_out + n_in);
        if n_out > 0 {
            let progress = link.poll_send(out)?;
            n_out -= u32::from(progress == Progress::Done);
            moved |= progress != Progress::Stalled;
        }
        if n_in > 0 {
            let (got_some, is_whole) = receive_some(link, &mut begun, into)?;
            n_in -= u32::from(is_whole);
            moved |= got_some;
        }
        if n_out + n_in < before {
            wait = new_wait(link);
            continue;
        }
        let out_events = if n_out > 0 { PollFlags::OUT } else { PollFlags::empty() };
        let in_events = if n_in > 0 { PollFlags::IN } else { PollFlags::empty() };
        let pending = if n_in > 0 { Pending::Recv(into.len()) } else { Pending::Send(out.len()) };
        wait.pause(moved, [(&*link, out_events | in_events)]).map_err(|late| late.at(link, pending))?;
    }
    Ok(())
}

/// The next bytes of a message of `into`'s length: whether some came, and whether it is whole. `begun` counts those of the
/// message under way.
fn receive_some(
    link: &mut dyn Link,
    begun: &mut Option<usize>,
    into: &mut [u8],
) -> Result<(bool, bool), LinkError> {
    let mut moved = false;
    if begun.is_none() {
        let Some(found) = link.poll_len()? else { return Ok((false, false)) };
        if found != into.len() {
            return Err(LinkError::Length { peer: link.peer().into(), expected: into.len(), found });
        }
        (*begun, moved) = (Some(0), true);
    }
    let at = begun.unwrap_or_default();
    let n = link.poll_recv(&mut into[at..])?;
    let is_whole = at + n == into.len();
    *begun = (!is_whole).then_some(at + n);
    Ok((moved || n > 0, is_whole))
}

/// Half round trips over a bare socket, medians in microseconds for each size; the asking end's part.
pub(super) fn ask_floor(stream: &TcpStream, effort: Effort) -> io::Result<Vec<f64>> {
    let floor = |size| {
        let times = for_a_while(effort, |count| bare_round_trips(stream, size, count))?;
        Ok(halves(times).0)
    };
    let floors = SIZES.into_iter().map(floor).collect();
    spin_write(stream, &Task { kind: Kind::End, size: 0, count: 0 }.encode())?;
    floors
}

/// The answering end's part of [`ask_floor`]. Leaves the socket non-blocking, as the asking end does.
pub(super) fn answer_floor(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    loop {
        let mut told = [0; TASK_BYTES];
        spin_read(stream, &mut told)?;
        match Task::decode(&told) {
            Some(Task { kind: Kind::Echo, size, count }) => {
                let mut bytes = vec![0; size];
                for _ in 0..count {
                    spin_read(stream, &mut bytes)?;
                    spin_write(stream, &bytes)?;
                }
            }
            Some(Task { kind: Kind::End, .. }) => return Ok(()),
            _ => {
                let why = format!("expected a task of the benchmark, found {told:02x?}");
                return Err(io::Error::new(ErrorKind::InvalidData, why));
            }
        }
    }
}

fn bare_round_trips(stream: &TcpStream, size: usize, count: u32) -> io::Result<Vec<Duration>> {
    stream.set_nonblocking(true)?;
    spin_write(stream, &Task { kind: Kind::Echo, size, count }.encode())?;
    let mut bytes = vec![1; size];
    let mut round = |_| {
        let started = Instant::now();
        spin_write(stream, &bytes)?;
        spin_read(stream, &mut bytes)?;
        Ok(started.elapsed())
    };
    (0..count).map(&mut round).collect()
}

fn spin_read(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    spin(bytes.len(), |at| match stream.read(&mut bytes[at..]) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        read => read,
    })
}

fn spin_write(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    spin(bytes.len(), |at| stream.write(&bytes[at..]))
}

/// Repeats a step, given how far it has come, until all is done or nothing moves for too long.
fn spin(len: usize, mut step: impl FnMut(usize) -> io::Result<usize>) -> io::Result<()> {
    let (mut at, mut last) = (0, Instant::now());
    while at < len {
        match step(at) {
            Ok(n) => (at, last) = (at + n, Instant::now()),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
            Err(_) if last.elapsed() > message_timeout() => return Err(ErrorKind::TimedOut.into()),
            Err(_) => hint::spin_loop(),
        }
    }
    Ok(())
}

/// Median and 99th of 100 of half of each time, in microseconds.
fn halves(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort();
    let us = |i: usize| times.get(i).map_or(f64::NAN, |time| time.as_secs_f64() * 1e6 / 2.0);
    (us(times.len() / 2), us(times.len() * 99 / 100))
}

impl Task {
    fn encode(self) -> [u8; TASK_BYTES] {
        let mut bytes = [self.kind as u8; TASK_BYTES];
        bytes[1..5].copy_from_slice(&(self.size as u32).to_le_bytes());
        bytes[5..].copy_from_slice(&self.count.to_le_bytes());
        bytes
    }

    /// `None` for what no asking end says: a peer decides about no allocation and no endless work here.
    fn decode(bytes: &[u8]) -> Option<Task> {
        let &[kind, s0, s1, s2, s3, c0, c1, c2, c3] = bytes else { return None };
        let kinds = [Kind::Echo, Kind::Receive, Kind::Send, Kind::Both, Kind::End];
        let kind = kinds.into_iter().find(|known| *known as u8 == kind)?;
        let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
        let count = u32::from_le_bytes([c0, c1, c2, c3]);
        let is_sound = kind == Kind::End || SIZES.contains(&size) && count <= MAX_COUNT;
        is_sound.then_some(Task { kind, size, count })
    }
}

fn message_timeout() -> Duration {
    Duration::from_secs(MESSAGE_TIMEOUT_S)
}

/// The peer's message has no place here.
fn foreign(link: &dyn Link) -> LinkError {
    let source = io::Error::new(ErrorKind::InvalidData, "expected a word of the benchmark, found another");
    LinkError::Io { peer: link.peer().into(), pending: Pending::Message, source }
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use proptest::prelude::*;
    use transport::{MemoryLink, TcpLink};

    use super::*;

    #[test]
    fn both_ends_agree_on_every_task() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut a, mut b) =
            (TcpLink::new(a, "b").unwrap(), TcpLink::new(listener.accept().unwrap().0, "a").unwrap());
        let answering = thread::spawn(move || answer(&mut b).map(|()| b));
        let mut n_told = 0;
        let rows = ask(&mut a, Effort::Quick, &[7.0], |_| n_told += 1).unwrap();
        answering.join().unwrap().unwrap();
        assert_eq!(rows.iter().map(|row| row.n_bytes).collect::<Vec<_>>(), SIZES);
        assert_eq!((n_told, rows[0].floor_us_p50, rows[1].floor_us_p50), (SIZES.len(), Some(7.0), None));
        for row in rows {
            assert!(
                row.n_rounds >= MIN_COUNT as usize && row.latency_us_p50 <= row.latency_us_p99,
                "{row:?}"
            );
            assert!(row.there_gb_s > 0.0 && row.back_gb_s > 0.0 && row.both_gb_s > 0.0, "{row:?}");
        }
    }

    #[test]
    fn a_peer_that_asks_for_too_much_is_refused() {
        let task = Task { kind: Kind::Echo, size: 64, count: 7 };
        assert_eq!(Task::decode(&task.encode()), Some(task));
        for wrong in
            [Task { size: 65, ..task }, Task { size: 1 << 30, ..task }, Task { count: MAX_COUNT + 1, ..task }]
        {
            assert_eq!(Task::decode(&wrong.encode()), None, "{wrong:?}");
            let (mut a, mut b) = MemoryLink::pair();
            send(&mut a, &wrong.encode(), None).unwrap();
            assert!(matches!(answer(&mut b), Err(LinkError::Io { .. })));
        }
    }

    #[test]
    fn a_peer_that_goes_away_in_the_middle_is_named() {
        let (mut a, mut b) = MemoryLink::pair();
        let control = a.control();
        let answering = thread::spawn(move || answer(&mut b));
        let mut n_rows = 0;
        let e = ask(&mut a, Effort::Quick, &[], |_| {
            n_rows += 1;
            if n_rows == 2 {
                control.cut();
            }
        });
        assert!(matches!(e, Err(LinkError::Closed { .. })), "{e:?}");
        assert!(matches!(answering.join().unwrap(), Err(LinkError::Closed { .. })));
    }

    proptest! {
        #[test]
        fn noise_is_no_task(noise in prop::collection::vec(any::<u8>(), 0..12)) {
            if let Some(task) = Task::decode(&noise) {
                prop_assert!(task.kind == Kind::End || SIZES.contains(&task.size) && task.count <= MAX_COUNT);
            }
        }
    }
}
