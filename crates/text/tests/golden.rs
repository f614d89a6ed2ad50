//! Tokenizers against what other programs make of the same vocabularies and texts (`tests/golden/`, made by
//! `xtask/golden/text.py`).
#![allow(clippy::unwrap_used)]

use base::TokenId;
use proptest::prelude::*;
use serde_json::Value;
use text::{GgufVocab, Tokenizer};

fn golden(name: &str) -> Value {
    let path = format!("{}/tests/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    serde_json::from_value(value.clone()).unwrap()
}

fn rows(value: &Value) -> Vec<Vec<TokenId>> {
    let rows: Vec<Vec<u32>> = serde_json::from_value(value.clone()).unwrap();
    rows.into_iter().map(|row| row.into_iter().map(TokenId).collect()).collect()
}

fn vocab(golden: &Value, model: &str, pre: &str) -> GgufVocab {
    GgufVocab {
        model: model.to_owned(),
        pre: pre.to_owned(),
        tokens: strings(&golden["tokens"]),
        token_types: serde_json::from_value(golden["token_types"].clone()).unwrap(),
        scores: golden.get("scores").map_or(vec![], |s| serde_json::from_value(s.clone()).unwrap()),
        merges: golden.get("merges").map_or(vec![], strings),
        bos: Some(TokenId(1)),
        eos: Some(TokenId(2)),
        ..GgufVocab::default()
    }
}

fn byte_level(pre: &str) -> Tokenizer {
    Tokenizer::from_gguf(vocab(&golden("byte_level.json"), "gpt2", pre)).unwrap()
}

fn sentence_piece() -> Tokenizer {
    Tokenizer::from_gguf(vocab(&golden("sentence_piece.json"), "llama", "")).unwrap()
}

#[track_caller]
fn check(name: &str, tokenizer: &Tokenizer, cases: &Value) {
    let corpus = strings(&golden("corpus.json"));
    for (key, parse_special) in [("ids", false), ("parsed", true)] {
        let expected = rows(&cases[key]);
        assert_eq!(corpus.len(), expected.len());
        for (text, expected) in corpus.iter().zip(expected) {
            let found = tokenizer.encode(text, false, parse_special).unwrap();
            assert_eq!(found, expected, "{name}, {key}: {text:?}");
        }
    }
}

#[test]
fn byte_level_families() {
    let golden = golden("byte_level.json");
    let cases = golden["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 7);
    for (pre, cases) in cases {
        let tokenizer = Tokenizer::from_gguf(vocab(&golden, "gpt2", pre)).unwrap();
        check(pre, &tokenizer, cases);
    }
}

#[test]
fn sentence_piece_by_scores() {
    let golden = golden("sentence_piece.json");
    let tokenizer = sentence_piece();
    check("llama", &tokenizer, &golden["cases"]);
    let decoded = strings(&golden["cases"]["decoded"]);
    for (ids, decoded) in rows(&golden["cases"]["ids"]).iter().zip(decoded) {
        assert_eq!(tokenizer.decode(ids), decoded);
    }
}

#[test]
fn tokenizer_json() {
    for name in ["byte_level_json.json", "sentence_piece_json.json"] {
        let golden = golden(name);
        let file = golden["tokenizer"].to_string();
        let tokenizer = Tokenizer::from_json(file.as_bytes(), None).unwrap();
        let corpus = strings(&golden_corpus());
        let decoded = strings(&golden["decoded"]);
        for ((text, ids), decoded) in corpus.iter().zip(rows(&golden["ids"])).zip(decoded) {
            assert_eq!(tokenizer.encode(text, true, true).unwrap(), ids, "{name}: {text:?}");
            assert_eq!(tokenizer.decode(&ids), decoded, "{name}: {text:?}");
        }
    }
}

fn golden_corpus() -> Value {
    golden("corpus.json")
}

#[test]
fn a_config_names_eos_and_template() {
    let file = golden("byte_level_json.json")["tokenizer"].to_string();
    let config = br#"{"eos_token": {"content": "<|endoftext|>"}, "bos_token": "<|im_start|>",
        "chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    let tokenizer = Tokenizer::from_json(file.as_bytes(), Some(config)).unwrap();
    assert_eq!(tokenizer.chat_template(), Some("d"));
    assert_eq!(tokenizer.eos_tokens(), [TokenId(0), TokenId(2)]);
    assert_eq!((tokenizer.bos_text(), tokenizer.eos_text()), ("<|im_start|>".into(), "<|endoftext|>".into()));
}

#[test]
fn special_tokens_go_around_a_text_where_the_file_says() {
    let ids = |vocab| {
        let tokenizer = Tokenizer::from_gguf(vocab).unwrap();
        tokenizer.encode("", true, false).unwrap().into_iter().map(|t| t.0).collect::<Vec<_>>()
    };
    let bytes = golden("byte_level.json");
    let pieces = golden("sentence_piece.json");
    assert_eq!(ids(vocab(&bytes, "gpt2", "smollm")), [0u32; 0]);
    assert_eq!(ids(vocab(&bytes, "gpt2", "llama-bpe")), [1]);
    assert_eq!(ids(vocab(&pieces, "llama", "")), [1]);
    let both = GgufVocab { add_bos: Some(true), add_eos: Some(true), ..vocab(&bytes, "gpt2", "qwen2") };
    assert_eq!(ids(both), [1, 2]);
    let none = GgufVocab { add_bos: Some(true), bos: None, ..vocab(&bytes, "gpt2", "qwen2") };
    assert_eq!(ids(none), [0u32; 0]);
}

#[test]
fn answers_end_with_any_end_of_turn() {
    let tokenizer = byte_level("smollm");
    assert_eq!(tokenizer.eos_tokens(), [TokenId(2), TokenId(0)]);
    assert!(tokenizer.is_control(TokenId(2)) && !tokenizer.is_control(TokenId(1400)));
    assert_eq!(tokenizer.token_bytes(TokenId(1400)), Some(&b"<think>"[..]));
    assert_eq!(tokenizer.token_bytes(TokenId(1401)), None);
    assert_eq!(tokenizer.n_tokens(), 1401);
}

#[test]
fn a_generation_config_adds_stop_tokens() {
    let with = |config: &str| byte_level("smollm").with_generation_config(config.as_bytes());
    let tokens = |config| with(config).unwrap().eos_tokens().to_vec();
    assert_eq!(tokens("{}"), [TokenId(2), TokenId(0)]);
    assert_eq!(tokens("{\"eos_token_id\": 7}"), [TokenId(2), TokenId(0), TokenId(7)]);
    assert_eq!(tokens("{\"eos_token_id\": [0, 5], \"x\": 1}"), [TokenId(2), TokenId(0), TokenId(5)]);
    let error = with("{\"eos_token_id\": 1401}").err().unwrap().to_string();
    assert_eq!(error, "generation_config.json: eos_token_id 1401; expected less than 1401");
    assert!(with("{\"eos_token_id\": -1}").is_err());
}

#[test]
fn what_follows_a_prompt_keeps_its_space() {
    let tokenizer = sentence_piece();
    let all = tokenizer.encode("and then there", true, false).unwrap();
    for cut in 0..=all.len() {
        let (prompt, answer) = all.split_at(cut);
        let mut detokenizer = tokenizer.detokenizer_after(prompt);
        let mut text = tokenizer.decode(prompt);
        for &token in answer {
            text += &detokenizer.push(token);
        }
        assert_eq!(text + &detokenizer.finish(), "and then there", "cut at {cut}");
    }
}

/// Texts rich in what makes tokenizers trip.
fn nasty() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("<|im_end|>".to_owned()),
        Just("<|im_".to_owned()),
        Just("end|>".to_owned()),
        Just("<think>".to_owned()),
        Just("</s><s><unk><0x0A>".to_owned()),
        "[a-z0-9' ]{1,6}",
        "[ \t\r\n]{1,4}",
        ".{1,3}",
        "[\u{300}-\u{36f}\u{1f3fb}-\u{1f3ff}\u{200d}\u{2581}👩漢]{1,3}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn byte_level_round_trip(text in nasty()) {
        for pre in ["smollm", "llama-bpe", "tekken", "deepseek-v3"] {
            let tokenizer = byte_level_cached(pre);
            let ids = tokenizer.encode(&text, true, false).unwrap();
            prop_assert_eq!(tokenizer.decode(&ids), text.clone());
        }
    }

    #[test]
    fn sentence_piece_round_trip(text in nasty()) {
        let tokenizer = sentence_piece_cached();
        let ids = tokenizer.encode(&text, true, false).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
    }

    #[test]
    fn pushing_is_decoding(ids in prop::collection::vec(0u32..1500, 0..40), cut in 0usize..40) {
        for tokenizer in [byte_level_cached("smollm"), sentence_piece_cached()] {
            let ids: Vec<TokenId> = ids.iter().copied().map(TokenId).collect();
            let mut detokenizer = tokenizer.detokenizer();
            let mut text: String = ids.iter().map(|&id| detokenizer.push(id)).collect();
            text += &detokenizer.finish();
            prop_assert_eq!(&text, &tokenizer.decode(&ids));
            let (prompt, answer) = ids.split_at(cut.min(ids.len()));
            let mut detokenizer = tokenizer.detokenizer_after(prompt);
            let mut tail: String = answer.iter().map(|&id| detokenizer.push(id)).collect();
            tail += &detokenizer.finish();
            prop_assert!(text.ends_with(&tail));
        }
    }

    #[test]
    fn disarmed_text_is_plain_text(text in nasty()) {
        for tokenizer in [byte_level_cached("smollm"), byte_level_cached("qwen2"), sentence_piece_cached()] {
            let disarmed = tokenizer.disarm(&Value::String(text.clone()));
            let found = tokenizer.encode(disarmed.as_str().unwrap(), false, true).unwrap();
            prop_assert!(found.iter().all(|&id| !tokenizer.is_control(id)));
            prop_assert_eq!(found, tokenizer.encode(&text, false, false).unwrap());
        }
    }
}

fn byte_level_cached(pre: &str) -> &'static Tokenizer {
    use std::collections::HashMap;
    use std::sync::Mutex;
    static CACHE: Mutex<Option<HashMap<String, &'static Tokenizer>>> = Mutex::new(None);
    let mut cache = CACHE.lock().unwrap();
    let cache = cache.get_or_insert_default();
    cache.entry(pre.to_owned()).or_insert_with(|| Box::leak(Box::new(byte_level(pre))))
}

fn sentence_piece_cached() -> &'static Tokenizer {
    static CACHE: std::sync::LazyLock<Tokenizer> = std::sync::LazyLock::new(sentence_piece);
    &CACHE
}
