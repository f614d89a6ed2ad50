//! Clients that go away, engines that break, queues that are full.

use axum::body::BodyDataStream;
use axum::http::header;
use base::{FinishReason, Output};
use engine::Command;
use futures_util::StreamExt;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{self, Rig, chat, completion, error, events, get};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn dropping_a_stream_cancels_its_request() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({"stream": true})));
    let request = rig.submitted().await;
    let mut body: BodyDataStream = response.await.unwrap().into_body().into_data_stream();
    rig.say(request.id, b"a");
    for expected in ["\"role\"", "\"a\""] {
        let frame = body.next().await.unwrap().unwrap();
        assert!(std::str::from_utf8(&frame).unwrap().contains(expected));
    }
    drop(body);
    assert_eq!(rig.cancelled().await, request.id);
    rig.end(request.id, FinishReason::Cancelled);
    let page = rig::text(rig.send(get("/metrics")).await.unwrap()).await;
    assert!(page.contains("onefold_open_requests 0\n"), "{page}");
    assert!(page.contains("onefold_answers_total{outcome=\"cancelled\"} 1\n"), "{page}");
}

#[tokio::test]
async fn giving_up_on_a_whole_answer_cancels_it_too() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({})));
    let request = rig.submitted().await;
    response.abort();
    assert_eq!(rig.cancelled().await, request.id);
}

#[tokio::test]
async fn a_closed_connection_cancels_either_kind() {
    for stream in [false, true] {
        let (state, _client, mut commands) = Rig::state(1);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(api::serve(listener, state));
        let body = chat(json!({ "stream": stream })).to_string();
        let mut connection = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        connection.write_all((head + &body).as_bytes()).await.unwrap();
        assert!(matches!(rig::within(commands.next()).await, Some(Command::Submit(_))));
        drop(connection);
        assert!(matches!(rig::within(commands.next()).await, Some(Command::Cancel(_))), "stream: {stream}");
        serving.abort();
    }
}

#[tokio::test]
async fn a_finished_answer_is_not_cancelled() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({})));
    let request = rig.submitted().await;
    rig.end(request.id, FinishReason::Stop);
    response.await.unwrap();
    assert_eq!(rig.commands.try_next(), None);
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let mut rig = Rig::with(1, |_| {});
    let _open = rig.post(CHAT, &chat(json!({})));
    rig.submitted().await;
    let response = rig.post(CHAT, &chat(json!({"stream": true}))).await.unwrap();
    assert_eq!(response.headers()[header::RETRY_AFTER], api::RETRY_AFTER_S.to_string());
    let (status, _, code, message) = error(response).await;
    assert_eq!((status, code.as_str()), (429, "queue_full"));
    assert!(message.contains("1 request"), "{message}");
}

#[tokio::test]
async fn a_lost_engine_says_why() {
    let rig = Rig::new();
    rig.client.fail_all("rank 1 has gone");
    let (status, _, code, message) = error(rig.post(CHAT, &chat(json!({}))).await.unwrap()).await;
    assert_eq!((status, code.as_str()), (503, "replica_down"));
    assert!(message.contains("rank 1 has gone"), "{message}");
}

#[tokio::test]
async fn a_replica_that_reports_itself_down_is_not_asked() {
    let rig = Rig::with(4, |state| {
        state.status = Box::new(|| api::Status { down: Some("still loading".into()), gauges: vec![] });
    });
    let (status, _, _, message) = error(rig.post(CHAT, &chat(json!({}))).await.unwrap()).await;
    assert!(status == 503 && message.contains("still loading"), "{message}");
    let health = rig.send(get("/health")).await.unwrap();
    assert_eq!(health.status(), 503);
    assert_eq!(rig::json(health).await["why"], "still loading");
}

#[tokio::test]
async fn a_failure_in_the_middle_ends_the_stream_with_an_error() {
    let mut rig = Rig::new();
    let response = rig.post("/v1/completions", &completion(json!({"stream": true})));
    let request = rig.submitted().await;
    rig.say(request.id, b"a");
    rig.client.fail_all("rank 1 has gone");
    let events = events(response.await.unwrap()).await;
    assert_eq!(events.len(), 2, "no [DONE]: the answer is not complete");
    let message = events[1]["error"]["message"].as_str().unwrap();
    assert!(message.contains("rank 1 has gone"), "{message}");
    assert_eq!(events[1]["error"]["type"], "server_error");
}

#[tokio::test]
async fn a_failure_before_a_whole_answer_is_a_500() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({})));
    let id = rig.submitted().await.id;
    rig.client.deliver(vec![Output::Failed { id, message: "no blocks".into() }]);
    let (status, _, code, message) = error(response.await.unwrap()).await;
    assert_eq!((status, code.as_str()), (500, "answer_failed"));
    assert!(message.contains("no blocks"), "{message}");
}

#[tokio::test]
async fn an_answer_the_server_cancels_is_an_error_not_a_short_answer() {
    let mut rig = Rig::new();
    let response = rig.post(CHAT, &chat(json!({})));
    let request = rig.submitted().await;
    rig.end(request.id, FinishReason::Cancelled);
    assert_eq!(error(response.await.unwrap()).await.0, 500);
}
