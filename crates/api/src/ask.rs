//! What every dialect translates into: a prompt, a bound on the answer, stop strings, sampling. Also the
//! parameters that the dialects have in common, with their ranges. It knows no endpoint and no response shape.

use base::{SamplingParams, TokenId};
use serde_json::{Map, Value};

use crate::params::{ParamError, Params, quote};

/// Stop strings in one request.
pub const MAX_STOPS: usize = 16;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;
/// Entries of one request's `logit_bias`.
pub const MAX_LOGIT_BIASES: usize = 1024;
/// Alternatives reported for each token.
pub const MAX_LOGPROBS: i64 = 20;

/// One request in no dialect: text (or tokens) in, a bounded answer out.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Prompt,
    pub(crate) max_tokens: MaxTokens,
    pub(crate) stops: Vec<String>,
    pub(crate) sampling: SamplingParams,
}

/// What the answer continues.
#[derive(Debug)]
pub(crate) enum Prompt {
    /// For the model's chat template.
    Chat(Conversation),
    /// Plain text.
    Text(String),
    /// Token ids, taken as they are.
    Tokens(Vec<TokenId>),
}

/// What a chat request is about.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// A JSON array as chat templates read it.
    pub(crate) messages: Value,
    /// Calls in it, which is the number of the next one.
    pub(crate) n_calls: usize,
    pub(crate) tools: Tools,
}

/// The tools that a request declares.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Tools {
    /// A JSON array for the template; `None` when no call is wanted.
    pub(crate) declared: Option<Value>,
    /// Whether an answer may have more than one call.
    pub(crate) parallel: bool,
}

impl Prompt {
    /// Calls of tools before the answer.
    pub(crate) fn n_calls(&self) -> usize {
        match self {
            Prompt::Chat(conversation) => conversation.n_calls,
            Prompt::Text(_) | Prompt::Tokens(_) => 0,
        }
    }

    /// The parameter it came from.
    pub(crate) fn param(&self) -> &'static str {
        match self {
            Prompt::Chat(_) => "messages",
            Prompt::Text(_) | Prompt::Tokens(_) => "prompt",
        }
    }
}

/// The longest answer that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MaxTokens {
    /// So many, or the request is refused.
    Asked(u32),
    /// So many, or what is left of the context.
    Default(u32),
    /// What is left of the context.
    Rest,
}

/// The sampling parameters, without logprobs. `seed` is used when the request brings none.
pub(crate) fn sampling(
    params: &mut Params,
    n_tokens: usize,
    seed: u64,
) -> Result<SamplingParams, ParamError> {
    let default = SamplingParams::default();
    Ok(SamplingParams {
        temperature: params.number("temperature", 0.0..=2.0)?.unwrap_or(default.temperature),
        top_k: top_k(params)?,
        top_p: params.number("top_p", 0.0..=1.0)?.unwrap_or(default.top_p),
        min_p: params.number("min_p", 0.0..=1.0)?.unwrap_or(default.min_p),
        repetition_penalty: params
            .number("repetition_penalty", 0.01..=10.0)?
            .unwrap_or(default.repetition_penalty),
        presence_penalty: params.number("presence_penalty", -2.0..=2.0)?.unwrap_or(default.presence_penalty),
        frequency_penalty: params
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(default.frequency_penalty),
        logit_bias: logit_bias(params, n_tokens)?,
        seed: take_seed(params)?.unwrap_or(seed),
        n_logprobs: None,
    })
}

/// 0 and -1 both mean "no limit", as elsewhere.
fn top_k(params: &mut Params) -> Result<Option<u32>, ParamError> {
    let k = params.integer("top_k", -1..=i64::from(u32::MAX))?;
    Ok(k.and_then(|k| u32::try_from(k).ok()).filter(|k| *k > 0))
}

fn take_seed(params: &mut Params) -> Result<Option<u64>, ParamError> {
    let Some(value) = params.take("seed") else { return Ok(None) };
    let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
    seed.map(Some).ok_or_else(|| ParamError::wrong_type(params.path_of("seed"), "a 64-bit integer", &value))
}

