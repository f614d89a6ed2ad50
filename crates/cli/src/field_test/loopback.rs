//! Round trips over our own TCP link from this machine to itself: the floor of what a link between ranks can cost, and a proof that
//! it carries what it is given.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use transport::{LinkError, TcpLink, recv, send};

use super::outcome::Outcome;

/// A small message, a token's hidden state in a large model, a chunk of prefill.
const SIZES_BYTES: [usize; 3] = [64, 28 << 10, 1 << 20];
const N_ROUNDS: usize = 1000;
const N_QUICK_ROUNDS: usize = 20;
/// Longest wait for a message, in seconds.
const TIMEOUT_S: u64 = 30;

/// Sends messages to a thread that sends them back.
pub(super) fn measure(quick: bool) -> Result<Outcome> {
    let n_rounds = if quick { N_QUICK_ROUNDS } else { N_ROUNDS };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut here = TcpLink::new(TcpStream::connect(listener.local_addr()?)?, "the other end")?;
    let mut there = TcpLink::new(listener.accept()?.0, "this end")?;
    let timeout = Some(Duration::from_secs(TIMEOUT_S));
    let echo = thread::spawn(move || {
        let mut message = Vec::new();
        for _ in 0..SIZES_BYTES.len() * n_rounds {
            recv(&mut there, &mut message, timeout)?;
            send(&mut there, &message, timeout)?;
        }
        Ok::<(), LinkError>(())
    });
    let mut sizes = Vec::new();
    for n_bytes in SIZES_BYTES {
        sizes.push(round_trips(&mut here, n_bytes, n_rounds)?);
    }
    echo.join().map_err(|_| anyhow!("the other end panicked"))??;
    Ok(Outcome::passed(json!({"rounds": n_rounds, "round_trips": sizes})))
}

fn round_trips(link: &mut TcpLink, n_bytes: usize, n_rounds: usize) -> Result<Value> {
    let timeout = Some(Duration::from_secs(TIMEOUT_S));
    let message: Vec<u8> = (0..n_bytes).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    let (mut back, mut times_us) = (Vec::new(), Vec::with_capacity(n_rounds));
    for _ in 0..n_rounds {
        let started = Instant::now();
        send(link, &message, timeout)?;
        recv(link, &mut back, timeout)?;
        times_us.push(started.elapsed().as_secs_f64() * 1e6);
        ensure!(back == message, "{n_bytes} bytes came back changed");
    }
    times_us.sort_by(f64::total_cmp);
    let at = |percent: usize| times_us[(n_rounds - 1) * percent / 100];
    Ok(json!({"bytes": n_bytes, "us_min": at(0), "us_p50": at(50), "us_p99": at(99)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let outcome = measure(true).unwrap();
        let trips = outcome.result["round_trips"].as_array().unwrap();
        assert_eq!(trips.len(), SIZES_BYTES.len());
        for trip in trips {
            let us = |name: &str| trip[name].as_f64().unwrap();
            assert!(0.0 < us("us_min") && us("us_min") <= us("us_p50") && us("us_p50") <= us("us_p99"));
        }
    }
}
