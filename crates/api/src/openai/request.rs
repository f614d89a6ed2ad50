//! OpenAI's requests, translated: the body of each endpoint becomes an `Ask` and what the response must look
//! like. Parameters that this server does not honour are listed here with the values that ask for nothing.

use base::TokenId;
use serde_json::{Value, json};

use text::ToolStyle;

use super::{messages, tools};
use crate::ask::{self, Ask, Conversation, Delivery, MAX_LOGPROBS, MaxTokens, Prompt};
use crate::params::{Inert, ParamError, Params};
use crate::state::Server;

/// Length of a completion when none is asked for, as OpenAI documents it.
const DEFAULT_COMPLETION_TOKENS: u32 = 16;

/// A request as the endpoints handle it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) delivery: Delivery,
}

/// What a request is read against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Size of the vocabulary.
    pub(crate) n_tokens: usize,
    /// The seed of requests that bring none.
    pub(crate) seed: u64,
    /// Whether conversations can declare tools.
    pub(crate) declares_tools: bool,
    /// How the model calls them.
    pub(crate) style: Option<ToolStyle>,
}

impl Reading {
    pub(crate) fn of(server: &Server) -> Reading {
        let template = server.app.template.as_ref();
        Reading {
            n_tokens: server.app.tokenizer.n_tokens(),
            seed: (server.app.random)(),
            declares_tools: template.is_some_and(|template| template.declares_tools()),
            style: template.and_then(|template| template.form().style()),
        }
    }
}

/// Not honoured by either endpoint.
const INERT: [Inert; 5] = [
    Inert { name: "n", accepted: "1", is_no_op: |v| *v == 1 },
    Inert { name: "user", accepted: "a string", is_no_op: Value::is_string },
    Inert { name: "safety_identifier", accepted: "a string", is_no_op: Value::is_string },
    Inert { name: "prompt_cache_key", accepted: "a string", is_no_op: Value::is_string },
    Inert {
        name: "service_tier",
        accepted: "\"auto\" or \"default\"",
        is_no_op: |v| *v == "auto" || *v == "default",
    },
];

/// Not honoured by chat completions.
const INERT_IN_CHAT: [Inert; 13] = [
    Inert { name: "store", accepted: "false", is_no_op: |v| *v == false },
    Inert { name: "metadata", accepted: "an object", is_no_op: Value::is_object },
    Inert { name: "response_format", accepted: "{\"type\": \"text\"}", is_no_op: is_text_format },
    Inert { name: "functions", accepted: "an empty array", is_no_op: |v| *v == json!([]) },
    Inert {
        name: "function_call",
        accepted: "\"none\" or \"auto\"",
        is_no_op: |v| *v == "none" || *v == "auto",
    },
    Inert { name: "modalities", accepted: "[\"text\"]", is_no_op: |v| *v == json!(["text"]) },
    Inert { name: "verbosity", accepted: "\"medium\"", is_no_op: |v| *v == "medium" },
    Inert { name: "reasoning_effort", accepted: "null", is_no_op: |_| false },
    Inert { name: "prediction", accepted: "null", is_no_op: |_| false },
    Inert { name: "audio", accepted: "null", is_no_op: |_| false },
    Inert { name: "web_search_options", accepted: "null", is_no_op: |_| false },
    Inert { name: "prompt_cache_retention", accepted: "null", is_no_op: |_| false },
    Inert { name: "moderation", accepted: "null", is_no_op: |_| false },
];

/// Not honoured by completions.
const INERT_IN_COMPLETIONS: [Inert; 3] = [
    Inert { name: "best_of", accepted: "1", is_no_op: |v| *v == 1 },
    Inert { name: "echo", accepted: "false", is_no_op: |v| *v == false },
    Inert { name: "suffix", accepted: "null", is_no_op: |_| false },
];

fn is_text_format(value: &Value) -> bool {
    *value == json!({ "type": "text" })
}

/// Takes `model`, which must be there.
pub(crate) fn model(params: &mut Params) -> Result<String, ParamError> {
    let missing = params.missing("model", "the name of the served model, see /v1/models");
    params.string("model")?.ok_or(missing)
}

