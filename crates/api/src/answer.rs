//! From an `Ask` to its answer: encodes the prompt, checks it against the context, submits it, and turns what the
//! engine says into events without a dialect. Dropping the answer cancels the request.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{FinishReason, Output, TokenId, Usage};
use engine::{RequestStream, SubmitError};
use text::{AnswerReader, Detokenizer, Part, TextError, Tokenizer};

use crate::ask::{Ask, Conversation, MaxTokens, Prompt};
use crate::cut::{Cutter, Piece, ScoredToken};
use crate::errors::ApiError;
use crate::metrics::{Meter, Outcome};
use crate::params::ParamError;
use crate::state::Server;

/// What happens in an answer, in order: parts, then one end.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Said(Said),
    End(Finish, Usage),
}

/// A piece of an answer, with the tokens that begin up to its end when log-probabilities were asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) part: Part,
    pub(crate) tokens: Vec<ScoredToken>,
}

/// Why a complete answer ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Finish {
    /// A stop token or a stop string.
    #[default]
    Stop,
    /// The length asked for, or the context's end.
    Length,
    /// Calls of tools, whose results are to come.
    Calls,
}

/// A whole answer.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Whole {
    pub(crate) content: String,
    pub(crate) reasoning: String,
    pub(crate) calls: Vec<Call>,
    pub(crate) tokens: Vec<ScoredToken>,
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
}

/// A call of a tool.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Call {
    pub(crate) name: String,
    /// JSON, if the model wrote JSON.
    pub(crate) arguments: String,
}

impl Whole {
    fn add(&mut self, said: Said) {
        self.tokens.extend(said.tokens);
        match said.part {
            Part::Content(text) => self.content.push_str(&text),
            Part::Reasoning(text) => self.reasoning.push_str(&text),
            Part::Call(name) => self.calls.push(Call { name, arguments: String::new() }),
            Part::Arguments(text) => {
                if let Some(call) = self.calls.last_mut() {
                    call.arguments.push_str(&text);
                }
            }
            Part::CallEnd => {}
        }
    }
}

/// An answer under way.
pub(crate) struct Answer {
    /// `None` once nothing more is wanted.
    running: Option<Running>,
    ready: VecDeque<Result<Event, ApiError>>,
    /// Counted here, for answers that are cut by a stop string.
    usage: Usage,
    meter: Meter,
}

struct Running {
    stream: RequestStream,
    cutter: Cutter,
    parts: Parts,
}

/// Where an answer's text comes apart.
struct Parts {
    /// Takes the text apart; `None` when all of it is content.
    reader: Option<AnswerReader>,
    /// Whether the answer goes on after a call.
    parallel_calls: bool,
    has_calls: bool,
    /// Tokens of text that has not come out yet.
    tokens: Vec<ScoredToken>,
}

impl Answer {
    /// Encodes and submits. Everything that can be refused is refused here.
    pub(crate) async fn start(server: &Arc<Server>, ask: Ask) -> Result<Answer, ApiError> {
        if let Some(why) = (server.app.status)().down {
            return Err(ApiError::Down { why });
        }
        let mut meter = Meter::start(&server.metrics);
        let param = ask.prompt.param();
        let Encoded { prompt, detokenizer, reader, parallel_calls } = encode(server, ask.prompt).await?;
        let n_prompt = prompt.len();
        let max_tokens = bound(n_prompt, ask.max_tokens, server.app.context_len, param)?;
        let tokenizer = server.app.tokenizer.clone();
        let cutter =
            Cutter::new(tokenizer.clone(), detokenizer, ask.stops, ask.sampling.n_logprobs.is_some());
        let stop_tokens = tokenizer.eos_tokens().to_vec();
        let stream =
            server.app.client.submit(prompt, max_tokens, stop_tokens, ask.sampling).map_err(|e| match e {
                SubmitError::Busy { limit } => ApiError::Busy { limit },
                SubmitError::Down { why } => ApiError::Down { why },
            })?;
        meter.accepted(n_prompt);
        Ok(Answer {
            running: Some(Running {
                stream,
                cutter,
                parts: Parts { reader, parallel_calls, has_calls: false, tokens: Vec::new() },
            }),
            ready: VecDeque::new(),
            usage: Usage { prompt_tokens: n_prompt as u32, ..Usage::default() },
            meter,
        })
    }

