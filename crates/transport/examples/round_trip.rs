//! What a message costs over each kind of link, beside the floor under it: a cache line that two cores pass to and fro,
//! a copy in memory, and bare TCP sockets. Two threads, pinned to two cores, that nothing else should use.
//!
//! `cargo run --release -p transport --example round_trip [first core] [second core]`

use std::{
    hint::{black_box, spin_loop},
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use core_affinity::CoreId;
use transport::{
    Lane, Link, MemoryLink, TcpLink, exchange, recv, send,
    shm::{self, TOKEN_BYTES},
};

#[path = "../tests/certificates/mod.rs"]
mod certificates;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;
type Pair = (Box<dyn Link>, Box<dyn Link>);
/// A name and what makes two connected ends.
type Kind = (&'static str, fn() -> Result<Pair>);

const SIZES: [usize; 3] = [64, 2 << 10, 8 << 10];
const N_ROUNDS: usize = 20_000;
/// Rounds before those that count.
const N_WARM: usize = 2_000;
const BULK_BYTES: usize = 64 << 20;
const N_BULK: usize = 9;
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(30));
/// Long enough that no round sleeps.
const SPIN: Duration = Duration::from_millis(100);

fn main() -> Result<()> {
    let mut cores = std::env::args().skip(1).map(|core| core.parse().map(|id| CoreId { id }));
    let cores = [
        cores.next().transpose()?.unwrap_or(CoreId { id: 0 }),
        cores.next().transpose()?.unwrap_or(CoreId { id: 1 }),
    ];
    println!("{:<28} {:>8} {:>10} {:>10}", "round trip", "bytes", "p50 us", "p99 us");
    for size in SIZES {
        report("floor: bare TCP, spinning", size, bare_tcp(cores, size)?);
    }
    for (name, pair) in kinds() {
        // again and again, for a host may move this machine's cores apart at any time
        report("floor: a cache line", 8, cache_line(cores)?);
        for size in SIZES {
            report(name, size, round_trips(cores, pair()?, size)?);
        }
    }
    println!("\n{:<28} {:>8} {:>10} {:>10}", "exchange (both send)", "bytes", "p50 us", "p99 us");
    for (name, pair) in kinds() {
        report("floor: a cache line", 8, cache_line(cores)?);
        for size in SIZES {
            report(name, size, exchanges(cores, pair()?, size, N_WARM, N_ROUNDS)?);
        }
    }
    println!("\n{:<28} {:>8} {:>10} {:>10}", "64 MiB", "", "p50 GB/s", "worst GB/s");
    report_bulk("floor: bare TCP, one way", bare_tcp_bulk(cores)?);
    for (name, pair) in kinds() {
        report_bulk("floor: one core copies", copies(&cores[..1])?);
        report_bulk("floor: two cores copy, each", copies(&cores)?);
        report_bulk(&format!("{name}, one way"), one_way(cores, pair()?)?);
        report_bulk(&format!("{name}, each way"), exchanges(cores, pair()?, BULK_BYTES, 1, N_BULK)?);
    }
    Ok(())
}

fn kinds() -> [Kind; 4] {
    [("shm", shm_pair), ("tcp", tcp_pair), ("tls", tls_pair), ("memory", memory_pair)]
}

fn tls_pair() -> Result<Pair> {
    let (a, b) = certificates::pair()?;
    Ok((Box::new(a), Box::new(b)))
}

fn shm_pair() -> Result<Pair> {
    let (mut a, mut b) = tcp_pair()?;
    let patience = Duration::from_secs(10);
    let guest = thread::spawn(move || shm::accept(b.as_mut(), patience));
    let maker = shm::offer(a.as_mut(), [1; TOKEN_BYTES], &std::env::temp_dir(), patience)?;
    Ok((Box::new(maker), Box::new(guest.join().map_err(|_| "the accepting thread panicked")??)))
}

fn tcp_pair() -> Result<Pair> {
    let (a, b) = sockets()?;
    Ok((Box::new(TcpLink::new(a, "b")?), Box::new(TcpLink::new(b, "a")?)))
}

fn memory_pair() -> Result<Pair> {
    let (a, b) = MemoryLink::pair();
    Ok((Box::new(a), Box::new(b)))
}

fn sockets() -> Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let a = TcpStream::connect(listener.local_addr()?)?;
    Ok((a, listener.accept()?.0))
}

