//! What is refused, and whether the error names it. The single parameters are tested where they are read.

use axum::body::{Body, Bytes};
use axum::http::{Request, header};
use futures_util::stream;
use serde_json::json;

use crate::rig::{self, Rig, chat, completion, error, get, post};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

async fn refused(request: Request<Body>) -> (u16, Option<String>, String, String) {
    error(Rig::new().send(request).await.unwrap()).await
}

#[tokio::test]
async fn each_parameter_is_named() {
    for (path, body, param, code) in [
        (CHAT, chat(json!({"top_p": 1.5})), "top_p", "invalid_value"),
        (CHAT, chat(json!({"temperature": "hot"})), "temperature", "invalid_type"),
        (CHAT, chat(json!({"temperature": -0.1})), "temperature", "invalid_value"),
        (CHAT, chat(json!({"min_p": 2})), "min_p", "invalid_value"),
        (CHAT, chat(json!({"top_k": 1.5})), "top_k", "invalid_type"),
        (CHAT, chat(json!({"repetition_penalty": 0})), "repetition_penalty", "invalid_value"),
        (CHAT, chat(json!({"presence_penalty": 3})), "presence_penalty", "invalid_value"),
        (CHAT, chat(json!({"frequency_penalty": []})), "frequency_penalty", "invalid_type"),
        (CHAT, chat(json!({"logit_bias": {"x": 1}})), "logit_bias", "invalid_value"),
        (CHAT, chat(json!({"logit_bias": {"264": 1}})), "logit_bias", "invalid_value"),
        (CHAT, chat(json!({"seed": 1.5})), "seed", "invalid_type"),
        (CHAT, chat(json!({"stop": 5})), "stop", "invalid_type"),
        (CHAT, chat(json!({"stream": "yes"})), "stream", "invalid_type"),
        (CHAT, chat(json!({"stream_options": {}})), "stream_options", "invalid_value"),
        (CHAT, chat(json!({"max_tokens": 0})), "max_tokens", "invalid_value"),
        (CHAT, chat(json!({"n": 2})), "n", "unsupported_parameter"),
        (CHAT, chat(json!({"tools": [{}]})), "tools[0].type", "missing_required_parameter"),
        (CHAT, chat(json!({"tool_choice": "required"})), "tool_choice", "unsupported_parameter"),
        (
            CHAT,
            chat(json!({"response_format": {"type": "json_object"}})),
            "response_format",
            "unsupported_parameter",
        ),
        (CHAT, chat(json!({"colour": "red"})), "colour", "unknown_parameter"),
        (CHAT, chat(json!({"model": 1})), "model", "invalid_type"),
        (CHAT, json!({"messages": []}), "model", "missing_required_parameter"),
        (CHAT, json!({"model": "bytes"}), "messages", "missing_required_parameter"),
        (COMPLETIONS, json!({"model": "bytes"}), "prompt", "missing_required_parameter"),
        (COMPLETIONS, completion(json!({"prompt": ""})), "prompt", "invalid_value"),
        (COMPLETIONS, completion(json!({"logprobs": 21})), "logprobs", "invalid_value"),
        (COMPLETIONS, completion(json!({"echo": true})), "echo", "unsupported_parameter"),
        (COMPLETIONS, completion(json!({"messages": []})), "messages", "unknown_parameter"),
    ] {
        let (status, found, found_code, message) = refused(post(path, body.to_string())).await;
        assert_eq!((status, found.as_deref(), found_code.as_str()), (400, Some(param), code), "{message}");
        assert!(message.contains(param), "{message}");
    }
}

#[tokio::test]
async fn another_model_is_not_found_and_the_served_one_is_named() {
    let (status, param, code, message) = refused(post(CHAT, chat(json!({"model": "gpt"})).to_string())).await;
    assert_eq!((status, param.as_deref(), code.as_str()), (404, Some("model"), "model_not_found"));
    assert!(message.contains("`gpt`") && message.contains("`bytes`"), "{message}");
}