    /// The next event; `None` after the end or an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, ApiError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // Taken only when the wait is over: a wait that is given up loses nothing.
            let output = self.running.as_mut()?.stream.next().await;
            let running = self.running.take()?;
            self.take(running, output);
        }
    }

    /// All of it.
    pub(crate) async fn whole(mut self) -> Result<Whole, ApiError> {
        let mut whole = Whole::default();
        while let Some(event) = self.next().await {
            match event? {
                Event::Said(said) => whole.add(said),
                Event::End(finish, usage) => return Ok(Whole { finish, usage, ..whole }),
            }
        }
        Err(ApiError::Failed { message: "it ended without an end".to_owned() })
    }

    /// What an output means. The request goes on only if `running` is put back.
    fn take(&mut self, mut running: Running, output: Option<Output>) {
        match output {
            Some(Output::Token { sampled, .. }) => {
                self.meter.token();
                self.usage.completion_tokens += 1;
                let (piece, stopped) = running.cutter.push(&sampled);
                let is_over = self.read(&mut running.parts, piece);
                if stopped || is_over {
                    self.finish(running.parts, Finish::Stop, self.usage);
                } else {
                    self.running = Some(running);
                }
            }
            Some(Output::Finished { reason: FinishReason::Cancelled, .. }) => {
                self.fail("the server cancelled the request".to_owned());
            }
            Some(Output::Finished { reason, usage, .. }) => {
                let rest = running.cutter.finish();
                let mut parts = running.parts;
                self.read(&mut parts, rest);
                let is_stop = reason == FinishReason::Stop;
                self.finish(parts, if is_stop { Finish::Stop } else { Finish::Length }, usage);
            }
            Some(Output::Failed { message, .. }) => self.fail(message),
            None => self.fail("the engine has gone".to_owned()),
        }
    }

    /// Takes a piece apart. Whether the answer is over with it, because nothing may follow a call.
    fn read(&mut self, parts: &mut Parts, piece: Piece) -> bool {
        let said = match &mut parts.reader {
            Some(reader) => reader.push(&piece.text),
            None if piece.is_empty() => Vec::new(),
            None => vec![Part::Content(piece.text)],
        };
        parts.tokens.extend(piece.tokens);
        self.emit(parts, said)
    }

    /// The answer is complete: what was not clear yet comes out.
    fn finish(&mut self, mut parts: Parts, finish: Finish, usage: Usage) {
        // After the one call that was allowed, nothing counts.
        if let Some(reader) = parts.reader.take() {
            self.emit(&mut parts, reader.finish());
        }
        if !parts.tokens.is_empty() {
            let (part, tokens) = (Part::Content(String::new()), parts.tokens);
            self.ready.push_back(Ok(Event::Said(Said { part, tokens })));
        }
        let is_calling = parts.has_calls && finish == Finish::Stop;
        self.end(if is_calling { Finish::Calls } else { finish }, usage);
    }

    /// Queues parts. Whether a call ended after which none may follow; what stands behind it is dropped.
    fn emit(&mut self, parts: &mut Parts, said: Vec<Part>) -> bool {
        for part in said {
            let is_end = part == Part::CallEnd;
            parts.has_calls |= is_end;
            let tokens = std::mem::take(&mut parts.tokens);
            self.ready.push_back(Ok(Event::Said(Said { part, tokens })));
            if is_end && !parts.parallel_calls {
                parts.reader = None;
                return true;
            }
        }
        false
    }

    fn end(&mut self, finish: Finish, usage: Usage) {
        self.meter.ended(match finish {
            Finish::Stop | Finish::Calls => Outcome::Stop,
            Finish::Length => Outcome::Length,
        });
        self.ready.push_back(Ok(Event::End(finish, usage)));
    }

    fn fail(&mut self, message: String) {
        self.meter.ended(Outcome::Failed);
        self.ready.push_back(Err(ApiError::Failed { message }));
    }
}

/// A prompt's tokens, and how to decode and read what follows them.
struct Encoded {
    prompt: Vec<TokenId>,
    detokenizer: Detokenizer,
    reader: Option<AnswerReader>,
    parallel_calls: bool,
}

