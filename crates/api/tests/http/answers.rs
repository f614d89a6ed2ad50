//! What comes back: whole answers and streams, stop strings, half characters, log-probabilities, usage.

use axum::http::StatusCode;
use base::{FinishReason, SamplingParams, TokenId};
use serde_json::{Value, json};

use crate::rig::{self, END, Rig, chat, completion, events};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn bytes(text: &str) -> Vec<TokenId> {
    text.bytes().map(|b| TokenId(u32::from(b))).collect()
}

#[tokio::test]
async fn a_chat_is_templated_and_answered_whole() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({"temperature": 0, "seed": 5})));
    let request = rig.submitted().await;
    let mut prompt = vec![TokenId(256)];
    prompt.extend(bytes("user\nhi"));
    prompt.extend([TokenId(257), TokenId(10), TokenId(256)]);
    prompt.extend(bytes("assistant\n"));
    assert_eq!(request.prompt, prompt);
    assert_eq!(request.max_tokens, rig::CONTEXT_LEN - prompt.len() as u32);
    assert_eq!(request.stop_tokens, [END]);
    assert_eq!(request.sampling, SamplingParams { temperature: 0.0, seed: 5, ..SamplingParams::default() });

    rig.say(request.id, b"Hello");
    rig.end(request.id, FinishReason::Stop);
    let response = response.await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = rig::json(response).await;
    let id = body["id"].take();
    assert!(id.as_str().unwrap().starts_with("chatcmpl-"), "{id}");
    let expected = json!({
        "id": null, "object": "chat.completion", "created": 1_700_000_000, "model": "bytes",
        "choices": [{
            "index": 0, "message": {"role": "assistant", "content": "Hello", "refusal": null},
            "logprobs": null, "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn a_message_cannot_write_control_tokens_but_a_prompt_can() {
    let mut rig = Rig::new();
    let text = "<|im_end|>";
    let _chat = rig.post(CHAT, &chat(json!({"messages": [{"role": "user", "content": text}]})));
    let prompt = rig.submitted().await.prompt;
    assert_eq!(prompt.iter().filter(|token| **token == END).count(), 1, "the template's own");
    assert!(prompt.windows(text.len()).any(|window| window == bytes(text)));
    let _completion = rig.post(COMPLETIONS, &completion(json!({ "prompt": text })));
    assert_eq!(rig.submitted().await.prompt, [END]);
}

#[tokio::test]
async fn a_completion_is_answered_whole() {
    let mut rig = Rig::new();
    let response = rig.post(COMPLETIONS, &completion(json!({"model": "org/bytes"})));
    let request = rig.submitted().await;
    assert_eq!((request.prompt, request.max_tokens), (bytes("hi"), 16));
    rig.say(request.id, b" there");
    rig.end(request.id, FinishReason::Length);
    let body = rig::json(response.await.unwrap()).await;
    assert_eq!((&body["object"], &body["model"]), (&json!("text_completion"), &json!("org/bytes")));
    let choice = json!({"text": " there", "index": 0, "logprobs": null, "finish_reason": "length"});
    assert_eq!(body["choices"], json!([choice]));
}

#[tokio::test]
async fn token_ids_are_taken_as_they_are() {
    let mut rig = Rig::new();
    let _response = rig.post(COMPLETIONS, &completion(json!({"prompt": [257, 1, 2], "max_tokens": 3})));
    let request = rig.submitted().await;
    assert_eq!((request.prompt, request.max_tokens), (vec![END, TokenId(1), TokenId(2)], 3));
}

#[tokio::test]
async fn seeds_differ_when_none_is_given() {
    let mut rig = Rig::new();
    let _both = [rig.post(CHAT, &chat(json!({}))), rig.post(CHAT, &chat(json!({})))];
    let (first, second) = (rig.submitted().await, rig.submitted().await);
    assert_ne!(first.sampling.seed, second.sampling.seed);
}

#[tokio::test]
async fn a_stream_has_role_text_finish_usage_and_done() {
    let mut rig = Rig::new();
    let body = chat(json!({"stream": true, "stream_options": {"include_usage": true}}));
    let response = rig.post(CHAT, &body);
    let request = rig.submitted().await;
    rig.say(request.id, b"ab");
    rig.end(request.id, FinishReason::Length);
    let events = events(response.await.unwrap()).await;
    let choice = |delta: Value, reason: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason}]);
    let choices: Vec<_> = events[..4].iter().map(|e| e["choices"].clone()).collect();
    let expected = [
        choice(json!({"role": "assistant", "content": ""}), Value::Null),
        choice(json!({"content": "a"}), Value::Null),
        choice(json!({"content": "b"}), Value::Null),
        choice(json!({}), json!("length")),
    ];
    assert_eq!(choices, expected);
    for event in &events[..4] {
        assert_eq!((&event["id"], &event["object"]), (&events[0]["id"], &json!("chat.completion.chunk")));
        assert_eq!(event.get("usage"), Some(&Value::Null), "null until the end");
    }
    assert_eq!((&events[4]["choices"], &events[4]["usage"]["total_tokens"]), (&json!([]), &json!(18)));
    assert_eq!(events[5..], ["[DONE]"]);
}

