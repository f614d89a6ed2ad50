//! A router over a fake engine whose vocabulary is the 256 bytes and some marks, so that tests can spell any
//! answer, also one that is cut inside a character.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::{AppState, Gauge, Limits, Status};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use base::{FinishReason, Output, RequestId, Sampled, TokenId, Usage};
use engine::{Client, Command, Commands};
use serde_json::{Value, json};
use text::{ChatTemplate, Tokenizer};
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// Control tokens behind the two marks, for models that call tools.
pub(crate) const KIMI_MARKS: [&str; 6] = [
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
    "<|tools|>",
];

pub(crate) const MODEL: &str = "bytes";
pub(crate) const CONTEXT_LEN: u32 = 200;
/// The token that ends an answer.
pub(crate) const END: TokenId = TokenId(257);

const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                        {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

pub(crate) struct Rig {
    pub(crate) router: Router,
    pub(crate) client: Client,
    pub(crate) commands: Commands,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(4, |_| {})
    }

    pub(crate) fn with(max_open: u32, change: impl FnOnce(&mut AppState)) -> Rig {
        let (mut state, client, commands) = Rig::state(max_open);
        change(&mut state);
        Rig { router: api::router(state), client, commands }
    }

    /// What a router is made of.
    pub(crate) fn state(max_open: u32) -> (AppState, Client, Commands) {
        let (client, commands) = Client::new(max_open);
        let random = AtomicU64::new(1);
        let state = AppState {
            client: client.clone(),
            tokenizer: Arc::new(tokenizer()),
            template: Some(ChatTemplate::new(TEMPLATE, "", "<|im_end|>").unwrap()),
            model_id: MODEL.into(),
            aliases: vec!["org/bytes".into()],
            context_len: CONTEXT_LEN,
            limits: Limits::default(),
            allowed_hosts: vec!["studio.local".into()],
            random: Box::new(move || random.fetch_add(1, Ordering::Relaxed)),
            unix_time_s: Box::new(|| 1_700_000_000),
            status: Box::new(|| Status {
                down: None,
                gauges: vec![Gauge { name: "onefold_running".into(), help: "Sequences.".into(), value: 3.0 }],
            }),
        };
        (state, client, commands)
    }

    /// Sends a request in the background, as a connection would.
    pub(crate) fn send(&self, request: Request<Body>) -> JoinHandle<Response<Body>> {
        let router = self.router.clone();
        tokio::spawn(async move { within(router.oneshot(request)).await.unwrap() })
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> JoinHandle<Response<Body>> {
        self.send(post(path, body.to_string()))
    }

    /// Waits for a request to reach the engine.
    pub(crate) async fn submitted(&mut self) -> base::Request {
        match within(self.commands.next()).await {
            Some(Command::Submit(request)) => request,
            other => panic!("expected a request, found {other:?}"),
        }
    }

    pub(crate) async fn cancelled(&mut self) -> RequestId {
        match within(self.commands.next()).await {
            Some(Command::Cancel(id)) => id,
            other => panic!("expected a cancellation, found {other:?}"),
        }
    }

    /// Delivers each byte as one token.
    pub(crate) fn say(&self, id: RequestId, bytes: &[u8]) {
        let output = |byte: &u8| Output::Token { id, sampled: sampled(TokenId(u32::from(*byte))) };
        self.client.deliver(bytes.iter().map(output).collect());
    }

    pub(crate) fn say_tokens(&self, id: RequestId, tokens: &[TokenId]) {
        let output = |token: &TokenId| Output::Token { id, sampled: sampled(*token) };
        self.client.deliver(tokens.iter().map(output).collect());
    }

    pub(crate) fn end(&self, id: RequestId, reason: FinishReason) {
        let usage = Usage { prompt_tokens: 11, cached_tokens: 4, completion_tokens: 7 };
        self.client.deliver(vec![Output::Finished { id, reason, usage }]);
    }

    /// Answers every request with `text`, as far as its `max_tokens` goes.
    pub(crate) fn answer_all(self, text: &'static [u8]) -> Router {
        let Rig { router, client, mut commands } = self;
        tokio::spawn(async move {
            while let Some(command) = commands.next().await {
                match command {
                    Command::Submit(request) => client.deliver(answer(&request, text)),
                    Command::Cancel(id) => {
                        let (reason, usage) = (FinishReason::Cancelled, Usage::default());
                        client.deliver(vec![Output::Finished { id, reason, usage }]);
                    }
                }
            }
        });
        router
    }
}

/// What a test waits for has happened long before this, or never will.
pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap()
}

