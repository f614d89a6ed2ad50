//! Random bodies: whatever arrives, the answer is a result or a client's error in the one shape.

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

/// A body that would be answered, with some fields replaced, so that the readers behind the first one are reached.
fn nearly_right() -> impl Strategy<Value = Value> {
    let fields = prop::collection::vec((name(), value()), 0..4);
    (any::<bool>(), fields).prop_map(|(is_chat, fields)| {
        let fields = Value::Object(Map::from_iter(fields));
        if is_chat { chat(fields) } else { completion(fields) }
    })
}

fn check(router: &Router, runtime: &tokio::runtime::Runtime, body: &[u8]) {
    for path in ["/v1/chat/completions", "/v1/completions"] {
        runtime.block_on(async {
            let response = router.clone().oneshot(rig::post(path, body.to_vec())).await.unwrap();
            if response.status() == StatusCode::OK {
                let text = rig::text(response).await;
                assert!(!text.contains("\"error\""), "{text}");
            } else {
                let (status, _, _, message) = rig::error(response).await;
                assert!((400..500).contains(&status), "{status}: {message}");
            }
        });
    }
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
        let bodies = prop_oneof![value(), nearly_right()];
        let case = |body: Value| {
            check(router, runtime, body.to_string().as_bytes());
            Ok(())
        };
        runner().run(&bodies, case).unwrap();
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