/// `{"token id": bias}` with biases from -100 to 100.
fn logit_bias(params: &mut Params, n_tokens: usize) -> Result<Vec<(TokenId, f32)>, ParamError> {
    const NAME: &str = "logit_bias";
    let fields: Map<String, Value> = match params.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(fields)) => fields,
        Some(other) => return Err(ParamError::wrong_type(NAME, "an object of token ids and biases", &other)),
    };
    if fields.len() > MAX_LOGIT_BIASES {
        let why = format!("may have {MAX_LOGIT_BIASES} entries at most, found {}", fields.len());
        return Err(ParamError::refused(NAME, why));
    }
    let entry = |(key, value): (String, Value)| {
        let id = key.parse::<u32>().ok().filter(|id| (*id as usize) < n_tokens).ok_or_else(|| {
            let found = quote(&Value::String(key.clone()));
            ParamError::refused(
                NAME,
                format!("must have token ids below {n_tokens} as its keys, found {found}"),
            )
        })?;
        let bias = value.as_f64().filter(|bias| bias.abs() <= 100.0).ok_or_else(|| {
            ParamError::wrong_value(format!("{NAME}.{key}"), "a number from -100 to 100", &value)
        })?;
        Ok((TokenId(id), bias as f32))
    };
    fields.into_iter().map(entry).collect()
}

/// The first of `names` that is given; two that disagree are refused.
pub(crate) fn max_tokens(params: &mut Params, names: &[&str]) -> Result<Option<u32>, ParamError> {
    let mut asked: Option<i64> = None;
    for name in names {
        let Some(n) = params.integer(name, 1..=i64::from(u32::MAX))? else { continue };
        if asked.is_some_and(|other| other != n) {
            return Err(ParamError::refused(*name, format!("differs from `{}`; send one of them", names[0])));
        }
        asked = Some(n);
    }
    Ok(asked.map(|n| n as u32))
}

/// `stop`: a string or an array of them.
pub(crate) fn stops(params: &mut Params) -> Result<Vec<String>, ParamError> {
    const EXPECTED: &str = "a string or an array of strings";
    let items = match params.take("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(text @ Value::String(_)) => vec![text],
        Some(other) => return Err(ParamError::wrong_type("stop", EXPECTED, &other)),
    };
    if items.len() > MAX_STOPS {
        return Err(ParamError::refused(
            "stop",
            format!("may have {MAX_STOPS} strings at most, found {}", items.len()),
        ));
    }
    let one = |item: Value| match item {
        Value::String(s) if s.is_empty() => Err(ParamError::refused("stop", "must not be an empty string")),
        Value::String(s) if s.len() > MAX_STOP_BYTES => Err(ParamError::refused(
            "stop",
            format!("may be {MAX_STOP_BYTES} bytes long at most, found {}", s.len()),
        )),
        Value::String(s) => Ok(s),
        other => Err(ParamError::wrong_type("stop", EXPECTED, &other)),
    };
    items.into_iter().map(one).collect()
}

/// How the answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// Event by event.
    Stream {
        /// With the token counts at the end.
        include_usage: bool,
    },
}

