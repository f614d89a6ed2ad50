//! What the tests of the program share: tiny models, a running server that leaves no process behind, and as much HTTP
//! as they need.
#![allow(dead_code, clippy::unwrap_used)] // every test program uses a part of it, and all of it is tests

#[cfg(target_os = "linux")] // it finds processes below /proc
pub(crate) mod busy;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use weights::synthetic::{Arch, Recipe};

/// For what should not take long, but may on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// What the processes of a replica know.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef\n";
const POLL: Duration = Duration::from_millis(5);

/// The program, with no model of the user's and no network.
pub(crate) fn onefold() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onefold"));
    command
        .env("ONEFOLD_CACHE", "/nonexistent/cache")
        .env("ONEFOLD_MODELS", "/nonexistent/models")
        .env("HF_ENDPOINT", "http://127.0.0.1:9")
        .env("RUST_BACKTRACE", "0");
    command
}

/// A recipe whose heads share out unevenly: 3 KV heads and 4 layers.
pub(crate) fn uneven() -> Recipe {
    Recipe { n_layers: 4, n_heads: 6, n_kv_heads: 3, hidden: 96, vocab: 320, ..Recipe::tiny(Arch::Llama) }
}

/// Writes a recipe as `name` into a directory.
pub(crate) fn gguf(recipe: &Recipe, dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(name);
    recipe.write_gguf(&path).unwrap();
    path
}

/// A process whose standard error is read line by line. It is killed when dropped, its rank processes too.
pub(crate) struct Running {
    child: Child,
    ranks: Vec<Pid>,
    lines: Receiver<String>,
    /// Standard error so far.
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, ranks: Vec::new(), lines, said: String::new() }
    }

    /// The first line from now on that contains `text`.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said += &format!("{line}\n");
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in time after:\n{}", self.said),
                Err(RecvTimeoutError::Disconnected) => panic!("no {text:?} at all in:\n{}", self.said),
            }
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// How it ended, or a panic.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        let mut status = None;
        eventually(patience, "the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.said.extend(self.lines.iter().map(|line| line + "\n"));
        status.unwrap()
    }

    /// Its rank processes, in the order of ranks.
    #[cfg(target_os = "linux")]
    pub(crate) fn ranks(&mut self) -> Vec<Pid> {
        let me = self.pid();
        let mut found: Vec<(u32, Pid)> = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?))
            .filter(|pid| stat(*pid).is_some_and(|(_, parent)| parent == me.as_raw_nonzero().get()))
            .filter_map(|pid| Some((rank_number(pid)?, pid)))
            .collect();
        found.sort_by_key(|(rank, _)| *rank);
        self.ranks = found.into_iter().map(|(_, pid)| pid).collect();
        self.ranks.clone()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // fails if it has ended, and then there is nothing to do
        let _ = self.child.kill();
        let _ = self.child.wait();
        #[cfg(target_os = "linux")]
        for rank in self.ranks.iter().filter(|rank| rank_number(**rank).is_some()) {
            let _ = kill_process(*rank, Signal::KILL);
        }
    }
}

/// Waits until something holds.
pub(crate) fn eventually(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        thread::sleep(POLL);
    }
}

/// Whether a process is there and runs or waits; one that only waits to be noticed by its parent does not count.
#[cfg(target_os = "linux")]
pub(crate) fn is_alive(pid: Pid) -> bool {
    stat(pid).is_some_and(|(state, _)| state != 'Z') && rank_number(pid).is_some()
}

/// Whether there is any trace of a process.
#[cfg(target_os = "linux")]
pub(crate) fn exists(pid: Pid) -> bool {
    stat(pid).is_some()
}

/// State and parent of a process, from behind its name, which may hold anything.
#[cfg(target_os = "linux")]
fn stat(pid: Pid) -> Option<(char, i32)> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// N of `onefold rank … --rank N`.
#[cfg(target_os = "linux")]
fn rank_number(pid: Pid) -> Option<u32> {
    let line = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mut args = line.split('\0');
    args.find(|arg| *arg == "rank")?;
    args.find(|arg| *arg == "--rank")?;
    args.next()?.parse().ok()
}

/// `onefold serve`, ready for requests.
pub(crate) struct Server {
    pub(crate) process: Running,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Serves on a free port with one thread per rank.
    pub(crate) fn start(model: &Path, args: &[&str]) -> Server {
        let mut command = onefold();
        command.arg("serve").arg(model).args(["--port", "0", "--threads", "1"]).args(args);
        Server::ready(Running::start(&mut command))
    }

    /// Waits until it says where it serves.
    pub(crate) fn ready(mut process: Running) -> Server {
        let line = process.wait_for("is served at");
        let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
        Server { process, address }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        exchange(open(self.address, "GET", path, ""))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        exchange(open(self.address, "POST", path, &body.to_string()))
    }

    /// A number of `/metrics`.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let mut page = String::new();
        open(self.address, "GET", "/metrics", "").read_to_string(&mut page).unwrap();
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
    }

    /// The text of a greedy completion.
    pub(crate) fn complete(&self, prompt: &str, max_tokens: u32) -> String {
        let body = json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "model": "model"});
        let (status, answer) = self.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer["choices"][0]["text"].as_str().unwrap().to_owned()
    }
}

/// A server that waits for its last rank to be started by hand.
pub(crate) struct Waiting {
    pub(crate) process: Running,
    /// Where the rank is to connect.
    pub(crate) door: SocketAddr,
}

impl Waiting {
    /// `listen` is where it waits.
    pub(crate) fn start(model: &Path, args: &[&str], listen: &str, secret: &Path) -> Waiting {
        let mut command = onefold();
        command.arg("serve").arg(model).args(["--port", "0", "--threads", "1", "--remote", "1"]).args(args);
        command.args(["--listen", listen, "--secret-file"]).arg(secret);
        let mut process = Running::start(&mut command);
        let line = process.wait_for("onefold rank --connect");
        assert!(line.contains("--rank 1"), "{line}");
        let door = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        Waiting { process, door }
    }
}

/// `onefold rank`, as somebody on another machine types it.
pub(crate) fn rank(door: SocketAddr, number: u32, secret: &Path, model: &Path) -> Command {
    let mut command = onefold();
    command.args(["rank", "--connect", &door.to_string(), "--rank", &number.to_string(), "--secret-file"]);
    command.arg(secret).arg("--model").arg(model);
    command
}

/// An address of this machine that is not the one everything else uses, where there is one.
pub(crate) fn other_host() -> &'static str {
    if cfg!(target_os = "linux") { "127.0.0.2:0" } else { "127.0.0.1:0" }
}

/// Sends a request in HTTP/1.0, whose answers end with the connection and have no chunks.
pub(crate) fn open(address: SocketAddr, method: &str, path: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let n_bytes = body.len();
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {n_bytes}\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes()).unwrap();
    BufReader::new(stream)
}

/// The status line's number; leaves the reader at the body.
pub(crate) fn status(reader: &mut impl BufRead) -> u16 {
    let lines: Vec<String> = reader.lines().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
    lines.first().expect("an answer").split(' ').nth(1).unwrap().parse().unwrap()
}

/// Status and JSON of a whole answer.
pub(crate) fn exchange(mut reader: BufReader<TcpStream>) -> (u16, Value) {
    let status = status(&mut reader);
    let mut body = String::new();
    reader.read_to_string(&mut body).unwrap();
    (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e} in {body:?}")))
}
