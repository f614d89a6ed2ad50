//! Rank processes of this machine: started, watched, ended; none is left behind.

use std::{
    io::Write,
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use plan::Fence;
use rustix::process::{Pid, Signal, kill_process};

use super::ReplicaError;
use crate::{
    SecretLine,
    rank::{SETTINGS, fence_setting},
};

/// Time for a process to end in good order when it is told to, in milliseconds: a device may keep what a killed one had.
const END_MS: u64 = 1_000;
/// How often a process is looked at, in milliseconds.
const POLL_MS: u64 = 2;

/// The rank processes of this machine.
pub(super) struct Processes {
    children: Vec<(RankId, Child)>,
}

impl Processes {
    /// Starts a process for each rank and tells it the secret.
    pub(super) fn spawn(
        executable: &Path,
        ranks: &[RankId],
        address: SocketAddr,
        secret: &SecretLine,
        fence: Fence,
    ) -> Result<Processes, ReplicaError> {
        let failed = |source| ReplicaError::Spawn { executable: executable.to_owned(), source };
        let mut processes = Processes { children: Vec::new() };
        let (variable, setting) = fence_setting(fence);
        for rank in ranks {
            let mut child = Command::new(executable)
                .args(["rank", "--connect", &address.to_string(), "--rank", &rank.0.to_string()])
                .env(variable, setting)
                .envs(SETTINGS)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .process_group(0) // Ctrl-C is for this process, which ends the ranks in good order
                .spawn()
                .map_err(failed)?;
            let stdin = child.stdin.take();
            processes.children.push((*rank, child));
            if let Some(mut stdin) = stdin {
                writeln!(stdin, "{}", secret.line()).map_err(failed)?;
            }
        }
        Ok(processes)
    }

    /// A process that has ended, and how.
    pub(super) fn ended(&mut self) -> Option<(RankId, String)> {
        self.children.iter_mut().find_map(|(rank, child)| {
            let status = child.try_wait().ok().flatten()?;
            Some((*rank, format!("its process {} {}", child.id(), describe(status))))
        })
    }

    /// A process that a signal ended, waiting a little for the system to say so.
    pub(super) fn find_killed(&mut self, patience: Duration) -> Option<(RankId, String)> {
        let started = Instant::now();
        loop {
            let killed = self.children.iter_mut().find_map(|(rank, child)| {
                let status = child.try_wait().ok().flatten().filter(|s| s.code().is_none())?;
                Some((*rank, format!("its process {} {}", child.id(), describe(status))))
            });
            if killed.is_some() || started.elapsed() >= patience {
                return killed;
            }
            thread::sleep(Duration::from_millis(POLL_MS));
        }
    }

    /// Ends a rank's process if it is one of this machine, by force if it does not when told to; says what was done.
    pub(super) fn end_one(&mut self, rank: RankId) -> String {
        let Some(i) = self.children.iter().position(|(of, _)| *of == rank) else {
            return "its connection was closed".to_owned();
        };
        let (_, child) = self.children.swap_remove(i);
        let id = child.id();
        match end_all(vec![child]) {
            0 => format!("its process {id} was ended"),
            _ => format!("its process {id} was killed"),
        }
    }

    /// Ends all processes.
    pub(super) fn end(&mut self) {
        let children = std::mem::take(&mut self.children);
        end_all(children.into_iter().map(|(_, child)| child).collect());
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}

/// Tells processes to end, waits a moment, then kills the rest; returns how many those were.
fn end_all(mut children: Vec<Child>) -> usize {
    let started = Instant::now();
    for child in &mut children {
        // its number is its own until somebody has waited for it
        if let Ok(None) = child.try_wait() {
            let _ = kill_process(Pid::from_child(child), Signal::TERM);
        }
    }
    while started.elapsed() < Duration::from_millis(END_MS) {
        children.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_))));
        if children.is_empty() {
            return 0;
        }
        thread::sleep(Duration::from_millis(POLL_MS));
    }
    for child in &mut children {
        // both fail only if the process is gone already; a stopped one ends all the same
        let _ = child.kill();
        let _ = child.wait();
    }
    children.len()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