/// Encodes a prompt. Templates and tokenizers compute, so they run beside the threads that answer.
async fn encode(server: &Arc<Server>, prompt: Prompt) -> Result<Encoded, ApiError> {
    let gone = |what: &str| ApiError::Failed { message: format!("{what} has gone") };
    let permit = server.encoders.clone().acquire_owned().await.map_err(|_| gone("the encoder"))?;
    let server = server.clone();
    let encoded = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        encode_now(&server, prompt)
    });
    encoded.await.map_err(|_| gone("the encoding thread"))?
}

fn encode_now(server: &Server, prompt: Prompt) -> Result<Encoded, ApiError> {
    let param = prompt.param();
    let tokenizer = &server.app.tokenizer;
    let refused = |e: TextError| ParamError::refused(param, format!("cannot be encoded: {e}"));
    let encoded = match prompt {
        Prompt::Tokens(tokens) => Encoded::continuing(tokenizer, tokens),
        Prompt::Text(text) => {
            Encoded::continuing(tokenizer, tokenizer.encode(&text, true, true).map_err(refused)?)
        }
        Prompt::Chat(conversation) => {
            encode_chat(server, &conversation).map_err(refused)?.ok_or_else(|| {
                let why = "needs a chat template, and this model has none\nhint: use /v1/completions";
                ParamError::refused(param, why)
            })?
        }
    };
    if encoded.prompt.is_empty() {
        return Err(ParamError::refused(param, "must hold at least one token").into());
    }
    Ok(encoded)
}

/// A chat's answer is a text of its own, taken apart; `None` without a chat template.
fn encode_chat(server: &Server, conversation: &Conversation) -> Result<Option<Encoded>, TextError> {
    let Some(template) = &server.app.template else { return Ok(None) };
    let tokenizer = &server.app.tokenizer;
    let Conversation { messages, tools, .. } = conversation;
    // Only the template may write control tokens, and it writes all of them.
    let declared = tools.declared.as_ref().map(|tools| tokenizer.disarm(tools));
    let text = template.render(&tokenizer.disarm(messages), declared.as_ref(), true)?;
    let reader = template.form().reader(&text, tools.declared.as_ref());
    let detokenizer = match reader {
        Some(_) => tokenizer.detokenizer_showing(&template.form().marks()),
        None => tokenizer.detokenizer(),
    };
    let prompt = tokenizer.encode(&text, false, true)?;
    Ok(Some(Encoded { prompt, detokenizer, reader, parallel_calls: tools.parallel }))
}

impl Encoded {
    /// A completion goes on where the prompt ends.
    fn continuing(tokenizer: &Tokenizer, prompt: Vec<TokenId>) -> Encoded {
        let detokenizer = tokenizer.detokenizer_after(&prompt);
        Encoded { prompt, detokenizer, reader: None, parallel_calls: true }
    }
}

/// Tokens to generate at most, if prompt and answer fit the context.
fn bound(
    n_prompt: usize,
    max_tokens: MaxTokens,
    context_len: u32,
    param: &'static str,
) -> Result<u32, ApiError> {
    let answer = match max_tokens {
        MaxTokens::Asked(n) => n,
        MaxTokens::Default(_) | MaxTokens::Rest => 1,
    };
    let (prompt, answer) = (n_prompt as u64, u64::from(answer));
    if prompt + answer > u64::from(context_len) {
        return Err(ApiError::ContextOverflow {
            context_len,
            needed: prompt + answer,
            prompt,
            answer,
            param,
        });
    }
    let rest = context_len - n_prompt as u32;
    Ok(match max_tokens {
        MaxTokens::Asked(n) => n,
        MaxTokens::Default(n) => n.min(rest),
        MaxTokens::Rest => rest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_bounded_by_what_is_left() {
        let bound = |n, max| bound(n, max, 100, "prompt").ok();
        assert_eq!(bound(60, MaxTokens::Asked(40)), Some(40));
        assert_eq!(bound(60, MaxTokens::Asked(41)), None);
        assert_eq!(bound(60, MaxTokens::Asked(u32::MAX)), None);
        assert_eq!(bound(90, MaxTokens::Default(16)), Some(10));
        assert_eq!(bound(60, MaxTokens::Default(16)), Some(16));
        assert_eq!(bound(60, MaxTokens::Rest), Some(40));
        assert_eq!(bound(99, MaxTokens::Rest), Some(1));
        assert_eq!(bound(100, MaxTokens::Rest), None);
        assert_eq!(bound(usize::MAX >> 1, MaxTokens::Rest), None);
    }
}