#[tokio::test]
async fn a_stream_without_usage_never_mentions_it() {
    let mut rig = Rig::new();
    let response = rig.post(COMPLETIONS, &completion(json!({"stream": true})));
    let request = rig.submitted().await;
    rig.say(request.id, b"a");
    rig.end(request.id, FinishReason::Stop);
    let events = events(response.await.unwrap()).await;
    assert_eq!(events.len(), 3);
    assert!(events[..2].iter().all(|e| e.get("usage").is_none()));
    assert_eq!(events[0]["choices"][0]["text"], "a");
    assert_eq!(events[1]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn characters_are_never_cut() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({"stream": true})));
    let request = rig.submitted().await;
    rig.say(request.id, "a€😀".as_bytes());
    rig.say(request.id, &"é".as_bytes()[..1]);
    rig.end(request.id, FinishReason::Length);
    let events = events(response.await.unwrap()).await;
    let text = |e: &Value| e["choices"][0]["delta"]["content"].as_str().map(str::to_owned);
    let texts: Vec<_> = events.iter().filter_map(text).collect();
    assert_eq!(texts, ["", "a", "€", "😀", "\u{FFFD}"]);
}

#[tokio::test]
async fn a_stop_string_over_several_tokens_cuts_and_cancels() {
    for stream in [false, true] {
        let mut rig = Rig::new();
        let response = rig.post(CHAT, &chat(json!({"stream": stream, "stop": ["never", "\nEND"]})));
        let request = rig.submitted().await;
        rig.say(request.id, b"a\nEb\nEND and more");
        let response = response.await.unwrap();
        let (text, reason) = if stream {
            let events = events(response).await;
            let text = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
            (text, events[events.len() - 2]["choices"][0]["finish_reason"].clone())
        } else {
            let body = rig::json(response).await;
            assert_eq!(body["usage"]["completion_tokens"], 8, "what the engine was asked for");
            let choice = &body["choices"][0];
            (choice["message"]["content"].as_str().unwrap().to_owned(), choice["finish_reason"].clone())
        };
        assert_eq!((text.as_str(), reason), ("a\nEb", json!("stop")));
        assert_eq!(rig.cancelled().await, request.id);
    }
}

#[tokio::test]
async fn what_a_stop_string_held_back_comes_out_at_the_end() {
    let mut rig = Rig::new();
    let response = rig.post(COMPLETIONS, &completion(json!({"stop": "xyz", "logprobs": 0})));
    let request = rig.submitted().await;
    rig.say(request.id, b"axy");
    rig.end(request.id, FinishReason::Stop);
    let body = rig::json(response.await.unwrap()).await;
    assert_eq!(body["choices"][0]["text"], "axy");
    assert_eq!(body["choices"][0]["logprobs"]["tokens"], json!(["a", "x", "y"]));
}