/// `stream` and `stream_options`.
pub(crate) fn delivery(params: &mut Params) -> Result<Delivery, ParamError> {
    let stream = params.boolean("stream")?.unwrap_or(false);
    let Some(mut options) = params.object("stream_options")? else {
        return Ok(if stream { Delivery::Stream { include_usage: false } } else { Delivery::Whole });
    };
    if !stream {
        return Err(ParamError::refused("stream_options", "is allowed only when `stream` is true"));
    }
    let include_usage = options.boolean("include_usage")?.unwrap_or(false);
    options.accept_inert(&[crate::params::Inert {
        name: "include_obfuscation",
        accepted: "false",
        is_no_op: |value| *value == false,
    }])?;
    options.finish()?;
    Ok(Delivery::Stream { include_usage })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn params(value: Value) -> Params {
        Params::nested(String::new(), value).unwrap()
    }

    fn sampled(value: Value) -> Result<SamplingParams, String> {
        let mut p = params(value);
        sampling(&mut p, 100, 7).map_err(|e| e.to_string()).inspect(|_| p.finish().unwrap())
    }

    #[test]
    fn nothing_given_is_plain_sampling_with_the_random_seed() {
        assert_eq!(sampled(json!({})).unwrap(), SamplingParams { seed: 7, ..SamplingParams::default() });
    }

    #[test]
    fn every_value_arrives() {
        let all = json!({
            "temperature": 0.5, "top_k": 40, "top_p": 0.25, "min_p": 0.125, "repetition_penalty": 1.5,
            "presence_penalty": -1, "frequency_penalty": 2, "logit_bias": {"99": -100, "3": 1.5}, "seed": -1,
        });
        let mut expected = SamplingParams {
            temperature: 0.5,
            top_k: Some(40),
            top_p: 0.25,
            min_p: 0.125,
            repetition_penalty: 1.5,
            presence_penalty: -1.0,
            frequency_penalty: 2.0,
            logit_bias: vec![(TokenId(3), 1.5), (TokenId(99), -100.0)],
            seed: u64::MAX,
            n_logprobs: None,
        };
        let mut found = sampled(all).unwrap();
        found.logit_bias.sort_by_key(|(id, _)| *id);
        expected.logit_bias.sort_by_key(|(id, _)| *id);
        assert_eq!(found, expected);
    }

    #[test]
    fn no_limit_has_three_spellings() {
        for k in [json!(0), json!(-1), json!(null)] {
            assert_eq!(sampled(json!({"top_k": k})).unwrap().top_k, None);
        }
    }

    #[test]
    fn biases_outside_the_vocabulary_or_the_range_are_refused() {
        for (bias, param) in [
            (json!({"100": 1}), "logit_bias"),
            (json!({"-1": 1}), "logit_bias"),
            (json!({"x": 1}), "logit_bias"),
            (json!({"5": 101}), "logit_bias.5"),
            (json!({"5": "1"}), "logit_bias.5"),
            (json!([1]), "logit_bias"),
        ] {
            let e = sampling(&mut params(json!({"logit_bias": bias})), 100, 0).unwrap_err();
            assert_eq!(e.param, param, "{bias}");
        }
    }

    #[test]
    fn stop_strings_have_limits() {
        let read = |v: Value| stops(&mut params(json!({"stop": v}))).map_err(|e| e.to_string());
        assert_eq!(read(json!("a")).unwrap(), ["a"]);
        assert_eq!(read(json!(["a", "b"])).unwrap(), ["a", "b"]);
        assert!(read(json!([])).unwrap().is_empty());
        assert!(read(json!("")).unwrap_err().contains("empty"));
        assert!(read(json!(vec!["x"; MAX_STOPS + 1])).unwrap_err().contains("17"));
        assert!(read(json!("x".repeat(MAX_STOP_BYTES + 1))).unwrap_err().contains("1025"));
        assert!(read(json!(["a", 1])).unwrap_err().contains("found 1"));
    }

    #[test]
    fn two_names_for_one_bound_must_agree() {
        let names = ["max_tokens", "max_completion_tokens"];
        let read = |v| max_tokens(&mut params(v), &names).map_err(|e| e.param);
        assert_eq!(read(json!({"max_tokens": 5})), Ok(Some(5)));
        assert_eq!(read(json!({"max_completion_tokens": 5, "max_tokens": 5})), Ok(Some(5)));
        assert_eq!(read(json!({"max_completion_tokens": 5, "max_tokens": 6})), Err(names[1].to_owned()));
        assert_eq!(read(json!({"max_tokens": 0})), Err(names[0].to_owned()));
    }

    #[test]
    fn stream_options_need_a_stream() {
        let read = |v| delivery(&mut params(v)).map_err(|e| e.param);
        assert_eq!(read(json!({})), Ok(Delivery::Whole));
        assert_eq!(read(json!({"stream": true})), Ok(Delivery::Stream { include_usage: false }));
        let usage = json!({"stream": true, "stream_options": {"include_usage": true}});
        assert_eq!(read(usage), Ok(Delivery::Stream { include_usage: true }));
        assert_eq!(read(json!({"stream_options": {}})), Err("stream_options".to_owned()));
        let other = json!({"stream": true, "stream_options": {"other": 1}});
        assert_eq!(read(other), Err("stream_options.other".to_owned()));
    }
}
