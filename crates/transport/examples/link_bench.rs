//! Round-trip times of one message over loopback TCP between two threads, for sizes from a decode step's to a
//! prefill's. `cargo run --release -p transport --example link_bench [spin_us]`

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use transport::{Lane, Link, SPIN_US, TcpLink, exchange, recv, send};

const N_ROUNDS: usize = 2000;
const SIZES: [usize; 8] = [64, 1 << 10, 2304, 6 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];
const TIMEOUT: Option<Duration> = Some(Duration::from_secs(30));

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let spin_us = std::env::args().nth(1).map_or(Ok(SPIN_US), |s| s.parse())?;
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let mut here = TcpLink::new(TcpStream::connect(listener.local_addr()?)?, "echo")?;
    let mut there = TcpLink::new(listener.accept()?.0, "bench")?;
    for link in [&mut here, &mut there] {
        link.set_spin(Duration::from_micros(spin_us));
    }
    let echo = thread::spawn(move || {
        let mut message = Vec::new();
        for _ in 0..SIZES.len() * N_ROUNDS {
            recv(&mut there, &mut message, TIMEOUT)?;
            send(&mut there, &message, TIMEOUT)?;
        }
        // Then both ends send at once, as in an all_reduce of two ranks.
        swap_all(Box::new(there)).map(|_| ())
    });
    println!("spin {spin_us} us, {N_ROUNDS} rounds; times in us");
    println!("{:>9}  {:>9} {:>9} {:>9}", "ping-pong", "min", "p50", "p99");
    let mut message = Vec::new();
    for size in SIZES {
        let out = vec![1; size];
        let mut times = Vec::with_capacity(N_ROUNDS);
        for _ in 0..N_ROUNDS {
            let start = Instant::now();
            send(&mut here, &out, TIMEOUT)?;
            recv(&mut here, &mut message, TIMEOUT)?;
            times.push(start.elapsed());
        }
        report(size, times);
    }
    println!("{:>9}  {:>9} {:>9} {:>9}", "exchange", "min", "p50", "p99");
    for (size, times) in SIZES.into_iter().zip(swap_all(Box::new(here))?) {
        report(size, times);
    }
    echo.join().map_err(|_| "the echo thread panicked")??;
    Ok(())
}

fn swap_all(link: Box<dyn Link>) -> Result<Vec<Vec<Duration>>, transport::LinkError> {
    let mut links = [link];
    let mut swaps = |size: usize| {
        let (out, mut into) = (vec![1; size], vec![0; size]);
        let mut swap = |_| {
            let start = Instant::now();
            let mut lanes = [Lane::new(0, Some(0..size), Some(0..size))];
            exchange(&mut links, &mut lanes, &out, &mut into, TIMEOUT).map_err(|e| e.source)?;
            Ok(start.elapsed())
        };
        (0..N_ROUNDS).map(&mut swap).collect()
    };
    SIZES.into_iter().map(&mut swaps).collect()
}

fn report(size: usize, mut times: Vec<Duration>) {
    times.sort();
    let us = |i: usize| times[i].as_secs_f64() * 1e6;
    println!("{size:>9}  {:>9.1} {:>9.1} {:>9.1}", us(0), us(N_ROUNDS / 2), us(N_ROUNDS * 99 / 100));
}
