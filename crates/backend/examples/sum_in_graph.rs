//! How long a sum over two ranks takes inside an MLX graph: by MLX's own ring and by our collectives, both over TCP on this
//! machine, in turns. Prints a table. `cargo run --release -p backend --features mlx --example sum_in_graph`

use std::{
    env,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use backend::{Backend, MlxBackend, MlxGroup, MlxOptions};
use base::{DType, RankId};
use collective::{Mesh, World};
use transport::{Link, TcpLink};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Values of a decode step's sum: the width of a hidden state.
const LENGTHS: [usize; 3] = [576, 2048, 7168];
const N_RUNS: usize = 5;
const N_SUMS: usize = 400;
const N_WARM_UP: usize = 50;

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.as_slice() {
        [engine, rank, here, there] => {
            let [here, there]: [SocketAddr; 2] = [here.parse()?, there.parse()?];
            sum(engine, rank.parse()?, here, there)
        }
        _ => compare(),
    }
}

/// Runs pairs of ranks and prints medians over runs of the median time of a sum, in microseconds.
fn compare() -> Result<()> {
    let engines = ["mlx ring", "onefold"];
    let mut times = vec![vec![Vec::new(); LENGTHS.len()]; engines.len()];
    for _ in 0..N_RUNS {
        for (engine, times) in engines.iter().zip(&mut times) {
            for (time, times) in run_pair(engine)?.into_iter().zip(times) {
                times.push(time);
            }
        }
    }
    println!("{:10} {:>8} {:>10} {:>10} {:>10}", "engine", "values", "median µs", "least", "most");
    for (engine, times) in engines.iter().zip(&mut times) {
        for (n, times) in LENGTHS.iter().zip(times) {
            times.sort_by(f64::total_cmp);
            let (median, last) = (times[N_RUNS / 2], times[N_RUNS - 1]);
            println!("{engine:10} {n:8} {median:10.1} {:10.1} {last:10.1}", times[0]);
        }
    }
    Ok(())
}

/// Two ranks as processes; rank 0 prints its times.
fn run_pair(engine: &str) -> Result<Vec<f64>> {
    let free = || -> Result<SocketAddr> { Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?) };
    let (first, second) = (free()?, free()?);
    let start = |rank: &str, here: SocketAddr, there: SocketAddr| -> Result<Child> {
        let mut command = Command::new(env::current_exe()?);
        command.args([engine, rank, &here.to_string(), &there.to_string()]);
        Ok(command.stdout(Stdio::piped()).spawn()?)
    };
    let (one, mut other) = (start("0", first, second)?, start("1", second, first)?);
    let output = one.wait_with_output()?;
    other.wait()?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.lines().map(str::parse).collect::<std::result::Result<_, _>>()?)
}

fn sum(engine: &str, rank: usize, here: SocketAddr, there: SocketAddr) -> Result<()> {
    let group = match engine {
        "mlx ring" => {
            let hosts = if rank == 0 { vec![here, there] } else { vec![there, here] };
            MlxGroup::Ring { rank, hosts }
        }
        _ => MlxGroup::Onefold(Box::new(Mesh::whole(world(rank, here, there)?.shared())?)),
    };
    let options = MlxOptions { memory: None, activations: DType::F32, fuse: false };
    let mut b = MlxBackend::new(&options, group)?;
    for n in LENGTHS {
        let values = vec![1.0; n];
        let mut times = Vec::new();
        let mut out = Vec::new();
        for i in 0..N_WARM_UP + N_SUMS {
            let x = b.tensor(&values, n)?;
            let start = Instant::now();
            let x = b.all_reduce(x)?;
            b.eval(&x, &mut out)?;
            if i >= N_WARM_UP {
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
        }
        assert!(out.iter().all(|&v| v == 2.0), "a wrong sum");
        times.sort_by(f64::total_cmp);
        println!("{}", times[times.len() / 2]);
    }
    Ok(())
}

/// Rank 0 listens, rank 1 calls.
fn world(rank: usize, here: SocketAddr, there: SocketAddr) -> Result<World> {
    let stream = match rank {
        0 => TcpListener::bind(here)?.accept()?.0,
        _ => loop {
            match TcpStream::connect(there) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        },
    };
    let link: Box<dyn Link> = Box::new(TcpLink::new(stream, format!("rank {}", 1 - rank))?);
    let me = RankId(rank as u32);
    Ok(World::new(me, vec![(RankId(1 - me.0), link)], Duration::from_secs(10))?)
}
