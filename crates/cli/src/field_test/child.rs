//! Processes that are started, waited for no longer than a limit, and whose words are kept within a limit: this program again for a
//! part, or a program of the system.

use std::{
    env,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{outcome::Outcome, part::Part};
use crate::args::FieldTestArgs;

/// Longest time of a part, in seconds. MLX's build for CPUs is slow.
pub(super) const PART_TIMEOUT_S: u64 = 30 * 60;
/// How often a process is looked at, in milliseconds.
const POLL_MS: u64 = 10;
/// Time for a killed process to be gone, in milliseconds; one that waits for a wedged device stays until a restart.
const KILL_PATIENCE_MS: u64 = 5_000;
/// What is kept of a process's standard output, in bytes.
const MAX_OUTPUT_BYTES: u64 = 256 << 10;
/// What is told of a failed process's standard error, in bytes: its end.
const MAX_LAST_WORDS_BYTES: u64 = 2 << 10;

/// A folder of our own for what is written on the way; it goes away with this.
pub(super) struct Scratch {
    folder: PathBuf,
}

/// A process that has ended.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// The beginning of its standard output.
    pub(super) stdout: String,
    /// The end of its standard error.
    pub(super) stderr: String,
}

impl Scratch {
    pub(super) fn new() -> Result<Scratch> {
        let folder = env::temp_dir().join(format!("onefold-field-test-{}", process::id()));
        let made = DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(Scratch { folder })
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // the system clears what may be left
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// This program again, for one part.
pub(super) fn part(
    args: &FieldTestArgs,
    part: Part,
    model: Option<&str>,
    scratch: &Scratch,
) -> Result<Outcome> {
    let mut command = this_program()?;
    command.args(["field-test", "--part", part.name()]).envs(part.environment());
    command.args(model.into_iter().flat_map(|model| ["--model", model]));
    command.args(args.quick.then_some("--quick"));
    Outcome::parse(&said(&mut command, scratch)?)
}

/// This program's own file.
pub(super) fn this_program() -> Result<Command> {
    Ok(Command::new(env::current_exe().context("cannot find this program's own file")?))
}

/// What a part's process printed, if it ended well.
pub(super) fn said(command: &mut Command, scratch: &Scratch) -> Result<String> {
    let ended = run(command, scratch, Duration::from_secs(PART_TIMEOUT_S))?;
    let ended = ended.context("this program's own file is gone")?;
    if !ended.status.success() {
        bail!("its process ended with {}, after\n{}", ended.status, ended.stderr.trim_end());
    }
    Ok(ended.stdout)
}

/// Runs a command; `None` if there is no such program.
pub(super) fn run(command: &mut Command, scratch: &Scratch, limit: Duration) -> Result<Option<Ended>> {
    // files and not pipes: what a process leaves behind cannot hold up the reading
    let [out, err] = ["stdout", "stderr"].map(|name| scratch.folder.join(name));
    command.stdin(Stdio::null()).stdout(File::create(&out)?).stderr(File::create(&err)?);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot start {command:?}")),
    };
    let Some(status) = wait(&mut child, limit)? else {
        child.kill()?;
        wait(&mut child, Duration::from_millis(KILL_PATIENCE_MS))?;
        bail!("it did not end within {} s, after\n{}", limit.as_secs(), last_words(&err)?.trim_end());
    };
    Ok(Some(Ended { status, stdout: beginning(&out)?, stderr: last_words(&err)? }))
}

/// How it ended, if it did within the limit.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || started.elapsed() > limit {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(POLL_MS));
    }
}

fn beginning(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut bytes)?;
    let mut text = String::from_utf8_lossy(&bytes).into_owned();
    if n_bytes > MAX_OUTPUT_BYTES {
        text += &format!("\n… {} more bytes", n_bytes - MAX_OUTPUT_BYTES);
    }
    Ok(text)
}

fn last_words(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let n_bytes = file.metadata()?.len();
    file.seek(SeekFrom::Start(n_bytes.saturating_sub(MAX_LAST_WORDS_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LAST_WORDS_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    /// One folder at a time, for its name is the process's.
    #[test]
    fn processes_are_waited_for_within_limits() {
        let scratch = Scratch::new().unwrap();
        let folder = scratch.folder().to_owned();
        let limit = Duration::from_secs(40);
        let ended = run(&mut shell("echo out; echo err >&2; exit 3"), &scratch, limit).unwrap().unwrap();
        assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("out\n", "err\n"));
        assert_eq!(ended.status.code(), Some(3));

        let error = said(&mut shell("echo why >&2; kill -ABRT $$"), &scratch).unwrap_err().to_string();
        assert!(error.contains("signal: 6") && error.ends_with("why"), "{error}");

        let much =
            run(&mut shell("head -c 300000 /dev/zero | tr '\\0' x"), &scratch, limit).unwrap().unwrap();
        assert!(much.stdout.len() < 300_000 && much.stdout.ends_with("more bytes"));

        let hangs = run(&mut shell("echo before >&2; exec sleep 100"), &scratch, Duration::from_millis(50));
        let error = hangs.err().unwrap().to_string();
        assert!(error.starts_with("it did not end within"), "{error}");
        assert!(run(&mut Command::new("/nonexistent/tool"), &scratch, limit).unwrap().is_none());
        drop(scratch);
        assert!(!folder.exists());
    }
}
