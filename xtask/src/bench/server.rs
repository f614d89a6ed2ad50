//! A server in a process of its own, onefold or llama.cpp's, and requests to it over HTTP as any client would make
//! them: completions of tokens, streamed. It does not know what is measured.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use ureq::Agent;

use super::{llama::Setting, models::Model};

/// Longest time a server may take to load, in seconds.
const MAX_LOAD_S: u64 = 120;
/// Longest time a server may take to end when it is asked to, in seconds.
const MAX_END_S: u64 = 10;
/// Between two looks at a server that is not ready, in milliseconds.
const LOOK_MS: u64 = 2;
/// Longest time a request may take, in seconds.
const MAX_REQUEST_S: u64 = 600;
/// Tokens of the longest sequence.
const CONTEXT_LEN: u32 = 256;
/// Never chosen.
const NEVER: f64 = -100.0;

/// A running server; it ends with this value.
pub(super) struct Server {
    child: Child,
    agent: Agent,
    address: SocketAddr,
    /// When its process was started.
    started: Instant,
}

/// What a client saw of one answer.
pub(super) struct Answer {
    pub(super) first_token: Instant,
    pub(super) end: Instant,
    /// As the server counts.
    n_prompt: u64,
    n_tokens: u64,
}

/// A completion that does not end before it is long enough.
pub(super) struct Request(Value);

impl Request {
    /// Greedy, `n_tokens` exactly.
    pub(super) fn new(model: &Model, id: &str, prompt: &[u32], n_tokens: u32) -> Request {
        let bias: serde_json::Map<String, Value> =
            model.control_tokens.iter().map(|id| (id.to_string(), NEVER.into())).collect();
        Request(json!({
            "model": id, "prompt": prompt, "max_tokens": n_tokens, "temperature": 0.0, "logit_bias": bias,
            "stream": true, "stream_options": {"include_usage": true},
        }))
    }
}

impl Server {
    /// `onefold serve` with one rank, room for `n_streams` sequences.
    pub(super) fn onefold(program: &Path, model: &Model, n_threads: u32, n_streams: u32) -> Result<Server> {
        let mut command = Command::new(program);
        command.arg("serve").arg(&model.path).args(["--threads", &n_threads.to_string()]);
        command.args(["--context", &CONTEXT_LEN.to_string()]);
        command.args(["--kv-tokens", &(CONTEXT_LEN * n_streams).to_string()]);
        Server::start(command)
    }

    /// `llama-server` with as many slots. What would only cost it time here is off: its page, its check of other
    /// devices' memory, its store of prompts that do not come again.
    pub(super) fn llama(
        program: &Path,
        model: &Model,
        n_threads: u32,
        n_streams: u32,
        setting: Setting,
    ) -> Result<Server> {
        let mut command = Command::new(program);
        command.arg("--model").arg(&model.path).args(["--threads", &n_threads.to_string()]);
        command.args(["--cpu-range", &format!("0-{}", n_threads - 1)]);
        command.args(["--parallel", &n_streams.to_string()]);
        command.args(["--ctx-size", &(CONTEXT_LEN * n_streams).to_string()]);
        command.args(["--no-warmup", "--no-ui", "--fit", "off", "--cache-ram", "0", "--log-disable"]);
        command.arg(match setting {
            Setting::Repack => "--repack",
            Setting::Plain => "--no-repack",
        });
        Server::start(command)
    }

