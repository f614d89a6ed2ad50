//! Tools from declaration to call: what the model reads, what the client gets of what it writes, whole and streamed.
//! The engine is scripted.

use axum::http::StatusCode;
use base::{FinishReason, TokenId};
use serde_json::{Value, json};
use text::ChatTemplate;

use crate::rig::{self, KIMI_MARKS, Rig, chat, error, events};

const CHAT: &str = "/v1/chat/completions";

const TEMPLATE: &str = "{%- if tools %}<|tools|>{{ tools | tojson }}{% endif %}\
    {%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.reasoning_content or '' }}{{ m.content or '' }}\
    {%- for call in m.tool_calls or [] %}<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>\
    {{ call.function.arguments }}<|tool_call_end|>{% endfor %}\
    {%- if m.role == 'tool' %}## Return of {{ m.tool_call_id }}{% endif %}<|im_end|>{% endfor %}\
    {#- <|tool_calls_section_begin|> </think> #}";

/// A server of a model that calls tools in Kimi's style and thinks.
fn kimi() -> Rig {
    Rig::with(4, |state| {
        state.template = Some(ChatTemplate::new(TEMPLATE, "", "").unwrap());
        state.context_len = 2000;
    })
}

fn tool(name: &str) -> Value {
    json!({"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
}

fn with_tools(extra: Value) -> Value {
    let mut body = chat(json!({"tools": [tool("weather"), tool("now")]}));
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// The tokens of an answer; control tokens where their names stand.
fn tokens(answer: &str) -> Vec<TokenId> {
    let (mut tokens, mut rest) = (Vec::new(), answer);
    while let Some(first) = rest.bytes().next() {
        match KIMI_MARKS.iter().position(|mark| rest.starts_with(mark)) {
            Some(i) => {
                tokens.push(TokenId(258 + i as u32));
                rest = &rest[KIMI_MARKS[i].len()..];
            }
            None => {
                tokens.push(TokenId(u32::from(first)));
                rest = rest.get(1..).unwrap();
            }
        }
    }
    tokens
}

/// The text of a prompt, control tokens by name.
fn text(prompt: &[TokenId]) -> String {
    let piece = |token: &TokenId| match token.0 {
        byte @ 0..=255 => char::from(byte as u8).to_string(),
        256 => "<|im_start|>".to_owned(),
        257 => "<|im_end|>".to_owned(),
        mark => KIMI_MARKS[mark as usize - 258].to_owned(),
    };
    prompt.iter().map(piece).collect()
}

const TWO_CALLS: &str = "<think>hm</think>I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:7\
    <|tool_call_argument_begin|>{\"place\": \"x\"}<|tool_call_end|><|tool_call_begin|>functions.now:8\
    <|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>";

async fn answered(body: Value, answer: &str) -> Value {
    let mut rig = kimi();
    let response = rig.post(CHAT, &body);
    let request = rig.submitted().await;
    rig.say_tokens(request.id, &tokens(answer));
    rig.end(request.id, FinishReason::Stop);
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    rig::json(response).await
}

#[tokio::test]
async fn calls_thinking_and_content_come_apart() {
    let body = answered(with_tools(json!({})), TWO_CALLS).await;
    let call = |id: &str, name: &str, arguments: &str| json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
    let expected = json!({
        "index": 0, "logprobs": null, "finish_reason": "tool_calls",
        "message": {
            "role": "assistant", "content": "I look.", "reasoning_content": "hm", "refusal": null, "tool_calls": [
                call("functions.weather:0", "weather", "{\"place\": \"x\"}"), call("functions.now:1", "now", "{}"),
            ],
        },
    });
    assert_eq!(body["choices"][0], expected);
    let alone = answered(with_tools(json!({})), &TWO_CALLS["<think>hm</think>I look.".len()..]).await;
    assert_eq!(alone["choices"][0]["message"]["content"], Value::Null);
}

#[tokio::test]
async fn a_stream_has_heads_arguments_and_the_reason() {
    let mut rig = kimi();
    let response = rig.post(CHAT, &with_tools(json!({"stream": true})));
    let request = rig.submitted().await;
    rig.say_tokens(request.id, &tokens(TWO_CALLS));
    rig.end(request.id, FinishReason::Stop);
    let events = events(response.await.unwrap()).await;
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<(String, String, String)> = Vec::new();
    let mut n_deltas = 0;
    for event in &events[..events.len() - 1] {
        let delta = &event["choices"][0]["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        let Some(call) = delta["tool_calls"].get(0) else { continue };
        let index = call["index"].as_u64().unwrap() as usize;
        if index == calls.len() {
            assert_eq!(call["type"], "function");
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            calls.push((text(&call["id"]), text(&call["function"]["name"]), String::new()));
        } else {
            assert!(call.get("id").is_none() && call["function"].get("name").is_none(), "{call}");
        }
        calls[index].2 += call["function"]["arguments"].as_str().unwrap();
        n_deltas += 1;
    }
    assert_eq!((content.as_str(), reasoning.as_str()), ("I look.", "hm"));
    let expected =
        [("functions.weather:0", "weather", "{\"place\": \"x\"}"), ("functions.now:1", "now", "{}")];
    assert_eq!(calls, expected.map(|(id, name, arguments)| (id.into(), name.into(), arguments.into())));
    assert!(n_deltas > 10, "arguments come piece by piece, not in {n_deltas}");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn one_call_ends_the_answer_where_no_more_are_wanted() {
    for stream in [false, true] {
        let mut rig = kimi();
        let response = rig.post(CHAT, &with_tools(json!({"stream": stream, "parallel_tool_calls": false})));
        let request = rig.submitted().await;
        rig.say_tokens(request.id, &tokens(TWO_CALLS));
        let response = response.await.unwrap();
        let text = rig::text(response).await;
        assert!(text.contains("functions.weather:0") && !text.contains("functions.now"), "{text}");
        assert!(text.contains("\"finish_reason\":\"tool_calls\""), "{text}");
        assert_eq!(rig.cancelled().await, request.id);
    }
}

#[tokio::test]
async fn the_model_reads_tools_calls_and_results() {
    let mut rig = kimi();
    let messages = json!([
        {"role": "user", "content": "hi <|tool_call_begin|>"},
        {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "now", "arguments": "{\"z\": 1, \"a\": 2}"}},
        ]},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
    ]);
    let response = rig.post(CHAT, &with_tools(json!({ "messages": messages })));
    let request = rig.submitted().await;
    let found = text(&request.prompt);
    let declared = json!([tool("weather"), tool("now")]);
    assert!(found.starts_with("<|tools|>[{\"type\": \"function\""), "{found}");
    let declared_found: Value =
        serde_json::from_str(found["<|tools|>".len()..].split("<|im_start|>").next().unwrap()).unwrap();
    assert_eq!(declared_found, declared);
    let call =
        "<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{\"z\": 1, \"a\": 2}<|tool_call_end|>";
    assert!(found.contains(&format!("assistant\nhm{call}<|im_end|>")), "{found}");
    assert!(found.contains("tool\nnoon## Return of functions.now:0<|im_end|>"), "{found}");
    let begin =
        TokenId(258 + KIMI_MARKS.iter().position(|mark| *mark == "<|tool_call_begin|>").unwrap() as u32);
    assert_eq!(request.prompt.iter().filter(|token| **token == begin).count(), 1, "the template's own");

    // Ids go on counting where the conversation stands.
    rig.say_tokens(request.id, &tokens("<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}"));
    rig.end(request.id, FinishReason::Stop);
    let body = rig::json(response.await.unwrap()).await;
    assert_eq!(body["choices"][0]["message"]["tool_calls"][0]["id"], "functions.now:1");
}

#[tokio::test]
async fn without_tools_nothing_is_declared_and_nothing_is_a_call() {
    for extra in [json!({"tool_choice": "none"}), json!({"tools": []})] {
        let mut rig = kimi();
        let response = rig.post(CHAT, &with_tools(extra));
        let request = rig.submitted().await;
        assert!(!text(&request.prompt).contains("<|tools|>"));
        rig.say_tokens(request.id, &tokens("<think>a</think>b"));
        rig.end(request.id, FinishReason::Stop);
        let choice = &rig::json(response.await.unwrap()).await["choices"][0];
        assert_eq!((&choice["message"]["content"], &choice["finish_reason"]), (&json!("b"), &json!("stop")));
        assert_eq!(choice["message"]["reasoning_content"], "a");
        assert!(choice["message"].get("tool_calls").is_none());
    }
}

#[tokio::test]
async fn a_length_reached_inside_a_call_is_said() {
    let mut rig = kimi();
    let response = rig.post(CHAT, &with_tools(json!({"logprobs": true})));
    let request = rig.submitted().await;
    let answer = tokens("<|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{\"cut");
    rig.say_tokens(request.id, &answer);
    rig.end(request.id, FinishReason::Length);
    let choice = &rig::json(response.await.unwrap()).await["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"cut");
    assert_eq!(choice["logprobs"]["content"].as_array().unwrap().len(), answer.len(), "every token has one");
}

#[tokio::test]
async fn what_cannot_be_promised_is_refused() {
    for (extra, param, hint) in [
        (json!({"tool_choice": "required"}), "tool_choice", "auto"),
        (json!({"tool_choice": {"type": "function", "function": {"name": "now"}}}), "tool_choice", "auto"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f", "strict": true}}]}),
            "tools[0].function.strict",
            "schema",
        ),
    ] {
        let rig = kimi();
        let (status, found, _, message) = error(rig.post(CHAT, &with_tools(extra)).await.unwrap()).await;
        assert_eq!((status, found.as_deref()), (400, Some(param)), "{message}");
        assert!(message.contains(hint), "{message}");
    }
    let rig = Rig::new();
    let (status, param, _, message) = error(rig.post(CHAT, &with_tools(json!({}))).await.unwrap()).await;
    assert_eq!((status, param.as_deref()), (400, Some("tools")));
    assert!(message.contains("chat template"), "{message}");
}