#[tokio::test]
async fn a_stop_string_may_be_complete_only_at_the_very_end() {
    let mut rig = Rig::new();
    let response = rig.post(COMPLETIONS, &completion(json!({"stop": "\u{FFFD}", "logprobs": 0})));
    let request = rig.submitted().await;
    rig.say(request.id, b"a\xc3");
    rig.end(request.id, FinishReason::Length);
    let body = rig::json(response.await.unwrap()).await;
    assert_eq!(body["choices"][0]["text"], "a");
    assert_eq!(body["choices"][0]["logprobs"]["tokens"], json!(["a"]));
}

#[tokio::test]
async fn chat_logprobs_come_with_their_text_and_not_with_what_is_cut() {
    let body = |stream| chat(json!({"logprobs": true, "top_logprobs": 2, "stop": "b!", "stream": stream}));
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &body(true));
    let request = rig.submitted().await;
    assert_eq!(request.sampling.n_logprobs, Some(2));
    rig.say(request.id, "é.b!".as_bytes());
    let events = events(response.await.unwrap()).await;
    let tokens = |e: &Value| -> Vec<String> {
        let content = e["choices"][0]["logprobs"]["content"].as_array();
        let content = content.map(Vec::as_slice).unwrap_or_default();
        content.iter().map(|t| t["token"].as_str().unwrap().to_owned()).collect()
    };
    let seen: Vec<_> =
        events[1..3].iter().map(|e| (e["choices"][0]["delta"]["content"].clone(), tokens(e))).collect();
    let expected = [
        (json!("é"), vec!["bytes:\\xc3".to_owned(), "bytes:\\xa9".to_owned()]),
        (json!("."), vec![".".to_owned()]),
    ];
    assert_eq!(seen, expected);

    let response = rig.post(CHAT, &body(false));
    assert_eq!(rig.cancelled().await, request.id);
    let request = rig.submitted().await;
    rig.say(request.id, "ab!".as_bytes());
    let body = rig::json(response.await.unwrap()).await;
    let rival = json!({"token": "?", "logprob": -1.5, "bytes": [63]});
    let chosen = json!({"token": "a", "logprob": -0.5, "bytes": [97]});
    let mut token = chosen.clone();
    token["top_logprobs"] = json!([chosen, rival]);
    assert_eq!(body["choices"][0]["logprobs"], json!({"content": [token], "refusal": null}));
}

#[tokio::test]
async fn completion_logprobs_are_lists_with_offsets_in_characters() {
    for stream in [false, true] {
        let mut rig = Rig::new();
        let response = rig.post(COMPLETIONS, &completion(json!({"logprobs": 2, "stream": stream})));
        let request = rig.submitted().await;
        rig.say(request.id, "éa".as_bytes());
        rig.end(request.id, FinishReason::Stop);
        let response = response.await.unwrap();
        let bodies = if stream { events(response).await } else { vec![rig::json(response).await] };
        let list = |key: &str| -> Vec<Value> {
            let lists = bodies.iter().filter_map(|b| b["choices"][0]["logprobs"][key].as_array());
            lists.flatten().cloned().collect()
        };
        assert_eq!(list("tokens"), ["bytes:\\xc3", "bytes:\\xa9", "a"]);
        assert_eq!(list("text_offset"), [0, 0, 1]);
        assert_eq!(list("token_logprobs"), [-0.5, -0.5, -0.5]);
        assert_eq!(list("top_logprobs")[2], json!({"a": -0.5, "?": -1.5}));
    }
}

#[tokio::test]
async fn requests_run_side_by_side() {
    let mut rig = Rig::new();
    let first = rig.post(CHAT, &chat(json!({})));
    let one = rig.submitted().await;
    let second = rig.post(CHAT, &chat(json!({})));
    let two = rig.submitted().await;
    rig.say(two.id, b"2");
    rig.say(one.id, b"1");
    rig.end(two.id, FinishReason::Stop);
    rig.end(one.id, FinishReason::Stop);
    let content = |body: Value| body["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert_eq!(content(rig::json(first.await.unwrap()).await), "1");
    assert_eq!(content(rig::json(second.await.unwrap()).await), "2");
}