#[tokio::test]
async fn an_overflow_says_both_numbers() {
    let long = completion(json!({"prompt": "x".repeat(300)}));
    let (status, param, code, message) = refused(post(COMPLETIONS, long.to_string())).await;
    assert_eq!((status, param.as_deref(), code.as_str()), (400, Some("prompt"), "context_length_exceeded"));
    assert!(message.contains("200 tokens") && message.contains("300 in the prompt"), "{message}");
    let greedy = chat(json!({"max_tokens": 1000}));
    let (_, param, _, message) = refused(post(CHAT, greedy.to_string())).await;
    assert_eq!(param.as_deref(), Some("messages"));
    assert!(message.contains("1000 for the answer"), "{message}");
}

#[tokio::test]
async fn a_model_without_a_template_cannot_chat() {
    let rig = Rig::with(4, |state| state.template = None);
    let (status, _, _, message) = error(rig.post(CHAT, &chat(json!({}))).await.unwrap()).await;
    assert!(status == 400 && message.contains("/v1/completions"), "{message}");
}

#[tokio::test]
async fn bodies_that_are_no_json_object() {
    let (status, _, code, message) = refused(post(CHAT, "{\"model\": \"bytes\",\n \"messages\": [}")).await;
    assert_eq!((status, code.as_str()), (400, "invalid_json"));
    assert!(message.contains("line 2 column 15"), "{message}");
    assert_eq!(refused(post(CHAT, "")).await.2, "invalid_json");
    assert_eq!(refused(post(CHAT, vec![0xff, 0xfe])).await.2, "invalid_json");
    assert_eq!(refused(post(CHAT, "[".repeat(100_000))).await.2, "invalid_json");
    assert_eq!(refused(post(CHAT, "{\"seed\": 1e999}")).await.2, "invalid_json");
    assert_eq!(refused(post(CHAT, "[]")).await.2, "invalid_type");
}

#[tokio::test]
async fn the_content_type_must_be_json() {
    let body = chat(json!({})).to_string();
    for kind in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonp")]
    {
        let mut request = Request::post(CHAT);
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let (status, _, code, _) = refused(request.body(body.clone().into()).unwrap()).await;
        assert_eq!((status, code.as_str()), (415, "unsupported_media_type"), "{kind:?}");
    }
    let request = Request::post(CHAT).header(header::CONTENT_TYPE, "Application/JSON; charset=utf-8");
    assert_eq!(
        refused(request.body("[]".into()).unwrap()).await.0,
        400,
        "read, then refused for its content"
    );
}

#[tokio::test]
async fn large_bodies_are_refused_with_and_without_a_length() {
    let shrink = |state: &mut api::AppState| state.limits.body_bytes = 100;
    let chunks = || stream::iter((0..20).map(|_| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 10]))));
    for body in [Body::from(vec![b' '; 101]), Body::from_stream(chunks())] {
        let (status, _, code, message) =
            error(Rig::with(1, shrink).send(post(CHAT, body)).await.unwrap()).await;
        assert_eq!((status, code.as_str()), (413, "body_too_large"));
        assert!(message.contains("100 bytes"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_comes_is_given_up() {
    let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
    assert_eq!(refused(post(CHAT, never)).await.0, 408);
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_have_the_same_shape() {
    assert_eq!(refused(get("/v2/nothing")).await.0, 404);
    assert_eq!(refused(get("/")).await.0, 404);
    let response = Rig::new().send(get(CHAT)).await.unwrap();
    assert_eq!(response.headers()[header::ALLOW], "POST");
    assert_eq!(error(response).await.0, 405);
    assert_eq!(refused(post("/v1/models", "{}")).await.0, 405);
}

#[tokio::test]
async fn a_rebound_host_name_is_refused_before_anything_else() {
    for (host, status) in [("evil.example", 403), ("studio.local:80", 404), ("localhost", 404)] {
        let request = Request::get("/nothing").header(header::HOST, host).body(Body::empty()).unwrap();
        assert_eq!(refused(request).await.0, status, "{host}");
    }
    let request = Request::get("/v1/models").header(header::HOST, "evil.example:8080");
    let (_, _, code, message) = refused(request.body(Body::empty()).unwrap()).await;
    assert_eq!(code, "host_not_allowed");
    assert!(message.contains("evil.example:8080") && message.contains("hint:"), "{message}");
}

#[tokio::test]
async fn no_answer_invites_other_origins() {
    let rig = Rig::new();
    let request = Request::get("/v1/models").header(header::ORIGIN, "http://evil.example");
    let response = rig.send(request.body(Body::empty()).unwrap()).await.unwrap();
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    assert_eq!(rig::json(response).await["object"], "list");
}
