//! `POST /v1/completions`: the endpoint and the shapes of its answers.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base::Usage;
use serde::Serialize;

use super::logprobs::{self, CompletionLogprobs};
use super::request::{self, Reading};
use super::shape::{self, Chunk, Head, UsageBody};
use text::Part;

use crate::answer::{Answer, Finish, Said};
use crate::ask::Delivery;
use crate::cut::ScoredToken;
use crate::errors::ApiError;
use crate::params::Params;
use crate::state::Server;
use crate::stream::{self, Dialect, Sent};

/// Continues a text, whole or as a stream.
pub(crate) async fn create(
    State(server): State<Arc<Server>>,
    mut params: Params,
) -> Result<Response, ApiError> {
    let model = super::models::served(&server, request::model(&mut params)?)?;
    let asked = request::completion(params, Reading::of(&server))?;
    let with_logprobs = asked.ask.sampling.n_logprobs.is_some();
    let answer = Answer::start(&server, asked.ask).await?;
    let created = (server.app.unix_time_s)();
    let head = Head { id: server.fresh_id("cmpl"), object: "text_completion", created, model };
    match asked.delivery {
        Delivery::Whole => {
            let whole = answer.whole().await?;
            let choice = choice(whole.content, &whole.tokens, with_logprobs, Some(whole.finish));
            let body = Completion { head, choices: [choice], usage: whole.usage.into() };
            Ok(Json(body).into_response())
        }
        Delivery::Stream { include_usage } => {
            Ok(stream::respond(answer, Chunks { head, include_usage, with_logprobs }))
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

/// The same in whole answers and in chunks.
#[derive(Serialize)]
struct Choice {
    text: String,
    index: u32,
    logprobs: Option<CompletionLogprobs>,
    finish_reason: Option<&'static str>,
}

fn choice(text: String, tokens: &[ScoredToken], with_logprobs: bool, finish: Option<Finish>) -> Choice {
    Choice {
        index: 0,
        logprobs: with_logprobs.then(|| logprobs::for_completion(tokens)),
        text,
        finish_reason: finish.map(shape::finish_reason),
    }
}

/// The events of one streamed answer.
struct Chunks {
    head: Head,
    include_usage: bool,
    with_logprobs: bool,
}

impl Dialect for Chunks {
    fn open(&mut self) -> Vec<Sent> {
        Vec::new()
    }

    fn said(&mut self, said: Said) -> Vec<Sent> {
        // A completion is content and nothing else.
        let Part::Content(text) = said.part else { return Vec::new() };
        let choices = vec![choice(text, &said.tokens, self.with_logprobs, None)];
        vec![shape::event(&Chunk { head: &self.head, choices, usage: self.include_usage.then_some(None) })]
    }

    fn end(&mut self, finish: Finish, usage: Usage) -> Vec<Sent> {
        let last = choice(String::new(), &[], false, Some(finish));
        shape::closing(&self.head, last, self.include_usage, usage)
    }

    fn broke(&mut self, error: &ApiError) -> Vec<Sent> {
        shape::broken(error)
    }
}
