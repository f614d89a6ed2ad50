//! The machine that is made of software: boots a kernel with a root folder in memory, hands on what it prints, and
//! tells the exit status it ended with. Uses the processor's own help where that works, emulates otherwise.

use std::{
    fs::OpenOptions,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::debian::Debian;

/// Memory in MiB.
const MEMORY_MIB: u32 = 1024;
/// Processors, as many as a test that needs two ends at the same time.
const N_PROCESSORS: u32 = 2;
/// With the processor's help a guest is up in seconds or never, in seconds.
const KVM_PATIENCE_S: u64 = 15;
/// Between the end of the output and that of the machine, in seconds.
const END_PATIENCE_S: u64 = 10;
/// The processor's own counter is the clock, which reading costs next to nothing; other clocks are devices.
const KERNEL_OPTIONS: &str = "console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable";
/// The guest ends itself by writing its status to this port; the emulator then exits with twice that and one.
pub(crate) const EXIT_PORT: u16 = 0x501;
/// What the guest's first line is to say.
pub(crate) const UP: &str = "guest: up";

/// What is booted.
pub(crate) struct Machine<'a> {
    pub(crate) debian: &'a Debian,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

/// How the guest's instructions are executed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accelerator {
    Kvm,
    Emulated,
}

/// A machine that runs, and the lines it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Machine<'_> {
    /// Runs the guest to its end and returns its exit status. Every line it prints is handed on.
    pub(crate) fn run(&self, timeout: Duration, mut on_line: impl FnMut(&str)) -> Result<i32> {
        let deadline = Instant::now() + timeout;
        let has_kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let kvm_patience = Instant::now() + Duration::from_secs(KVM_PATIENCE_S);
        let mut running = None;
        if has_kvm {
            let mut started = self.start(Accelerator::Kvm)?;
            match started.wait_for_up(kvm_patience, &mut on_line) {
                true => running = Some(started),
                false => println!("rdma-guest: KVM does not work here, the guest is emulated"),
            }
        }
        let mut running = match running {
            Some(running) => running,
            None => self.start(Accelerator::Emulated)?,
        };
        running.follow(deadline, timeout, on_line)
    }

    fn start(&self, accelerator: Accelerator) -> Result<Running> {
        let mut qemu = self.debian.command(self.debian.program("qemu-system-x86_64")?);
        for firmware in ["qemu", "seabios"] {
            qemu.arg("-L").arg(self.debian.path(&format!("usr/share/{firmware}")));
        }
        match accelerator {
            Accelerator::Kvm => qemu.args(["-accel", "kvm", "-cpu", "host"]),
            // page tables of five levels would only make each look-up slower
            Accelerator::Emulated => qemu.args(["-accel", "tcg,thread=multi", "-cpu", "max,la57=off"]),
        };
        qemu.args([
            "-machine",
            "q35,hpet=off",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        qemu.args(["-m", &MEMORY_MIB.to_string(), "-smp", &N_PROCESSORS.to_string()]);
        qemu.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        qemu.args(["-append", KERNEL_OPTIONS, "-serial", "stdio"]);
        qemu.args(["-device", &format!("isa-debug-exit,iobase={EXIT_PORT:#x},iosize=1")]);
        Running::start(&mut qemu)
    }
}

impl Running {
    fn start(command: &mut Command) -> Result<Running> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take().context("the machine has no output")?;
        Ok(Running { child, lines: listen(stdout) })
    }

    /// Whether the guest's first line comes in time.
    fn wait_for_up(&mut self, until: Instant, on_line: &mut impl FnMut(&str)) -> bool {
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            on_line(&line);
            if line == UP {
                return true;
            }
        }
        false
    }

    fn follow(&mut self, deadline: Instant, timeout: Duration, mut on_line: impl FnMut(&str)) -> Result<i32> {
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => on_line(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    bail!("the guest took longer than {} s", timeout.as_secs())
                }
            }
        }
        let patience = Instant::now() + Duration::from_secs(END_PATIENCE_S);
        while Instant::now() < patience {
            match self.child.try_wait()?.map(|status| status.code()) {
                Some(Some(code)) if code & 1 == 1 => return Ok(code >> 1),
                Some(status) => bail!("the guest gave no exit status, the emulator ended with {status:?}"),
                None => thread::sleep(Duration::from_millis(10)),
            }
        }
        bail!("the emulator closed its output and did not end")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads lines on a thread of its own, so that waiting for one can end.
fn listen(stdout: ChildStdout) -> Receiver<String> {
    let (tx, rx) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    rx
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, timeout: Duration) -> (Result<i32>, Vec<String>) {
        let mut running = Running::start(Command::new("sh").args(["-c", script])).unwrap();
        let mut lines = Vec::new();
        let ended = running.follow(Instant::now() + timeout, timeout, |line| lines.push(line.to_owned()));
        (ended, lines)
    }

    #[test]
    fn the_guests_status_is_half_of_the_emulators() {
        let long = Duration::from_secs(60);
        let (ended, lines) = run("printf 'a\\r\\nb\\n'; exit 7", long);
        assert_eq!((ended.unwrap(), lines), (3, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(run("exit 1", long).0.unwrap(), 0);
        assert!(run("exit 0", long).0.unwrap_err().to_string().contains("no exit status"));
        assert!(run("exec sleep 600", Duration::ZERO).0.unwrap_err().to_string().contains("longer than 0 s"));
    }

    #[test]
    fn a_machine_is_up_when_it_says_so() {
        let is_up = |script: &str| {
            let mut running = Running::start(Command::new("sh").args(["-c", script])).unwrap();
            running.wait_for_up(Instant::now() + Duration::from_secs(60), &mut |_| ())
        };
        assert!(is_up("echo noise; echo guest: up; exec sleep 600"));
        assert!(!is_up("echo noise"));
    }
}
