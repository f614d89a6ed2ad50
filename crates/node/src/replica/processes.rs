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

use super::ReplicaError;
use crate::{
    SecretLine,
    rank::{SETTINGS, fence_setting},
};

/// Time for a process to end by itself, in milliseconds.
const END_MS: u64 = 500;
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

    /// Kills a rank's process if it is one of this machine; says what was done.
    pub(super) fn kill(&mut self, rank: RankId) -> String {
        let Some(i) = self.children.iter().position(|(of, _)| *of == rank) else {
            return "its connection was closed".to_owned();
        };
        let (_, mut child) = self.children.swap_remove(i);
        let id = child.id();
        // both fail only if the process is gone already; a stopped one ends all the same
        let _ = child.kill();
        let _ = child.wait();
        format!("its process {id} was killed")
    }

    /// Waits a moment for all processes to end by themselves, then kills the rest.
    pub(super) fn end(&mut self) {
        let started = Instant::now();
        let mut children = std::mem::take(&mut self.children);
        while started.elapsed() < Duration::from_millis(END_MS) {
            children.retain_mut(|(_, child)| !matches!(child.try_wait(), Ok(Some(_))));
            if children.is_empty() {
                return;
            }
            thread::sleep(Duration::from_millis(POLL_MS));
        }
        for (_, mut child) in children {
            // both fail only if the process is gone already
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.end();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}
