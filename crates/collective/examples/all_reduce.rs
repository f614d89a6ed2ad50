//! What an all_reduce of two ranks costs over shared memory and TCP loopback, beside the floor under it: a cache line to
//! and fro, bare sockets, both ends spinning, and a copy in memory. Two threads, pinned to two cores, that nothing else
//! should use.
//!
//! `cargo run --release -p collective --example all_reduce [first core] [second core]`

use std::{
    env,
    hint::{black_box, spin_loop},
    io::{self, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use collective::{Element, Group, Mesh, World};
use core_affinity::CoreId;
use half::bf16;
use transport::{
    Link, TcpLink,
    shm::{self, TOKEN_BYTES},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Pair = (Box<dyn Link>, Box<dyn Link>);

const SIZES: [usize; 7] = [64, 1 << 10, 8 << 10, 64 << 10, 1 << 20, 8 << 20, 64 << 20];
/// Bytes that a series moves at most, unless its rounds are fewer than the least.
const SERIES_BYTES: usize = 512 << 20;
const N_ROUNDS: usize = 10_000;
const N_LEAST: usize = 7;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough that no round sleeps.
const SPIN: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let mut cores = env::args().skip(1).map(|core| core.parse().map(|id| CoreId { id }));
    let first = cores.next().transpose()?.unwrap_or(CoreId { id: 0 });
    let cores = [first, cores.next().transpose()?.unwrap_or(CoreId { id: 1 })];
    let kinds = [("shm", shm_pair as fn() -> Result<Pair>), ("tcp", tcp_pair)];
    println!("{:<30} {:>9} {:>11} {:>11}", "", "bytes", "p50 us", "p99 us");
    for size in SIZES {
        report("floor: cache line round trip", 8, cache_line(cores)?);
        report("floor: one core copies", size, copies(first, size)?);
        report("floor: bare TCP, both send", size, bare_tcp(cores, size, |_| [true, true])?);
        report("floor: bare TCP, round trip", size, bare_tcp(cores, size, |asks| [asks, !asks])?);
        for (name, pair) in kinds {
            report(&format!("all_reduce f32, {name}"), size, sums(cores, pair()?, 0.5_f32, size)?);
            report(&format!("all_reduce bf16, {name}"), size, sums(cores, pair()?, bf16::ZERO, size)?);
        }
    }
    for (name, pair) in kinds {
        let (a, b) = pair()?;
        let n_bytes = on_two_cores(cores, || Ok(group(0, a)?.measure()?), || Ok(group(1, b)?.measure()?))?;
        println!("{name}: slices pay from {n_bytes} bytes on");
    }
    Ok(())
}

fn report(name: &str, size: usize, mut times: Vec<Duration>) {
    times.sort();
    let us = |i: usize| times[i].as_secs_f64() * 1e6;
    println!("{name:<30} {size:>9} {:>11.2} {:>11.2}", us(times.len() / 2), us(times.len() * 99 / 100));
}

/// Times of as many rounds as the size allows, after a tenth as many others.
fn times(size: usize, mut round: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    let n = (SERIES_BYTES / size).clamp(N_LEAST, N_ROUNDS);
    (0..n.div_ceil(10)).try_for_each(|_| round())?;
    let timed = |_| {
        let start = Instant::now();
        round()?;
        Ok(start.elapsed())
    };
    (0..n).map(timed).collect()
}

/// Runs both sides, each on its core, and gives what the first one measured.
fn on_two_cores<T: Send>(
    cores: [CoreId; 2],
    first: impl FnOnce() -> Result<T> + Send,
    second: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|s| {
        let second = s.spawn(move || {
            core_affinity::set_for_current(cores[1]);
            second()
        });
        let first = s.spawn(move || {
            core_affinity::set_for_current(cores[0]);
            first()
        });
        let measured = first.join().map_err(|_| "the first thread panicked")?;
        second.join().map_err(|_| "the second thread panicked")??;
        measured
    })
}

fn group(me: u32, link: Box<dyn Link>) -> Result<Mesh> {
    let mut world = World::new(RankId(me), vec![(RankId(1 - me), link)], TIMEOUT)?;
    world.set_spin(SPIN);
    Ok(Mesh::whole(world.shared())?)
}

fn sums<T: Element + Send>(cores: [CoreId; 2], (a, b): Pair, of: T, size: usize) -> Result<Vec<Duration>> {
    let side = |me, link| {
        move || {
            let (mut group, mut x) = (group(me, link)?, vec![of; size / size_of::<T>()]);
            group.measure()?;
            times(size, || Ok(group.all_reduce((&mut x[..]).into())?))
        }
    };
    on_two_cores(cores, side(0, a), side(1, b))
}

fn copies(core: CoreId, size: usize) -> Result<Vec<Duration>> {
    let (from, mut to) = (vec![1_u8; size], vec![0_u8; size]);
    let copy = move || {
        times(size, || {
            to.copy_from_slice(black_box(&from));
            black_box(&to);
            Ok(())
        })
    };
    on_two_cores([core, core], copy, || Ok(Vec::new()))
}

#[repr(align(128))]
struct Line(AtomicU64);

fn cache_line(cores: [CoreId; 2]) -> Result<Vec<Duration>> {
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait = |line: &Line, value| {
        while line.0.load(Ordering::Acquire) < value {
            spin_loop();
        }
    };
    let (mut i, mut j) = (0, 0);
    let ask = || {
        times(8, || {
            i += 1;
            ping.0.store(i, Ordering::Release);
            wait(&pong, i);
            Ok(())
        })
    };
    let echo = || {
        times(8, || {
            j += 1;
            wait(&ping, j);
            pong.0.store(j, Ordering::Release);
            Ok(())
        })
    };
    on_two_cores(cores, ask, echo)
}

/// What `order` says of who asks: whether it sends in each half of a round, `true` twice for both at once.
fn bare_tcp(cores: [CoreId; 2], size: usize, order: fn(bool) -> [bool; 2]) -> Result<Vec<Duration>> {
    let (a, b) = sockets()?;
    let side = |mut socket: TcpStream, asks: bool| {
        move || {
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            let (out, mut into) = (vec![1; size], vec![0; size]);
            times(size, || {
                let sends_first = order(asks)[0];
                let (mut n_out, mut n_in) = (0, 0);
                while n_out < size || n_in < size {
                    if n_out < size && (sends_first || n_in == size) {
                        n_out += moved(socket.write(&out[n_out..]))?;
                    }
                    if n_in < size {
                        n_in += moved(socket.read(&mut into[n_in..]))?;
                    }
                }
                Ok(())
            })
        }
    };
    on_two_cores(cores, side(a, true), side(b, false))
}

/// That nothing moves now is no failure.
fn moved(done: io::Result<usize>) -> io::Result<usize> {
    match done {
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(0),
        done => done,
    }
}

fn sockets() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let a = TcpStream::connect(listener.local_addr()?)?;
    Ok((a, listener.accept()?.0))
}

fn tcp_pair() -> Result<Pair> {
    let (a, b) = sockets()?;
    Ok((Box::new(TcpLink::new(a, "b")?), Box::new(TcpLink::new(b, "a")?)))
}

fn shm_pair() -> Result<Pair> {
    let (mut a, mut b) = tcp_pair()?;
    let guest = thread::spawn(move || shm::accept(b.as_mut(), TIMEOUT));
    let maker = shm::offer(a.as_mut(), [1; TOKEN_BYTES], &env::temp_dir(), TIMEOUT)?;
    Ok((Box::new(maker), Box::new(guest.join().map_err(|_| "the accepting thread panicked")??)))
}