/// Takes the rest of a chat request.
pub(crate) fn chat(mut params: Params, reading: Reading) -> Result<Asked, ParamError> {
    let messages = messages::take(&mut params, reading.style)?;
    let prompt = Prompt::Chat(Conversation {
        messages: messages.list,
        n_calls: messages.n_calls,
        tools: tools::take(&mut params, reading)?,
    });
    let n_logprobs = chat_logprobs(&mut params)?;
    let max_tokens = ask::max_tokens(&mut params, &["max_completion_tokens", "max_tokens"])?;
    params.accept_inert(&INERT_IN_CHAT)?;
    rest(params, reading, prompt, max_tokens.map_or(MaxTokens::Rest, MaxTokens::Asked), n_logprobs)
}

/// Takes the rest of a completion request.
pub(crate) fn completion(mut params: Params, reading: Reading) -> Result<Asked, ParamError> {
    let prompt = prompt(&mut params, reading.n_tokens)?;
    let n_logprobs = params.integer("logprobs", 0..=MAX_LOGPROBS)?.map(|n| n as u32);
    let max_tokens = ask::max_tokens(&mut params, &["max_tokens"])?;
    params.accept_inert(&INERT_IN_COMPLETIONS)?;
    let max_tokens = max_tokens.map_or(MaxTokens::Default(DEFAULT_COMPLETION_TOKENS), MaxTokens::Asked);
    rest(params, reading, prompt, max_tokens, n_logprobs)
}

fn rest(
    mut params: Params,
    reading: Reading,
    prompt: Prompt,
    max_tokens: MaxTokens,
    n_logprobs: Option<u32>,
) -> Result<Asked, ParamError> {
    let stops = ask::stops(&mut params)?;
    let delivery = ask::delivery(&mut params)?;
    let mut sampling = ask::sampling(&mut params, reading.n_tokens, reading.seed)?;
    sampling.n_logprobs = n_logprobs;
    params.accept_inert(&INERT)?;
    params.finish()?;
    Ok(Asked { ask: Ask { prompt, max_tokens, stops, sampling }, delivery })
}

/// `logprobs: true` with `top_logprobs` alternatives.
fn chat_logprobs(params: &mut Params) -> Result<Option<u32>, ParamError> {
    let wanted = params.boolean("logprobs")?.unwrap_or(false);
    let top = params.integer("top_logprobs", 0..=MAX_LOGPROBS)?;
    if !wanted && top.is_some_and(|n| n > 0) {
        return Err(ParamError::refused("top_logprobs", "is allowed only when `logprobs` is true"));
    }
    Ok(wanted.then(|| top.unwrap_or(0) as u32))
}

/// A string, token ids, or an array with one of either.
fn prompt(params: &mut Params, n_tokens: usize) -> Result<Prompt, ParamError> {
    const EXPECTED: &str = "a string or an array of token ids";
    let missing = params.missing("prompt", EXPECTED);
    let one = match params.take("prompt").ok_or(missing)? {
        Value::Array(mut items) if items.first().is_some_and(|v| v.is_string() || v.is_array()) => {
            if items.len() > 1 {
                let why = format!(
                    "must be one prompt, found {}\nhint: send one request for each prompt",
                    items.len()
                );
                return Err(ParamError::refused("prompt", why));
            }
            items.swap_remove(0)
        }
        other => other,
    };
    match one {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(ids) if ids.is_empty() => {
            Err(ParamError::refused("prompt", "must hold at least one token"))
        }
        Value::Array(ids) => {
            ids.iter().map(|id| token(id, n_tokens)).collect::<Result<_, _>>().map(Prompt::Tokens)
        }
        other => Err(ParamError::wrong_type("prompt", EXPECTED, &other)),
    }
}

