//! `onefold run`: one answer, or a chat at the terminal; and the streaming of an answer that `quickstart` shares.

use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base::{Output, SamplingParams, TokenId};
use engine::Client;
use node::ModelText;
use serde_json::{Value, json};
use text::{AnswerReader, Detokenizer, Part};

use crate::{args::RunArgs, start};

/// Runs `onefold run`.
pub(crate) fn run(args: &RunArgs) -> Result<()> {
    let model = start::open_model(&args.model)?;
    let (replica, text) = start::replica_and_text(&model, &args.placement, None, start::MAX_LOCAL_REQUESTS)?;
    let sampling = SamplingParams {
        temperature: args.temperature,
        seed: args.seed.unwrap_or_else(node::random_seed),
        ..SamplingParams::default()
    };
    let mut chat = Chat {
        text: &text,
        client: replica.client(),
        sampling,
        max_tokens: args.max_tokens,
        context_len: replica.plan().context_len(),
        messages: vec![],
    };
    if let Some(system) = &args.system {
        chat.push("system", system);
    }
    match &args.prompt {
        Some(prompt) => {
            let answer = chat.ask(prompt)?;
            eprintln!("{}", answer.summary());
        }
        None => chat.converse()?,
    }
    replica.stop();
    Ok(())
}

/// A conversation with a model.
pub(crate) struct Chat<'a> {
    pub(crate) text: &'a ModelText,
    pub(crate) client: &'a Client,
    pub(crate) sampling: SamplingParams,
    pub(crate) max_tokens: u32,
    /// Tokens of prompt and answer together.
    pub(crate) context_len: u32,
    pub(crate) messages: Vec<Value>,
}

/// What an answer cost.
pub(crate) struct Answer {
    text: String,
    n_prompt: usize,
    n_tokens: usize,
    first: Duration,
    total: Duration,
}

impl Chat<'_> {
    /// Reads questions from standard input until its end.
    fn converse(&mut self) -> Result<()> {
        let prompt = io::stdin().is_terminal();
        if prompt {
            eprintln!("Type a message and Enter; Ctrl-D ends the chat.");
        }
        let mut lines = io::stdin().lock().lines();
        loop {
            if prompt {
                eprint!("\n> ");
            }
            let Some(line) = lines.next().transpose().context("cannot read standard input")? else { break };
            if line.trim().is_empty() {
                continue;
            }
            let answer = self.ask(&line)?;
            eprintln!("{}", answer.summary());
        }
        Ok(())
    }

    /// Streams the answer to a question to standard output and remembers both.
    pub(crate) fn ask(&mut self, question: &str) -> Result<Answer> {
        self.push("user", question);
        let Prompt { tokens, detokenizer, reader } = self.prompt(question)?;
        let answer = self.stream(tokens, detokenizer, reader)?;
        self.push("assistant", &answer.text);
        Ok(answer)
    }

    fn push(&mut self, role: &str, content: &str) {
        self.messages.push(json!({"role": role, "content": content}));
    }

    /// The conversation as the model reads it; the bare question where the model has no chat template.
    fn prompt(&self, question: &str) -> Result<Prompt> {
        let tokenizer = &self.text.tokenizer;
        let Some(template) = &self.text.template else {
            let tokens = tokenizer.encode(question, true, false)?;
            return Ok(Prompt { tokens, detokenizer: tokenizer.detokenizer(), reader: None });
        };
        let text = template.render(&tokenizer.disarm(&Value::from(self.messages.clone())), None, true)?;
        Ok(Prompt {
            tokens: tokenizer.encode(&text, false, true)?,
            reader: template.form().reader(&text, None),
            detokenizer: tokenizer.detokenizer_showing(&template.form().marks()),
        })
    }

    fn stream(
        &self,
        prompt: Vec<TokenId>,
        mut detokenizer: Detokenizer,
        mut reader: Option<AnswerReader>,
    ) -> Result<Answer> {
        let (n_prompt, started) = (prompt.len(), Instant::now());
        let left = self.context_len.saturating_sub(n_prompt as u32).min(self.max_tokens);
        if left == 0 {
            let context_len = self.context_len;
            bail!(
                "the conversation has {n_prompt} tokens, the context {context_len}\nhint: --context makes it longer"
            );
        }
        let stop = self.text.tokenizer.eos_tokens().to_vec();
        let mut stream = self.client.submit(prompt, left, stop, self.sampling.clone())?;
        let (mut said, mut n_tokens, mut first) = (Said::default(), 0, Duration::ZERO);
        while let Some(output) = stream.blocking_next() {
            match output {
                Output::Token { sampled, .. } => {
                    if n_tokens == 0 {
                        first = started.elapsed();
                    }
                    n_tokens += 1;
                    let piece = detokenizer.push(sampled.token);
                    said.add(match &mut reader {
                        Some(reader) => reader.push(&piece),
                        None => vec![Part::Content(piece)],
                    })?;
                }
                Output::Finished { .. } => break,
                Output::Failed { message, .. } => bail!(message),
            }
        }
        let tail = detokenizer.finish();
        said.add(match reader {
            Some(mut reader) => [reader.push(&tail), reader.finish()].concat(),
            None => vec![Part::Content(tail)],
        })?;
        writeln!(io::stdout())?;
        Ok(Answer { text: said.content, n_prompt, n_tokens, first, total: started.elapsed() })
    }
}

/// A conversation ready to be answered.
struct Prompt {
    tokens: Vec<TokenId>,
    detokenizer: Detokenizer,
    /// Takes the answer apart, where models do more than speak.
    reader: Option<AnswerReader>,
}

/// What the model has said so far. Content goes to standard output, thinking beside it.
#[derive(Default)]
struct Said {
    content: String,
    thinks: bool,
}

impl Said {
    fn add(&mut self, parts: Vec<Part>) -> io::Result<()> {
        for part in parts {
            match part {
                Part::Reasoning(text) => {
                    write!(io::stderr(), "{text}")?;
                    self.thinks = true;
                }
                Part::Content(text) => {
                    if std::mem::take(&mut self.thinks) {
                        write!(io::stderr(), "\n\n")?;
                    }
                    let mut out = io::stdout().lock();
                    out.write_all(text.as_bytes())?;
                    out.flush()?;
                    self.content.push_str(&text);
                }
                // No tools are declared, so none are called.
                Part::Call(_) | Part::Arguments(_) | Part::CallEnd => {}
            }
        }
        Ok(())
    }
}

impl Answer {
    /// TTFT and speeds, in one line.
    pub(crate) fn summary(&self) -> String {
        let rate = |n: usize, time: Duration| n as f64 / time.as_secs_f64().max(1e-9);
        let decode = self.total.saturating_sub(self.first);
        format!(
            "[TTFT {:.0} ms · prefill {:.0} tok/s ({} tokens) · decode {:.1} tok/s ({} tokens)]",
            self.first.as_secs_f64() * 1e3,
            rate(self.n_prompt, self.first),
            self.n_prompt,
            rate(self.n_tokens.saturating_sub(1), decode),
            self.n_tokens,
        )
    }
}
