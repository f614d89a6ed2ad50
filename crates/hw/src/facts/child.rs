//! A program of the system, asked with limits on time and on the length of its answer. It does not know what answers mean.

use std::{
    io::Read,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Longest time of a program; the slowest, `system_profiler`, takes one to three seconds.
const TIMEOUT_MS: u64 = 20_000;
/// Longest answer, in bytes.
const MAX_BYTES: u64 = 4 << 20;

/// What a program prints, or why there is nothing.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<Vec<u8>, String> {
    output_within(program, args, Duration::from_millis(TIMEOUT_MS))
}

fn output_within(program: &str, args: &[&str], limit: Duration) -> Result<Vec<u8>, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("{program}: {error}"))?;
    let Some(stdout) = child.stdout.take() else { return Err(format!("{program}: no output")) };
    let (sender, receiver) = mpsc::channel();
    // a thread of its own, for what the program leaves behind may hold the pipe open for ever
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let result = stdout.take(MAX_BYTES).read_to_end(&mut bytes);
        let _ = sender.send(result.map(|_| bytes)); // nobody waits after the limit
    });
    let answer = receiver.recv_timeout(limit);
    // it has closed its output, said too much, or has had its time: nothing it does from now on is wanted
    let _ = child.kill();
    let _ = child.wait();
    match answer {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => Err(format!("{program}: no answer within {} ms", limit.as_millis())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_asked_within_limits() {
        assert_eq!(output("sh", &["-c", "echo out; echo err >&2; exit 3"]), Ok(b"out\n".to_vec()));
        let hangs = output_within("sh", &["-c", "echo before; exec sleep 100"], Duration::from_millis(50));
        assert_eq!(hangs, Err("sh: no answer within 50 ms".to_owned()));
        let much = output("sh", &["-c", "exec cat /dev/zero"]).unwrap();
        assert_eq!(much.len() as u64, MAX_BYTES);
        assert!(output("/nonexistent/tool", &[]).unwrap_err().starts_with("/nonexistent/tool: "));
    }
}
