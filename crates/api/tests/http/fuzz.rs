//! Random bodies: whatever arrives, the answer is a result or a client's error in the one shape.

use std::cell::Cell;

use axum::Router;
use axum::http::StatusCode;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tower::ServiceExt;

use crate::rig::{self, Rig, chat, completion};

const NAMES: [&str; 40] = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stream",
    "stream_options",
    "logprobs",
    "top_logprobs",
    "n",
    "best_of",
    "echo",
    "suffix",
    "user",
    "metadata",
    "store",
    "tools",
    "tool_choice",
    "response_format",
    "functions",
    "role",
    "content",
    "type",
    "text",
    "name",
    "include_usage",
    "bytes",
    "user",
    "0",
    "257",
];

fn name() -> impl Strategy<Value = String> {
    prop_oneof![9 => prop::sample::select(&NAMES[..]).prop_map(str::to_owned), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..300).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2.0f64..2.0).prop_map(Value::from),
        name().prop_map(Value::from),
        prop::sample::select(&["system", "user", "assistant", "text", "bytes", "\0", "<|im_end|>"][..])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..5)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

/// A field with a value that is mostly in order.
fn honoured() -> impl Strategy<Value = (String, Value)> {
    let number = |name: &'static str, max: f64| (Just(name), (0.0..max).prop_map(Value::from).boxed());
    let integer = |name: &'static str| (Just(name), (0i64..60).prop_map(Value::from).boxed());
    let flag = |name: &'static str| (Just(name), any::<bool>().prop_map(Value::from).boxed());
    let text = "[né x€<|]{1,5}";
    prop_oneof![
        number("temperature", 2.0),
        number("top_p", 1.0),
        number("min_p", 1.0),
        number("frequency_penalty", 2.0),
        integer("top_k"),
        integer("max_tokens"),
        integer("logprobs"),
        integer("top_logprobs"),
        flag("stream"),
        flag("logprobs"),
        (Just("seed"), any::<i64>().prop_map(Value::from).boxed()),
        (Just("prompt"), text.prop_map(Value::from).boxed()),
        (Just("messages"), text.prop_map(|t| json!([{"role": "user", "content": t}])).boxed()),
        (Just("stop"), prop::collection::vec(text, 0..4).prop_map(Value::from).boxed()),
        (Just("logit_bias"), (0u32..300).prop_map(|id| json!({ id.to_string(): 5 })).boxed()),
    ]
    .prop_map(|(name, value)| (name.to_owned(), value))
}

/// A body that would be answered, with some fields replaced, so that the readers behind the first one are reached.
fn nearly_right() -> impl Strategy<Value = Value> {
    let fields = prop::collection::vec(prop_oneof![9 => honoured(), 1 => (name(), value())], 0..4);
    (any::<bool>(), fields).prop_map(|(is_chat, fields)| {
        let fields = Value::Object(Map::from_iter(fields));
        if is_chat { chat(fields) } else { completion(fields) }
    })
}

/// Asks both endpoints; how many answered.
fn check(router: &Router, runtime: &tokio::runtime::Runtime, body: &[u8]) -> usize {
    let mut n_answered = 0;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        runtime.block_on(async {
            let response = router.clone().oneshot(rig::post(path, body.to_vec())).await.unwrap();
            if response.status() == StatusCode::OK {
                n_answered += 1;
                let text = rig::text(response).await;
                assert!(!text.contains("\"error\""), "{text}");
            } else {
                let (status, _, _, message) = rig::error(response).await;
                assert!((400..500).contains(&status), "{status}: {message}");
            }
        });
    }
    n_answered
}

/// One router for all cases of a test.
fn with_router(run: impl FnOnce(&Router, &tokio::runtime::Runtime)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let router = runtime.block_on(async { Rig::new().answer_all("né x€".as_bytes()) });
    run(&router, &runtime);
}

fn runner() -> proptest::test_runner::TestRunner {
    proptest::test_runner::TestRunner::new(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

#[test]
fn any_json_is_answered_or_refused() {
    with_router(|router, runtime| {
        let n_answered = Cell::new(0);
        let bodies = prop_oneof![1 => value(), 3 => nearly_right()];
        let case = |body: Value| {
            n_answered.set(n_answered.get() + check(router, runtime, body.to_string().as_bytes()));
            Ok(())
        };
        runner().run(&bodies, case).unwrap();
        assert!(n_answered.get() > 20, "only {} bodies came through", n_answered.get());
    });
}

#[test]
fn any_bytes_are_refused() {
    with_router(|router, runtime| {
        let case = |body: Vec<u8>| {
            check(router, runtime, &body);
            Ok(())
        };
        runner().run(&prop::collection::vec(any::<u8>(), 0..64), case).unwrap();
    });
}

#[test]
fn the_unchanged_bodies_are_answered() {
    with_router(|router, runtime| {
        for (path, body) in
            [("/v1/chat/completions", chat(json!({}))), ("/v1/completions", completion(json!({})))]
        {
            let request = rig::post(path, body.to_string());
            let response = runtime.block_on(router.clone().oneshot(request)).unwrap();
            assert_eq!(response.status(), StatusCode::OK);
        }
    });
}
