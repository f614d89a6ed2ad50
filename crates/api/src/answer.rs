//! From an `Ask` to its answer: encodes the prompt, checks it against the context, submits it, and turns what the
//! engine says into events without a dialect. Dropping the answer cancels the request.

use std::collections::VecDeque;
use std::sync::Arc;

use base::{FinishReason, Output, TokenId, Usage};
use engine::{RequestStream, SubmitError};
use text::{Detokenizer, TextError};

use crate::ask::{Ask, MaxTokens, Prompt};
use crate::cut::{Cutter, Piece};
use crate::errors::ApiError;
use crate::metrics::{Meter, Outcome};
use crate::params::ParamError;
use crate::state::Server;

/// What happens in an answer, in order: pieces, then one end.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    Piece(Piece),
    End(Finish, Usage),
}

/// Why a complete answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    /// A stop token or a stop string.
    Stop,
    /// The length asked for, or the context's end.
    Length,
}

/// A whole answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Whole {
    pub(crate) piece: Piece,
    pub(crate) finish: Finish,
    pub(crate) usage: Usage,
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
}

impl Answer {
    /// Encodes and submits. Everything that can be refused is refused here.
    pub(crate) async fn start(server: &Arc<Server>, ask: Ask) -> Result<Answer, ApiError> {
        if let Some(why) = (server.app.status)().down {
            return Err(ApiError::Down { why });
        }
        let mut meter = Meter::start(&server.metrics);
        let param = ask.prompt.param();
        let Encoded { prompt, detokenizer } = encode(server, ask.prompt).await?;
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
            running: Some(Running { stream, cutter }),
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
        let mut whole = Piece::default();
        while let Some(event) = self.next().await {
            match event? {
                Event::Piece(piece) => whole.extend(piece),
                Event::End(finish, usage) => return Ok(Whole { piece: whole, finish, usage }),
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
                self.emit(piece);
                if stopped {
                    self.end(Finish::Stop, self.usage);
                } else {
                    self.running = Some(running);
                }
            }
            Some(Output::Finished { reason: FinishReason::Cancelled, .. }) => {
                self.fail("the server cancelled the request".to_owned());
            }
            Some(Output::Finished { reason, usage, .. }) => {
                self.emit(running.cutter.finish());
                let is_stop = reason == FinishReason::Stop;
                self.end(if is_stop { Finish::Stop } else { Finish::Length }, usage);
            }
            Some(Output::Failed { message, .. }) => self.fail(message),
            None => self.fail("the engine has gone".to_owned()),
        }
    }

    fn emit(&mut self, piece: Piece) {
        if !piece.is_empty() {
            self.ready.push_back(Ok(Event::Piece(piece)));
        }
    }

    fn end(&mut self, finish: Finish, usage: Usage) {
        self.meter.ended(match finish {
            Finish::Stop => Outcome::Stop,
            Finish::Length => Outcome::Length,
        });
        self.ready.push_back(Ok(Event::End(finish, usage)));
    }

    fn fail(&mut self, message: String) {
        self.meter.ended(Outcome::Failed);
        self.ready.push_back(Err(ApiError::Failed { message }));
    }
}

/// A prompt's tokens, and how to decode what follows them.
struct Encoded {
    prompt: Vec<TokenId>,
    detokenizer: Detokenizer,
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
    let is_chat = matches!(prompt, Prompt::Chat(_));
    let prompt = match prompt {
        Prompt::Tokens(tokens) => tokens,
        Prompt::Text(text) => tokenizer.encode(&text, true, true).map_err(refused)?,
        Prompt::Chat(messages) => {
            let template = server.app.template.as_ref().ok_or_else(|| {
                let why = "needs a chat template, and this model has none\nhint: use /v1/completions";
                ParamError::refused(param, why)
            })?;
            // Only the template may write control tokens, and it writes all of them.
            let messages = tokenizer.disarm(&messages);
            let text = template.render(&messages, None, true).map_err(refused)?;
            tokenizer.encode(&text, false, true).map_err(refused)?
        }
    };
    if prompt.is_empty() {
        return Err(ParamError::refused(param, "must hold at least one token").into());
    }
    // A chat's answer is a text of its own; a completion goes on where the prompt ends.
    let detokenizer = if is_chat { tokenizer.detokenizer() } else { tokenizer.detokenizer_after(&prompt) };
    Ok(Encoded { prompt, detokenizer })
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
