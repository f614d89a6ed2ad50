//! The endpoints that do not generate.

use axum::http::header;
use serde_json::json;

use crate::rig::{self, Rig, chat, get};

#[tokio::test]
async fn models_are_listed_and_found_under_every_name() {
    let rig = Rig::new();
    let model =
        |id: &str| json!({"id": id, "object": "model", "created": 1_700_000_000, "owned_by": "onefold"});
    let list = rig::json(rig.send(get("/v1/models")).await.unwrap()).await;
    assert_eq!(list, json!({"object": "list", "data": [model("bytes"), model("org/bytes")]}));
    for (path, id) in [("bytes", "bytes"), ("org/bytes", "org/bytes"), ("org%2Fbytes", "org/bytes")] {
        let found = rig::json(rig.send(get(&format!("/v1/models/{path}"))).await.unwrap()).await;
        assert_eq!(found, model(id));
    }
    let (status, _, code, _) = rig::error(rig.send(get("/v1/models/other")).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (404, "model_not_found"));
}

#[tokio::test]
async fn a_model_name_that_is_no_text_is_refused_in_the_same_shape() {
    let rig = Rig::new();
    let (status, ..) = rig::error(rig.send(get("/v1/models/%ff")).await.unwrap()).await;
    assert_eq!(status, 400);
}

#[tokio::test]
async fn health_is_ok() {
    let rig = Rig::new();
    let response = rig.send(get("/health")).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(rig::json(response).await["status"], "ok");
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let router = Rig::new().answer_all(b"four");
    let send = |request| tower::ServiceExt::oneshot(router.clone(), request);
    let stop = chat(json!({"max_tokens": 9})).to_string();
    let short = chat(json!({"max_tokens": 3})).to_string();
    for body in [stop.as_str(), short.as_str(), "{}"] {
        rig::text(send(rig::post("/v1/chat/completions", body.to_owned())).await.unwrap()).await;
    }
    send(get("/none")).await.unwrap();
    let response = send(get("/metrics")).await.unwrap();
    assert!(
        response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain; version=0.0.4")
    );
    let page = rig::text(response).await;
    for line in [
        "onefold_http_requests_total{endpoint=\"/v1/chat/completions\",status=\"200\"} 2",
        "onefold_http_requests_total{endpoint=\"/v1/chat/completions\",status=\"400\"} 1",
        "onefold_http_requests_total{endpoint=\"other\",status=\"404\"} 1",
        "onefold_answers_total{outcome=\"stop\"} 1",
        "onefold_answers_total{outcome=\"length\"} 1",
        "onefold_open_requests 0",
        "onefold_queue_limit 4",
        "onefold_generated_tokens_total 7",
        "onefold_ttft_seconds_count 2",
        "onefold_tpot_seconds_bucket{le=\"+Inf\"} 2",
        "onefold_running 3",
    ] {
        assert!(page.lines().any(|l| l == line), "{line} in\n{page}");
    }
}
