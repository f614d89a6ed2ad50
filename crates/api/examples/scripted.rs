//! A server without a model, for tests of clients: `cargo run -p api --example scripted -- PORT`. It has Kimi's style of
//! calling tools, and answers every chat with what stands after `SAY ` in its last message, or else with all of that
//! message. It is no part of the product.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::{AppState, Limits, Status};
use base::{FinishReason, Output, Request, Sampled, Usage};
use engine::{Client, Command};
use serde_json::{Map, Value, json};
use text::{ChatTemplate, Tokenizer};
use tokio::net::TcpListener;

/// Control tokens behind the 256 bytes.
const MARKS: [&str; 7] = [
    "<|im_end|>",
    "<|im_middle|>",
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
];
const TEMPLATE: &str = "{{ tools | tojson if tools else '' }}{% for m in messages %}{{ m.role }}<|im_middle|>\
    {{ m.content or '' }}<|im_end|>{% endfor %}{#- <|tool_calls_section_begin|> </think> #}";
/// What a message asks for with this word before it is said as it stands, marks included.
const SAY: &str = "SAY ";
const CONTEXT_LEN: u32 = 100_000;
const MAX_REQUESTS: u32 = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).ok_or("expected a port")?.parse()?;
    let tokenizer = Arc::new(tokenizer()?);
    let (client, mut commands) = Client::new(MAX_REQUESTS);
    let random = AtomicU64::new(1);
    let app = AppState {
        client: client.clone(),
        tokenizer: tokenizer.clone(),
        template: Some(ChatTemplate::new(TEMPLATE, "", "")?),
        model_id: "scripted".to_owned(),
        aliases: Vec::new(),
        context_len: CONTEXT_LEN,
        limits: Limits::default(),
        allowed_hosts: Vec::new(),
        random: Box::new(move || random.fetch_add(1, Ordering::Relaxed)),
        unix_time_s: Box::new(|| 1_700_000_000),
        status: Box::new(Status::default),
    };
    tokio::spawn(async move {
        while let Some(command) = commands.next().await {
            match command {
                Command::Submit(request) => client.deliver(answer(&tokenizer, &request)),
                Command::Cancel(id) => {
                    let (reason, usage) = (FinishReason::Cancelled, Usage::default());
                    client.deliver(vec![Output::Finished { id, reason, usage }]);
                }
            }
        }
    });
    Ok(api::serve(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?, app).await?)
}

/// The whole answer at once.
fn answer(tokenizer: &Tokenizer, request: &Request) -> Vec<Output> {
    let id = request.id;
    let text = tokenizer.decode(&request.prompt);
    let text = text.rsplit_once(SAY).map_or(&*text, |(_, said)| said);
    let tokens = tokenizer.encode(text, false, true).unwrap_or_default();
    let n = tokens.len().min(request.max_tokens as usize);
    let reason = if n < tokens.len() { FinishReason::Length } else { FinishReason::Stop };
    let prompt_tokens = request.prompt.len() as u32;
    let usage = Usage { prompt_tokens, cached_tokens: 0, completion_tokens: n as u32 };
    let said = tokens[..n]
        .iter()
        .map(|&token| Output::Token { id, sampled: Sampled { token, logprob: Some(-0.5), top: Vec::new() } });
    said.chain([Output::Finished { id, reason, usage }]).collect()
}

/// Byte-level, without merges: token id = byte.
fn tokenizer() -> Result<Tokenizer, text::TextError> {
    let mut moved = (0x100u32..).filter_map(char::from_u32);
    let mut vocab = Map::new();
    for byte in 0..=255u8 {
        let spelled = match byte {
            0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => Some(char::from(byte)),
            _ => moved.next(),
        };
        vocab.extend(spelled.map(|c| (c.to_string(), byte.into())));
    }
    let mark = |(id, content): (u32, &str)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true})
    };
    let marks: Vec<Value> = (256..).zip(MARKS).map(mark).collect();
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
        "added_tokens": marks, "pre_tokenizer": byte_level, "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    });
    Tokenizer::from_json(file.to_string().as_bytes(), Some(br#"{"eos_token": "<|im_end|>"}"#))
}