    fn start(mut command: Command) -> Result<Server> {
        let address = free_address()?;
        command.args(["--host", &address.ip().to_string(), "--port", &address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let program = command.get_program().display().to_string();
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let config = Agent::config_builder().proxy(None).http_status_as_error(false);
        let config = config.timeout_global(Some(Duration::from_secs(MAX_REQUEST_S))).build();
        Ok(Server { child, agent: Agent::new_with_config(config), address, started })
    }

    /// Waits until it has loaded, and returns its name for the model.
    pub(super) fn model_id(&mut self) -> Result<String> {
        let url = format!("http://{}/v1/models", self.address);
        loop {
            if let Ok(mut response) = self.agent.get(&url).call()
                && response.status().is_success()
            {
                let list: Value = serde_json::from_str(&response.body_mut().read_to_string()?)?;
                return Ok(list["data"][0]["id"].as_str().context("a server without a model")?.to_owned());
            }
            self.wait()?;
        }
    }

    /// Time from its start to the first token it answers with; asks until it can.
    pub(super) fn time_to_first_token(&mut self, request: &Request) -> Result<Duration> {
        loop {
            match self.complete(request) {
                Ok(answer) => return Ok(answer.first_token - self.started),
                Err(why) => self.wait().context(why)?,
            }
        }
    }

    /// Sends a request and reads the stream of its answer.
    pub(super) fn complete(&self, request: &Request) -> Result<Answer> {
        let post = self.agent.post(format!("http://{}/v1/completions", self.address));
        let mut response = post.header("content-type", "application/json").send(request.0.to_string())?;
        if !response.status().is_success() {
            let why = response.body_mut().read_to_string()?;
            bail!("{} from {}: {why}", response.status(), self.address);
        }
        let answer = Answer::read(BufReader::new(response.into_body().into_reader()))?;
        let (prompt, wanted) =
            (request.0["prompt"].as_array().map_or(0, Vec::len) as u64, &request.0["max_tokens"]);
        ensure!(
            answer.n_prompt == prompt && *wanted == answer.n_tokens,
            "expected {prompt} tokens in and {wanted} out, found {} and {}",
            answer.n_prompt,
            answer.n_tokens
        );
        Ok(answer)
    }

    /// A moment, if it is still alive and has not taken too long.
    fn wait(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the server on {} ended with {status}", self.address);
        }
        ensure!(self.started.elapsed() < Duration::from_secs(MAX_LOAD_S), "not loaded after {MAX_LOAD_S} s");
        thread::sleep(Duration::from_millis(LOOK_MS));
        Ok(())
    }

    /// Asks it to end, so that it ends its own processes.
    fn stop(&mut self) -> Result<()> {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            ensure!(asked.elapsed() < Duration::from_secs(MAX_END_S), "still there after {MAX_END_S} s");
            thread::sleep(Duration::from_millis(LOOK_MS));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Answer {
    /// From server-sent events. Only the first text and the counts at the end are looked into, for the machine has
    /// other things to do.
    fn read(events: impl BufRead) -> Result<Answer> {
        let mut first_token = None;
        let mut usage = Value::Null;
        for line in events.lines() {
            let line = line?;
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                break;
            }
            let is_counted = data.contains("\"usage\":{");
            if first_token.is_some() && !is_counted {
                continue;
            }
            let mut event: Value = serde_json::from_str(data)?;
            ensure!(event["error"].is_null(), "the answer broke off: {data}");
            if event["choices"][0]["text"].as_str().is_some_and(|text| !text.is_empty()) {
                first_token.get_or_insert_with(Instant::now);
            }
            if is_counted {
                usage = event["usage"].take();
            }
        }
        let count = |name: &str| usage[name].as_u64().with_context(|| format!("an answer without {name}"));
        Ok(Answer {
            first_token: first_token.context("an answer without text")?,
            end: Instant::now(),
            n_prompt: count("prompt_tokens")?,
            n_tokens: count("completion_tokens")?,
        })
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = concat!(
        ": keep-alive\n\n",
        "data: {\"choices\":[{\"text\":\"\"}]}\n\n",
        "data: {\"choices\":[{\"text\":\" a\"}]}\n\n",
        "data: never read as JSON\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":64,\"completion_tokens\":128}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn an_answer_is_counted_by_the_server_and_timed_at_its_first_text() {
        let before = Instant::now();
        let answer = Answer::read(EVENTS.as_bytes()).unwrap();
        assert_eq!((answer.n_prompt, answer.n_tokens), (64, 128));
        assert!(before <= answer.first_token && answer.first_token <= answer.end);
    }

    #[test]
    fn an_answer_without_text_or_counts_or_with_an_error_is_none() {
        for (events, why) in [
            ("data: [DONE]\n", "an answer without text"),
            ("data: {\"choices\":[{\"text\":\"a\"}]}\n", "an answer without prompt_tokens"),
            ("data: {\"error\":{\"message\":\"no\"}}\n", "the answer broke off"),
        ] {
            let error = Answer::read(events.as_bytes()).map(drop).unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
    }
}