fn answer(request: &base::Request, text: &[u8]) -> Vec<Output> {
    let id = request.id;
    let n = text.len().min(request.max_tokens as usize);
    let reason = if n < text.len() { FinishReason::Length } else { FinishReason::Stop };
    let usage =
        Usage { prompt_tokens: request.prompt.len() as u32, cached_tokens: 0, completion_tokens: n as u32 };
    let tokens = text[..n].iter().map(|b| Output::Token { id, sampled: sampled(TokenId(u32::from(*b))) });
    tokens.chain([Output::Finished { id, reason, usage }]).collect()
}

/// A token with made-up log-probabilities: its own is -0.5, and `?` is the rival.
pub(crate) fn sampled(token: TokenId) -> Sampled {
    Sampled { token, logprob: Some(-0.5), top: vec![(token, -0.5), (TokenId(u32::from(b'?')), -1.5)] }
}

pub(crate) fn post(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header(header::CONTENT_TYPE, "application/json").body(body.into()).unwrap()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    String::from_utf8(within(to_bytes(response.into_body(), usize::MAX)).await.unwrap().to_vec()).unwrap()
}

pub(crate) async fn json(response: Response<Body>) -> Value {
    serde_json::from_str(&text(response).await).unwrap()
}

/// The data of the events of a stream, `[DONE]` as a string.
pub(crate) async fn events(response: Response<Body>) -> Vec<Value> {
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let data = |event: &str| match event.strip_prefix("data: ").unwrap() {
        "[DONE]" => Value::from("[DONE]"),
        data => serde_json::from_str(data).unwrap(),
    };
    text(response).await.split_terminator("\n\n").map(data).collect()
}

/// Status, `param`, `code` and message of an error, after a check of its shape.
pub(crate) async fn error(response: Response<Body>) -> (u16, Option<String>, String, String) {
    let status = response.status().as_u16();
    let body = json(response).await;
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no error object in {body}"));
    let keys: Vec<_> = error.keys().map(String::as_str).collect();
    assert_eq!(keys.len(), 4, "{keys:?}");
    assert!(error["type"].is_string() && error.contains_key("param"));
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    (status, text("param"), text("code").unwrap_or_default(), text("message").unwrap())
}

pub(crate) fn chat(extra: Value) -> Value {
    with(json!({"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}), extra)
}

pub(crate) fn completion(extra: Value) -> Value {
    with(json!({"model": MODEL, "prompt": "hi"}), extra)
}

fn with(mut body: Value, extra: Value) -> Value {
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    body
}

/// Byte-level, without merges: token id = byte.
fn tokenizer() -> Tokenizer {
    let mut moved = 0x100..;
    let spelled = (0..=255u8).map(|byte| match byte {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
        _ => moved.next().and_then(char::from_u32).unwrap(),
    });
    let vocab: serde_json::Map<String, Value> =
        spelled.enumerate().map(|(id, spelled)| (spelled.to_string(), id.into())).collect();
    let mark = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true,
        })
    };
    let kimi = (258..).zip(KIMI_MARKS).map(|(id, content)| mark(id, content));
    let marks: Vec<Value> =
        [mark(256, "<|im_start|>"), mark(257, "<|im_end|>")].into_iter().chain(kimi).collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": marks,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    let config = json!({"eos_token": "<|im_end|>"});
    Tokenizer::from_json(file.to_string().as_bytes(), Some(config.to_string().as_bytes())).unwrap()
}
