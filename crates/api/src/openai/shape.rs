//! What chat completions and completions have in common in their responses.

use axum::response::sse;
use base::Usage;
use serde::Serialize;

use crate::answer::Finish;
use crate::errors::ApiError;
use crate::stream::Sent;

/// What every response and every chunk of one answer repeats.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) object: &'static str,
    pub(super) created: u64,
    pub(super) model: String,
}

/// Token counts as OpenAI names them.
#[derive(Debug, Serialize)]
pub(super) struct UsageBody {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: PromptDetails,
}

#[derive(Debug, Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

impl From<Usage> for UsageBody {
    fn from(usage: Usage) -> UsageBody {
        UsageBody {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: PromptDetails { cached_tokens: usage.cached_tokens },
        }
    }
}

/// A chunk: the head, the choices, and, if the request asked for usage, a `usage` that is null until the end.
#[derive(Serialize)]
pub(super) struct Chunk<'a, C> {
    #[serde(flatten)]
    pub(super) head: &'a Head,
    pub(super) choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<Option<UsageBody>>,
}

pub(super) fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Calls => "tool_calls",
    }
}

pub(super) fn event(body: &impl Serialize) -> Sent {
    sse::Event::default().json_data(body)
}

/// The last events of a complete stream.
pub(super) fn closing<C: Serialize>(head: &Head, last: C, include_usage: bool, usage: Usage) -> Vec<Sent> {
    let mut events = vec![event(&Chunk { head, choices: vec![last], usage: include_usage.then_some(None) })];
    if include_usage {
        let usage = Some(Some(usage.into()));
        events.push(event(&Chunk::<C> { head, choices: Vec::new(), usage }));
    }
    events.push(Ok(sse::Event::default().data("[DONE]")));
    events
}

/// The event that ends a broken stream. It has no name, as OpenAI's clients look into the data.
pub(super) fn broken(error: &ApiError) -> Vec<Sent> {
    vec![event(&error.body())]
}
