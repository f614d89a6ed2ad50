//! One rank of an all_reduce over TCP loopback, as a process of its own, for comparisons with programs that are made so:
//! `two_processes RANK ADDRESS BYTES ROUNDS [CORE]`. Rank 0 listens and prints the median in microseconds.

use std::{
    env,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use collective::{Group, Mesh, World};
use core_affinity::CoreId;
use transport::TcpLink;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Long enough that no round sleeps.
const SPIN: Duration = Duration::from_millis(100);
/// Between calls at the other rank's door, which may not be there yet.
const KNOCK: Duration = Duration::from_millis(5);

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [rank, address, n_bytes, n_rounds, core @ ..] = &args[..] else {
        return Err("two_processes RANK ADDRESS BYTES ROUNDS [CORE]".into());
    };
    if let Some(core) = core.first() {
        core_affinity::set_for_current(CoreId { id: core.parse()? });
    }
    let (me, n_bytes, n_rounds): (u32, usize, usize) = (rank.parse()?, n_bytes.parse()?, n_rounds.parse()?);
    let stream = if me == 0 { TcpListener::bind(address)?.accept()?.0 } else { call(address)? };
    let link = Box::new(TcpLink::new(stream, format!("rank {}", 1 - me))?);
    let mut world = World::new(RankId(me), vec![(RankId(1 - me), link)], TIMEOUT)?;
    world.set_spin(SPIN);
    let mut group = Mesh::whole(world.shared())?;
    group.measure()?;
    let mut x = vec![0_f32; n_bytes / size_of::<f32>()];
    let round = |_| {
        let started = Instant::now();
        group.all_reduce((&mut x[..]).into())?;
        Ok(started.elapsed())
    };
    let mut times = (0..n_rounds + n_rounds / 10 + 1).map(round).collect::<Result<Vec<_>>>()?;
    let counted = &mut times[n_rounds / 10 + 1..];
    counted.sort();
    if me == 0 {
        println!("{:.2}", counted[n_rounds / 2].as_secs_f64() * 1e6);
    }
    Ok(())
}

fn call(address: &str) -> Result<TcpStream> {
    let started = Instant::now();
    loop {
        match TcpStream::connect(address) {
            Err(e) if started.elapsed() > TIMEOUT => return Err(e.into()),
            Err(_) => thread::sleep(KNOCK),
            Ok(stream) => return Ok(stream),
        }
    }
}
