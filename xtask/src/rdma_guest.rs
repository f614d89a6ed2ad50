//! `cargo xtask rdma-guest`: boots a Debian kernel with software RDMA devices on a machine made of software, runs the
//! tests of the verbs link and of replicas over it there, and measures the link beside the system's own tool. All of it comes
//! out of packages that are unpacked below the target folder. It does not know what the tests prove.

mod image;
mod latency;
mod machine;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::debian::{self, Debian};
use crate::{outcome::Outcome, tidy};
use image::Image;
use latency::Latencies;
use machine::Machine;

/// The emulator, and what the guest is made of; its kernel comes beside them.
const PACKAGES: [&str; 6] =
    ["qemu-system-x86", "busybox-static", "kmod", "iproute2", "ibverbs-providers", "perftest"];
/// Names the kernel that has the module; the kernel for clouds has not.
const KERNEL: &str = "linux-image-amd64";
/// Devices of software over any network interface, the checksum they ask for by name, and what cables are made of.
const MODULES: [&str; 5] = ["crc32_generic", "rdma_rxe", "ib_uverbs", "veth", "sch_netem"];
/// Time for the guest, in seconds.
const TIMEOUT_S: u64 = 240;

/// The first process.
const INIT: &str = include_str!("rdma_guest/init.sh");
/// What runs in the guest: the tests one after the other, for they share the cables, then the comparison.
const RUN: &str = include_str!("rdma_guest/run.sh");

/// Builds, boots, prints the sum. Without the tools it says that, and is no failure.
pub(crate) fn run() -> Result<ExitCode> {
    let metadata = tidy::metadata()?;
    let target = metadata["target_directory"].as_str().context("cargo names no target_directory")?;
    let store = Path::new(target).join("rdma-guest");
    let debian = match packages(&store) {
        Ok(debian) => debian,
        Err(why) => {
            println!("SKIPPED (1): rdma-guest tested nothing, its packages cannot be had: {why:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let start = Instant::now();
    let programs = Programs::build()?;
    let (kernel, release) = kernel(&debian)?;
    let initrd = store.join("initrd");
    image(&debian, &release, &programs)?.write(&initrd)?;
    let (build_time, start) = (start.elapsed(), Instant::now());
    let (mut sum, mut latencies) = (Outcome::default(), Latencies::default());
    let machine = Machine { debian: &debian, kernel, initrd };
    let status = machine.run(Duration::from_secs(TIMEOUT_S), |line| {
        println!("{line}");
        sum += Outcome::of_line(line).unwrap_or_default();
        latencies.read(line);
    })?;
    latencies.lines().for_each(|line| println!("rdma-guest: {line}"));
    let sum = sum.checked(status == 0);
    println!(
        "rdma-guest: {sum} over software RDMA; built in {} s, run in {} s",
        build_time.as_secs(),
        start.elapsed().as_secs()
    );
    Ok(if sum.is_good(true) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn packages(store: &Path) -> Result<Debian> {
    let architecture = std::env::consts::ARCH;
    ensure!(architecture == "x86_64", "expected an x86_64 machine, found {architecture}");
    let depends = debian::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let kernel = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let kernel = kernel.with_context(|| format!("{KERNEL} names no kernel"))?;
    let packages: Vec<&str> = PACKAGES.iter().copied().chain([kernel]).collect();
    Debian::unpacked(store.join("debian"), &packages)
}

/// The kernel's file and its release.
fn kernel(debian: &Debian) -> Result<(PathBuf, String)> {
    let boot = debian.path("boot");
    for entry in fs::read_dir(&boot).with_context(|| format!("cannot list {}", boot.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(release) = name.strip_prefix("vmlinuz-") {
            return Ok((path, release.to_owned()));
        }
    }
    anyhow::bail!("no kernel in {}", boot.display())
}

/// The root folder of the guest.
fn image(debian: &Debian, release: &str, programs: &Programs) -> Result<Image> {
    let mut image = Image::default();
    for folder in ["dev", "proc", "sys", "tmp"] {
        image.folder(folder);
    }
    let exit_port = format!("{:#x}", machine::EXIT_PORT);
    image.file("init", INIT.replace("EXIT_PORT", &exit_port), 0o755);
    image.file("run.sh", RUN, 0o644);
    image.copy("bin/busybox", &debian.program("busybox")?, 0o755)?;
    for name in ["kmod", "ip", "tc", "rdma", "ib_send_lat"] {
        image.program(debian, &format!("usr/bin/{name}"), &debian.program(name)?)?;
    }
    image.symlink("usr/bin/insmod", "kmod");
    let libraries = "usr/lib/x86_64-linux-gnu";
    for entry in fs::read_dir(debian.path(&format!("{libraries}/libibverbs")))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("librxe") {
            image.program(debian, &format!("{libraries}/libibverbs/{name}"), &path)?;
        }
    }
    image.copy("etc/libibverbs.d/rxe.driver", &debian.path("etc/libibverbs.d/rxe.driver"), 0o644)?;
    image.modules(debian, release, &MODULES)?;
    image.program(debian, "tests/links", &programs.links)?;
    image.program(debian, "tests/latency", &programs.latency)?;
    image.program(debian, "tests/replicas", &programs.replicas)?;
    // where the tests of replicas were told that it is
    let onefold = programs.onefold.to_str().context("the target folder's path is no text")?;
    image.program(debian, onefold.trim_start_matches('/'), &programs.onefold)?;
    Ok(image)
}

/// What runs in the guest, built for this machine.
struct Programs {
    links: PathBuf,
    latency: PathBuf,
    replicas: PathBuf,
    onefold: PathBuf,
}

impl Programs {
    fn build() -> Result<Programs> {
        let tests = |package| built(&["test", "--no-run", "--package", package, "--test", "verbs"]);
        let latency = ["build", "--release", "--package", "transport", "--example", "verbs_latency"];
        let replicas = tests("cli")?;
        Ok(Programs {
            links: named(&tests("transport")?, "verbs")?,
            latency: named(&built(&latency)?, "verbs_latency")?,
            replicas: named(&replicas, "verbs")?,
            onefold: named(&replicas, "onefold")?,
        })
    }
}

/// Has cargo build programs; their names and places.
fn built(args: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo.args(args).args(["--quiet", "--locked", "--message-format", "json"]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "rdma-guest: cargo {} ended with {}", args.join(" "), output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let program = |line: &str| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), message["executable"].as_str()?.into()))
    };
    Ok(messages.lines().filter_map(program).collect())
}

fn named(programs: &[(String, PathBuf)], name: &str) -> Result<PathBuf> {
    let found = programs.iter().find(|(found, _)| found == name);
    Ok(found.with_context(|| format!("cargo built no program {name}, but {programs:?}"))?.1.clone())
}