/// Runs both sides, each on its core, and gives what the first one measured.
fn on_two_cores<T: Send>(
    cores: [CoreId; 2],
    first: impl FnOnce() -> Result<T> + Send,
    second: impl FnOnce() -> Result<()> + Send,
) -> Result<T> {
    thread::scope(|s| {
        let second = s.spawn(|| {
            core_affinity::set_for_current(cores[1]);
            second()
        });
        let first = s.spawn(|| {
            core_affinity::set_for_current(cores[0]);
            first()
        });
        let times = first.join().map_err(|_| "the first thread panicked")?;
        second.join().map_err(|_| "the second thread panicked")??;
        times
    })
}

/// Times of `n` rounds after `n_warm` others.
fn times(n_warm: usize, n: usize, mut round: impl FnMut() -> Result<()>) -> Result<Vec<Duration>> {
    (0..n_warm).try_for_each(|_| round())?;
    (0..n)
        .map(|_| {
            let start = Instant::now();
            round()?;
            Ok(start.elapsed())
        })
        .collect()
}

fn round_trips(cores: [CoreId; 2], (mut a, mut b): Pair, size: usize) -> Result<Vec<Duration>> {
    a.set_spin(SPIN);
    b.set_spin(SPIN);
    let echo = move || {
        let mut message = Vec::new();
        for _ in 0..N_WARM + N_ROUNDS {
            recv(b.as_mut(), &mut message, TIMEOUT)?;
            send(b.as_mut(), &message, TIMEOUT)?;
        }
        Ok(())
    };
    let (out, mut message) = (vec![1; size], Vec::new());
    let ask = move || {
        times(N_WARM, N_ROUNDS, || {
            send(a.as_mut(), &out, TIMEOUT)?;
            Ok(recv(a.as_mut(), &mut message, TIMEOUT)?)
        })
    };
    on_two_cores(cores, ask, echo)
}

/// Both ends send and receive at once, as ranks do in an all_reduce.
fn exchanges(
    cores: [CoreId; 2],
    (a, b): Pair,
    size: usize,
    n_warm: usize,
    n: usize,
) -> Result<Vec<Duration>> {
    let side = |mut link: Box<dyn Link>| {
        move || {
            link.set_spin(SPIN);
            let (mut links, out, mut into) = ([link], vec![1; size], vec![0; size]);
            times(n_warm, n, || {
                let mut lanes = [Lane::new(0, Some(0..size), Some(0..size))];
                exchange(&mut links, &mut lanes, &out, &mut into, TIMEOUT).map_err(|e| e.source)?;
                black_box(&into);
                Ok(())
            })
        }
    };
    let other = side(b);
    on_two_cores(cores, side(a), || other().map(|_| ()))
}

/// 64 MiB one way; the time ends with a byte that comes back.
fn one_way(cores: [CoreId; 2], (mut a, mut b): Pair) -> Result<Vec<Duration>> {
    a.set_spin(SPIN);
    b.set_spin(SPIN);
    let sink = move || {
        let mut message = vec![0; BULK_BYTES];
        for _ in 0..1 + N_BULK {
            recv(b.as_mut(), &mut message, TIMEOUT)?;
            send(b.as_mut(), &[1], TIMEOUT)?;
        }
        Ok(())
    };
    let (out, mut message) = (vec![1; BULK_BYTES], Vec::new());
    let source = move || {
        times(1, N_BULK, || {
            send(a.as_mut(), &out, TIMEOUT)?;
            Ok(recv(a.as_mut(), &mut message, TIMEOUT)?)
        })
    };
    on_two_cores(cores, source, sink)
}

