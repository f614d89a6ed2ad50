//! `POST /v1/chat/completions`: the endpoint and the shapes of its answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base::Usage;
use serde::Serialize;

use text::Part;

use super::calls::{Numbering, ToolCall, ToolCallDelta};
use super::logprobs::{self, ChatLogprobs};
use super::request::{self, Reading};
use super::shape::{self, Chunk, Head, UsageBody};
use crate::answer::{Answer, Finish, Said, Whole};
use crate::ask::Delivery;
use crate::errors::ApiError;
use crate::params::Params;
use crate::state::Server;
use crate::stream::{self, Dialect, Sent};

/// Answers a chat request, whole or as a stream.
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let model = super::models::served(&server, request::model(&mut params)?)?;
    let asked = request::chat(params, Reading::of(&server))?;
    let with_logprobs = asked.ask.sampling.n_logprobs.is_some();
    let calls = Numbering::new(server.clone(), asked.ask.prompt.n_calls());
    let answer = Answer::start(&server, asked.ask).await?;
    let head =
        |object| Head { id: server.fresh_id("chatcmpl"), object, created: (server.app.unix_time_s)(), model };
    match asked.delivery {
        Delivery::Whole => {
            let head = head("chat.completion");
            Ok(Json(completion(head, answer.whole().await?, with_logprobs, calls)).into_response())
        }
        Delivery::Stream { include_usage } => {
            let head = head("chat.completion.chunk");
            Ok(stream::respond(answer, Chunks { head, include_usage, with_logprobs, calls }))
        }
    }
}

#[derive(Serialize)]
struct Completion {
    #[serde(flatten)]
    head: Head,
    choices: [Choice; 1],
    usage: UsageBody,
}

#[derive(Serialize)]
struct Choice {
    index: u32,
    message: Message,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct Message {
    role: &'static str,
    /// Null in an answer that is calls alone.
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
    refusal: Option<()>,
}

fn completion(head: Head, whole: Whole, with_logprobs: bool, mut calls: Numbering) -> Completion {
    let tool_calls: Vec<_> = whole.calls.into_iter().map(|call| calls.whole(call)).collect();
    let message = Message {
        role: "assistant",
        content: (!whole.content.is_empty() || tool_calls.is_empty()).then_some(whole.content),
        reasoning_content: (!whole.reasoning.is_empty()).then_some(whole.reasoning),
        tool_calls,
        refusal: None,
    };
    let choice = Choice {
        index: 0,
        message,
        logprobs: with_logprobs.then(|| logprobs::for_chat(whole.tokens)),
        finish_reason: shape::finish_reason(whole.finish),
    };
    Completion { head, choices: [choice], usage: whole.usage.into() }
}

#[derive(Serialize)]
struct ChunkChoice {
    index: u32,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[ToolCallDelta; 1]>,
}

/// The events of one streamed answer.
struct Chunks {
    head: Head,
    include_usage: bool,
    with_logprobs: bool,
    calls: Numbering,
}

impl Chunks {
    fn chunk(&self, delta: Delta, logprobs: Option<ChatLogprobs>) -> Vec<Sent> {
        let choices = vec![ChunkChoice { index: 0, delta, logprobs, finish_reason: None }];
        vec![shape::event(&Chunk { head: &self.head, choices, usage: self.include_usage.then_some(None) })]
    }
}

impl Dialect for Chunks {
    fn open(&mut self) -> Vec<Sent> {
        let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
        self.chunk(delta, None)
    }

    fn said(&mut self, said: Said) -> Vec<Sent> {
        let mut delta = Delta::default();
        match said.part {
            Part::Content(text) => delta.content = Some(text),
            Part::Reasoning(text) => delta.reasoning_content = Some(text),
            Part::Call(name) => delta.tool_calls = Some([self.calls.head(name)]),
            Part::Arguments(text) => delta.tool_calls = Some([self.calls.arguments(text)]),
            // Says nothing that the next delta does not say.
            Part::CallEnd if said.tokens.is_empty() => return Vec::new(),
            Part::CallEnd => {}
        }
        let logprobs = self.with_logprobs.then(|| logprobs::for_chat(said.tokens));
        self.chunk(delta, logprobs)
    }

    fn end(&mut self, finish: Finish, usage: Usage) -> Vec<Sent> {
        let finish_reason = Some(shape::finish_reason(finish));
        let last = ChunkChoice { index: 0, delta: Delta::default(), logprobs: None, finish_reason };
        shape::closing(&self.head, last, self.include_usage, usage)
    }

    fn broke(&mut self, error: &ApiError) -> Vec<Sent> {
        shape::broken(error)
    }
}
