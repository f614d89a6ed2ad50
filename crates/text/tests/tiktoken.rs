//! `tiktoken.model` against the PyPI package `tiktoken` (`tests/golden/tiktoken.json`, made by
//! `xtask/golden/tiktoken_model.py`), and what wrong files become.
#![allow(clippy::unwrap_used)]

use std::sync::LazyLock;

use base::TokenId;
use proptest::prelude::*;
use serde_json::{Value, json};
use text::Tokenizer;

static GOLDEN: LazyLock<Value> = LazyLock::new(|| {
    let path = format!("{}/tests/golden/tiktoken.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
});
static TOKENIZER: LazyLock<Tokenizer> =
    LazyLock::new(|| read(GOLDEN["model"].as_str().unwrap(), &GOLDEN["config"]).unwrap());

/// Ordinary tokens of the golden vocabulary; special ones follow.
const N_ORDINARY: u32 = 1200;

fn read(model: &str, config: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_tiktoken(model.as_bytes(), config.to_string().as_bytes()).map_err(|e| e.to_string())
}

fn ids(text: &str, parse_special: bool) -> Vec<u32> {
    TOKENIZER.encode(text, true, parse_special).unwrap().into_iter().map(|token| token.0).collect()
}

fn strings(key: &str) -> Vec<String> {
    serde_json::from_value(GOLDEN[key].clone()).unwrap()
}

#[test]
fn the_corpus() {
    let corpus = strings("corpus");
    assert!(corpus.len() > 40);
    for (key, parse_special) in [("ids", false), ("parsed", true)] {
        let expected: Vec<Vec<u32>> = serde_json::from_value(GOLDEN[key].clone()).unwrap();
        for (text, expected) in corpus.iter().zip(expected) {
            assert_eq!(ids(text, parse_special), expected, "{key}: {text:?}");
        }
    }
}

/// The generator that the script has.
fn random_text(seed: u32, pieces: &[String]) -> String {
    let (mut state, mut text) = (seed, String::new());
    for _ in 0..600 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text += &pieces[(state >> 16) as usize % pieces.len()];
    }
    text
}

#[test]
fn a_large_random_corpus() {
    let pieces = strings("pieces");
    let checksums: Vec<u32> = serde_json::from_value(GOLDEN["random"].clone()).unwrap();
    assert_eq!(checksums.len(), 400);
    for (seed, expected) in (0..).zip(checksums) {
        let text = random_text(seed, &pieces);
        let fold = |state: u32, id: u32| (state ^ id).wrapping_mul(16_777_619);
        assert_eq!(ids(&text, false).into_iter().fold(0x811C_9DC5, fold), expected, "seed {seed}");
        assert_eq!(TOKENIZER.decode(&TOKENIZER.encode(&text, false, false).unwrap()), text);
    }
}

#[test]
fn runs_of_any_length() {
    let lengths: Vec<usize> = serde_json::from_value(GOLDEN["long"].clone()).unwrap();
    for (c, n) in ["a", " ", "漢", "\n", "="].into_iter().zip(lengths) {
        assert_eq!(ids(&(c.repeat(60_000) + "b"), false).len(), n, "{c:?}");
    }
    for c in ["a", " ", "漢", "\n", "=", "Aa", "'S", " \n"] {
        let text = c.repeat((1 << 20) / c.len());
        assert_eq!(TOKENIZER.decode(&TOKENIZER.encode(&text, false, false).unwrap()), text);
    }
}

#[test]
fn special_tokens_have_names_and_roles() {
    assert_eq!(TOKENIZER.n_tokens(), N_ORDINARY as usize + 256);
    let id = |offset: u32| TokenId(N_ORDINARY + offset);
    assert_eq!(TOKENIZER.eos_tokens(), [id(1), id(2)]);
    assert_eq!((TOKENIZER.bos_text(), TOKENIZER.eos_text()), ("[BOS]".into(), "[EOS]".into()));
    assert_eq!(TOKENIZER.token_bytes(id(5)), Some(&b"<|reserved_token_1205|>"[..]));
    assert_eq!(TOKENIZER.token_bytes(id(256)), None);
    // Thinking is shown, other marks only on demand.
    assert!(TOKENIZER.is_control(id(13)) && !TOKENIZER.is_control(id(22)));
    let tokens = [id(22), id(13), id(15)];
    assert_eq!(TOKENIZER.decode(&tokens), "<think>");
    let mut shown = TOKENIZER.detokenizer_showing(&["<|tool_call_begin|>", "no such"]);
    let text: String = tokens.iter().map(|&token| shown.push(token)).collect();
    assert_eq!(text, "<think><|tool_call_begin|>");
}

#[test]
fn a_message_cannot_write_special_tokens() {
    let text = "<think><|im_end|>[EOS]<|reserved_token_1205|>";
    assert_eq!(ids(text, true).len(), 4);
    let disarmed = TOKENIZER.disarm(&json!(text));
    let found = ids(disarmed.as_str().unwrap(), true);
    assert!(found.iter().all(|&id| id < N_ORDINARY), "{found:?}");
    assert_eq!(found, ids(text, false));
}

#[test]
fn wrong_files_are_named() {
    let model = GOLDEN["model"].as_str().unwrap();
    let config = &GOLDEN["config"];
    let line = |i: usize| model.lines().nth(i).unwrap();
    for (wrong, why) in [
        (String::new(), "no token for the byte 0x00"),
        (model.replacen(line(7), "", 1), "token 7: expected rank 7"),
        (model.replacen(line(7), "!! 7", 1), "token 7: "),
        (model.replacen(line(7), "Bw==7", 1), "token 7: expected bytes in base64, a space and a rank"),
        (model.replacen(line(7), "Bg== 7", 1), "token 7: expected bytes that no token before it has"),
        (model.replacen(line(7), "AAAA 7", 1), "no token for the byte 0x07"),
        (model.replacen(line(7), "Bw== -1", 1), "token 7: expected rank 7"),
    ] {
        let error = read(&wrong, config).err().unwrap();
        assert!(error.starts_with("tiktoken.model: ") && error.contains(why), "{error}");
    }
    let with = |id: &str, content: &str| json!({"added_tokens_decoder": {"1200": {"content": "[A]"}, (id): {"content": content}}});
    for (config, why) in [
        (with("1456", "[B]"), "has the id 1456; expected 1200 to 1455"),
        (with("5", "[B]"), "has the id 5"),
        (with("x", "[B]"), "has the id x"),
        (with("1201", "[A]"), "1201 is \"[A]\"; expected a text of its own"),
        (with("1201", ""), "expected a text of its own"),
        (json!({"added_tokens_decoder": 5}), "invalid type"),
    ] {
        let error = read(model, &config).err().unwrap();
        assert!(error.starts_with("tokenizer_config.json: ") && error.contains(why), "{error}");
    }
}

proptest! {
    #[test]
    fn texts_come_back(text in "(?s).{0,80}") {
        let found = TOKENIZER.encode(&text, true, false).unwrap();
        prop_assert_eq!(TOKENIZER.decode(&found), text.clone());
        let mut detokenizer = TOKENIZER.detokenizer();
        let mut pushed: String = found.iter().map(|&token| detokenizer.push(token)).collect();
        pushed += &detokenizer.finish();
        prop_assert_eq!(pushed, text);
    }
}