#[repr(align(128))]
struct Line(AtomicU64);

fn cache_line(cores: [CoreId; 2]) -> Result<Vec<Duration>> {
    let (ping, pong) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let wait = |line: &Line, value| {
        while line.0.load(Ordering::Acquire) != value {
            spin_loop();
        }
    };
    let n_all = (N_WARM + N_ROUNDS) as u64;
    let echo = || {
        for i in 1..=n_all {
            wait(&ping, i);
            pong.0.store(i, Ordering::Release);
        }
        Ok(())
    };
    let mut i = 0;
    let ask = || {
        times(N_WARM, N_ROUNDS, || {
            i += 1;
            ping.0.store(i, Ordering::Release);
            wait(&pong, i);
            Ok(())
        })
    };
    on_two_cores(cores, ask, echo)
}

fn bare_tcp(cores: [CoreId; 2], size: usize) -> Result<Vec<Duration>> {
    let (a, b) = sockets()?;
    for socket in [&a, &b] {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
    }
    let echo = || {
        let mut bytes = vec![0; size];
        for _ in 0..N_WARM + N_ROUNDS {
            spin_read(&b, &mut bytes)?;
            spin_write(&b, &bytes)?;
        }
        Ok(())
    };
    let mut bytes = vec![1; size];
    let ask = || {
        times(N_WARM, N_ROUNDS, || {
            spin_write(&a, &bytes)?;
            spin_read(&a, &mut bytes)
        })
    };
    on_two_cores(cores, ask, echo)
}

fn bare_tcp_bulk(cores: [CoreId; 2]) -> Result<Vec<Duration>> {
    let (mut a, mut b) = sockets()?;
    let sink = move || {
        let mut bytes = vec![0; BULK_BYTES];
        for _ in 0..1 + N_BULK {
            b.read_exact(&mut bytes)?;
            b.write_all(&[1])?;
        }
        Ok(())
    };
    let out = vec![1; BULK_BYTES];
    let source = move || {
        times(1, N_BULK, || {
            a.write_all(&out)?;
            Ok(a.read_exact(&mut [0])?)
        })
    };
    on_two_cores(cores, source, sink)
}

fn spin_read(mut socket: &TcpStream, mut bytes: &mut [u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.read(bytes) {
            Ok(0) => return Err("the socket ended".into()),
            Ok(n) => bytes = &mut bytes[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => spin_loop(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn spin_write(mut socket: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => spin_loop(),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// A copy from and to memory on each of the cores at the same time; what the first one takes.
fn copies(cores: &[CoreId]) -> Result<Vec<Duration>> {
    let copy = |core| {
        core_affinity::set_for_current(core);
        let (from, mut to) = (vec![1u8; BULK_BYTES], vec![0u8; BULK_BYTES]);
        times(1, N_BULK, || {
            to.copy_from_slice(black_box(&from));
            black_box(&to);
            Ok(())
        })
    };
    thread::scope(|s| {
        let threads: Vec<_> = cores.iter().map(|core| s.spawn(move || copy(*core))).collect();
        let mut all = threads.into_iter().map(|t| t.join().map_err(|_| "a copying thread panicked")?);
        let first = all.next().ok_or("no core")?;
        all.try_for_each(|times| times.map(|_| ()))?;
        first
    })
}

fn report(name: &str, size: usize, mut times: Vec<Duration>) {
    times.sort();
    let us = |i: usize| times[i].as_secs_f64() * 1e6;
    println!("{name:<28} {size:>8} {:>10.2} {:>10.2}", us(times.len() / 2), us(times.len() * 99 / 100));
}

fn report_bulk(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let gb_s = |i: usize| BULK_BYTES as f64 / times[i].as_secs_f64() / 1e9;
    println!("{name:<28} {:>8} {:>10.1} {:>10.1}", "", gb_s(times.len() / 2), gb_s(times.len() - 1));
}
