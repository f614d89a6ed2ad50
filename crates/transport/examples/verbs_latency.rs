//! How long a message is on its way over a verbs link: half of a round trip, as the system's own `ib_send_lat` counts it.
//! One end: `verbs_latency DEVICE`, the other: `verbs_latency DEVICE ADDRESS`, where the first one runs. Sizes in bytes may
//! follow. `cargo run --release -p transport --example verbs_latency -- rdma_en2 192.168.0.2`

use std::{
    env,
    error::Error,
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use transport::{
    Link, recv, send,
    verbs::{Limits, Upgrade, Verbs, upgrade},
};

const PORT: u16 = 18_515;
const N_WARM_UP: usize = 100;
const N_ROUNDS: usize = 1000;
const SIZES: [usize; 5] = [64, 4000, 8 << 10, 64 << 10, 1 << 20];
const TIMEOUT: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1).peekable();
    let device = args.next().ok_or("verbs_latency DEVICE [ADDRESS] [BYTES…]")?;
    let address = args.next_if(|arg| arg.parse::<IpAddr>().is_ok());
    let mut sizes: Vec<usize> = args.map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes.extend(SIZES);
    }
    let stream = match &address {
        Some(address) => connect((address.parse()?, PORT))?,
        None => TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))?.accept()?.0,
    };
    stream.set_nodelay(true)?;
    let device = Verbs::load()?.open(&device)?;
    let mut link = match upgrade(stream, "the other end", Ok(device), Limits::APPLE, TIMEOUT)? {
        Upgrade::Verbs(link) => link,
        Upgrade::Tcp(_, why) => return Err(why.into()),
    };
    link.set_spin(TIMEOUT);
    match address {
        Some(_) => sizes.iter().try_for_each(|size| measure(link.as_mut(), *size)),
        None => echo(link.as_mut(), sizes.len() * (N_WARM_UP + N_ROUNDS)),
    }
}

/// The other end may start a moment later.
fn connect(address: (IpAddr, u16)) -> Result<TcpStream, Box<dyn Error>> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match TcpStream::connect(address) {
            Err(e) if Instant::now() >= deadline => return Err(e.into()),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            Ok(stream) => return Ok(stream),
        }
    }
}

fn echo(link: &mut dyn Link, n_messages: usize) -> Result<(), Box<dyn Error>> {
    let mut message = Vec::new();
    for _ in 0..n_messages {
        recv(link, &mut message, Some(TIMEOUT))?;
        send(link, &message, Some(TIMEOUT))?;
    }
    Ok(())
}

fn measure(link: &mut dyn Link, size: usize) -> Result<(), Box<dyn Error>> {
    let (message, mut back) = (vec![1; size], Vec::new());
    let mut times = Vec::with_capacity(N_WARM_UP + N_ROUNDS);
    for _ in 0..N_WARM_UP + N_ROUNDS {
        let start = Instant::now();
        send(link, &message, Some(TIMEOUT))?;
        recv(link, &mut back, Some(TIMEOUT))?;
        times.push(start.elapsed() / 2);
    }
    let measured = &mut times[N_WARM_UP..];
    measured.sort();
    let us = |rank: usize| measured[rank].as_secs_f64() * 1e6;
    let (min, p50, p99) = (us(0), us(N_ROUNDS / 2), us(N_ROUNDS * 99 / 100));
    println!("{size} bytes, one way in us: min {min:.2} p50 {p50:.2} p99 {p99:.2}");
    Ok(())
}