fn token(id: &Value, n_tokens: usize) -> Result<TokenId, ParamError> {
    let expected = || format!("token ids from 0 to {}", n_tokens.saturating_sub(1));
    let number = id.as_u64().ok_or_else(|| ParamError::wrong_type("prompt", &expected(), id))?;
    u32::try_from(number)
        .ok()
        .filter(|n| (*n as usize) < n_tokens)
        .map(TokenId)
        .ok_or_else(|| ParamError::wrong_value("prompt", &expected(), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: Reading = Reading { n_tokens: 100, seed: 1, declares_tools: false, style: None };

    fn chat_with(extra: Value) -> Result<Asked, (String, &'static str)> {
        read(chat, json!({"messages": [{"role": "user", "content": "hi"}]}), extra)
    }

    fn completion_with(extra: Value) -> Result<Asked, (String, &'static str)> {
        read(completion, json!({"prompt": "hi"}), extra)
    }

    fn read(
        by: fn(Params, Reading) -> Result<Asked, ParamError>,
        mut body: Value,
        extra: Value,
    ) -> Result<Asked, (String, &'static str)> {
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let params = Params::nested(String::new(), body).unwrap();
        by(params, READING).map_err(|e| (e.param.clone(), e.code()))
    }

    #[test]
    fn what_asks_for_nothing_is_accepted() {
        let quiet = json!({
            "n": 1, "user": "u", "service_tier": "auto", "store": false, "metadata": {"a": "b"}, "tools": [],
            "response_format": {"type": "text"}, "tool_choice": "none", "parallel_tool_calls": true,
            "functions": null, "logprobs": false, "top_logprobs": 0, "modalities": ["text"], "audio": null,
        });
        chat_with(quiet).unwrap();
        let quiet =
            json!({"n": 1, "best_of": 1, "echo": false, "suffix": null, "user": "u", "logprobs": null});
        completion_with(quiet).unwrap();
    }

    #[test]
    fn what_is_not_honoured_is_refused_by_name() {
        for (extra, code) in [
            (json!({"n": 2}), "unsupported_parameter"),
            (json!({"tool_choice": "required"}), "unsupported_parameter"),
            (json!({"response_format": {"type": "json_object"}}), "unsupported_parameter"),
            (json!({"response_format": {"type": "text", "x": 1}}), "unsupported_parameter"),
            (json!({"store": true}), "unsupported_parameter"),
            (json!({"reasoning_effort": "low"}), "unsupported_parameter"),
            (json!({"user": 5}), "unsupported_parameter"),
            (json!({"temprature": 1}), "unknown_parameter"),
            (json!({"best_of": 1}), "unknown_parameter"),
            (json!({"prompt": "hi"}), "unknown_parameter"),
            (json!({"logprobs": 5}), "invalid_type"),
            (json!({"top_logprobs": 5}), "invalid_value"),
            (json!({"logprobs": true, "top_logprobs": 21}), "invalid_value"),
        ] {
            let name = extra.as_object().unwrap().keys().next_back().unwrap().clone();
            assert_eq!(chat_with(extra).unwrap_err(), (name, code));
        }
        for (extra, code) in [
            (json!({"best_of": 2}), "unsupported_parameter"),
            (json!({"echo": true}), "unsupported_parameter"),
            (json!({"suffix": "x"}), "unsupported_parameter"),
            (json!({"logprobs": true}), "invalid_type"),
            (json!({"max_completion_tokens": 1}), "unknown_parameter"),
        ] {
            let name = extra.as_object().unwrap().keys().next().unwrap().clone();
            assert_eq!(completion_with(extra).unwrap_err(), (name, code));
        }
    }

    #[test]
    fn a_prompt_has_four_shapes_and_no_more() {
        let shape =
            |prompt: Value| completion_with(json!({ "prompt": prompt })).map(|asked| asked.ask.prompt);
        for prompt in [json!("a"), json!(["a"])] {
            assert!(matches!(shape(prompt), Ok(Prompt::Text(text)) if text == "a"));
        }
        for prompt in [json!([1, 2]), json!([[1, 2]])] {
            assert!(matches!(shape(prompt), Ok(Prompt::Tokens(ids)) if ids == [TokenId(1), TokenId(2)]));
        }
        let odd =
            [json!([]), json!([[]]), json!(["a", "b"]), json!([100]), json!([-1]), json!([1.5]), json!(5)];
        for prompt in odd.into_iter().chain([json!([1, "a"]), json!({}), json!([[[1]]])]) {
            assert_eq!(shape(prompt.clone()).unwrap_err().0, "prompt", "{prompt}");
        }
    }

    #[test]
    fn lengths_and_logprobs_arrive() {
        let asked = chat_with(json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 9})).unwrap();
        assert_eq!((asked.ask.max_tokens, asked.ask.sampling.n_logprobs), (MaxTokens::Asked(9), Some(3)));
        assert_eq!(chat_with(json!({})).unwrap().ask.max_tokens, MaxTokens::Rest);
        let asked = completion_with(json!({"logprobs": 0})).unwrap();
        assert_eq!((asked.ask.max_tokens, asked.ask.sampling.n_logprobs), (MaxTokens::Default(16), Some(0)));
    }
}
