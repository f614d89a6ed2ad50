//! Vocabularies that are wrong and texts that are large: errors and answers, no panics and no waiting.
#![allow(clippy::unwrap_used)]

use base::TokenId;
use proptest::prelude::*;
use serde_json::{Value, json};
use text::{GgufVocab, Tokenizer};

fn spm() -> GgufVocab {
    let tokens = ["<unk>", "<s>", "</s>", "<0x41>", "▁", "a", "b", "ab", "▁ab"].map(String::from).to_vec();
    GgufVocab {
        model: "llama".into(),
        scores: vec![0.0, 0.0, 0.0, 0.0, -4.0, -5.0, -6.0, -1.0, -2.0],
        token_types: vec![2, 3, 3, 6, 1, 1, 1, 1, 1],
        tokens,
        bos: Some(TokenId(1)),
        eos: Some(TokenId(2)),
        unk: Some(TokenId(0)),
        ..GgufVocab::default()
    }
}

fn bytes() -> GgufVocab {
    GgufVocab {
        model: "gpt2".into(),
        tokens: ["a", "b", "ab", "<e>"].map(String::from).to_vec(),
        token_types: vec![1, 1, 1, 3],
        merges: vec!["a b".into()],
        eos: Some(TokenId(3)),
        ..GgufVocab::default()
    }
}

#[track_caller]
fn refused(vocab: GgufVocab, part_of_message: &str) {
    let message = Tokenizer::from_gguf(vocab).err().expect("an error").to_string();
    assert!(message.contains(part_of_message), "{message}");
}

#[test]
fn contradictions_are_named() {
    refused(GgufVocab { model: "bert".into(), ..bytes() }, "\"bert\"");
    refused(GgufVocab { pre: "quux".into(), ..bytes() }, "\"quux\"");
    refused(GgufVocab { tokens: vec![], token_types: vec![], ..bytes() }, "0 tokens");
    refused(GgufVocab { token_types: vec![1; 3], ..bytes() }, "3 entries in token_type; expected 4");
    refused(GgufVocab { scores: vec![1.0], ..spm() }, "1 entries in scores; expected 9");
    refused(GgufVocab { eos: Some(TokenId(4)), ..bytes() }, "eos token is 4; expected less than 4");
    refused(GgufVocab { merges: vec!["ab".into()], ..bytes() }, "merge 0 is \"ab\"");
    refused(GgufVocab { merges: vec!["a zz".into()], ..bytes() }, "zz");
    let mut long = spm();
    long.tokens[8] = "x".repeat(10_000);
    refused(long, "token 8 has 10000 bytes");
}

#[test]
fn a_small_sentence_piece_vocabulary() {
    let tokenizer = Tokenizer::from_gguf(spm()).unwrap();
    let ids =
        |text| tokenizer.encode(text, false, false).unwrap().into_iter().map(|t| t.0).collect::<Vec<_>>();
    assert_eq!(ids("ab ab"), [8, 8]);
    assert_eq!(ids("A"), [4, 3]);
    assert_eq!(ids("</s>a"), [4, 0, 5], "a run of unknown characters is one token, and no control token");
    assert_eq!(tokenizer.decode(&[TokenId(1), TokenId(8), TokenId(8), TokenId(3)]), "ab abA");
}

#[test]
fn what_a_token_is_decides_how_it_is_found_and_shown() {
    let words = |pre: &str, types: [i32; 8]| {
        let tokens = ["a", "b", "ab", "<e>", "ba", "é", "x|y", "|yz"].map(String::from).to_vec();
        let vocab = GgufVocab { pre: pre.into(), tokens, token_types: types.to_vec(), ..bytes() };
        Tokenizer::from_gguf(vocab).unwrap()
    };
    let merging = words("smollm", [1, 1, 1, 1, 1, 4, 3, 3]);
    let whole = words("llama-bpe", [1, 1, 1, 3, 1, 4, 3, 3]);
    let ids = |tokenizer: &Tokenizer, text| tokenizer.encode(text, false, true).unwrap();
    // A word that is a token, though no merges lead to it.
    assert_eq!(ids(&merging, "ba"), [1, 0].map(TokenId));
    assert_eq!(ids(&whole, "ba"), [4].map(TokenId));
    // User-defined: as it stands, not a byte in the vocabulary's spelling.
    assert_eq!(ids(&whole, "é"), [5].map(TokenId));
    assert_eq!(whole.decode(&[TokenId(5)]), "é");
    // EOS is a control token, whatever its type says.
    assert!(merging.is_control(TokenId(3)));
    assert_eq!(ids(&merging, "a<e>"), [0, 3].map(TokenId));
    // Control tokens that overlap are all disarmed.
    assert_eq!(ids(&whole, "ax|yz"), [0, 6].map(TokenId));
    let disarmed = whole.disarm(&json!({"ax|yz": ["ax|yz", 1]}));
    let (key, value) = disarmed.as_object().unwrap().iter().next().unwrap();
    assert_eq!(ids(&whole, key), [0].map(TokenId));
    assert_eq!(ids(&whole, value[0].as_str().unwrap()), [0].map(TokenId));
}

#[test]
fn odd_scores_and_names_are_survived() {
    let mut odd = spm();
    odd.scores = vec![f32::NAN, f32::INFINITY, -0.0, 0.0, f32::NEG_INFINITY, f32::NAN, 1e38, -1e38, 0.0];
    odd.tokens[5] = String::new();
    odd.tokens[6] = "ab".into();
    Tokenizer::from_gguf(odd).unwrap().encode("abab ab", true, true).unwrap();
}

#[test]
fn large_texts_take_linear_time() {
    let golden = format!("{}/tests/golden/byte_level.json", env!("CARGO_MANIFEST_DIR"));
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(golden).unwrap()).unwrap();
    let list = |key: &str| serde_json::from_value(golden[key].clone()).unwrap();
    let bytes = |pre: &str| {
        let vocab = GgufVocab { pre: pre.into(), tokens: list("tokens"), merges: list("merges"), ..bytes() };
        Tokenizer::from_gguf(GgufVocab { token_types: vec![], ..vocab }).unwrap()
    };
    let n = 60_000;
    for tokenizer in
        [bytes("smollm"), bytes("llama-bpe"), bytes("tekken"), Tokenizer::from_gguf(spm()).unwrap()]
    {
        for unit in ["a", " ", "\n", "A", "1", "!", "ab", "漢", "<e", "\u{301}"] {
            let text = unit.repeat(n / unit.len());
            let tokens = tokenizer.encode(&text, false, true).unwrap();
            assert!(!tokens.is_empty() && tokens.len() <= n + 1);
        }
    }
}

fn file() -> Value {
    json!({
        "version": "1.0",
        "added_tokens": [{"id": 4, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": true,
            "normalized": true, "special": true}],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace",
            "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a+"},
            "behavior": "Isolated", "invert": false}, {"type": "Digits", "individual_digits": true}]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens":
            {"<s>": {"id": "<s>", "ids": [4], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"},
            "content": " "}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "u", "byte_fallback": true, "fuse_unk": true,
            "vocab": {"a": 0, "b": 1, "ab": 2, "u": 3}, "merges": [["a", "b"]]}
    })
}

#[test]
fn a_file_with_a_hole_and_a_late_control_token() {
    let mut file = file();
    file["added_tokens"][0]["id"] = json!(9);
    file["post_processor"]["special_tokens"]["<s>"]["ids"] = json!([9]);
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), None).unwrap();
    assert_eq!(tokenizer.n_tokens(), 10);
    assert_eq!(tokenizer.token_bytes(TokenId(7)), Some(&b""[..]));
    let ids = tokenizer.encode("ab<s>  b", true, true).unwrap();
    assert_eq!(ids, [9, 0, 1, 9, 1].map(TokenId));
    assert_eq!(tokenizer.decode(&ids), "abb");
}

#[test]
fn unsupported_files_are_refused_by_name() {
    for (pointer, value, part) in [
        ("/model/type", json!("Unigram"), "\"Unigram\""),
        ("/model/continuing_subword_prefix", json!("##"), "word affix \"##\""),
        ("/pre_tokenizer/type", json!("FixedLength"), "pre_tokenizer \"FixedLength\""),
        ("/normalizer/normalizers/0/type", json!("Precompiled"), "normalizer \"Precompiled\""),
        ("/decoder/type", json!("WordPiece"), "decoder \"WordPiece\""),
        ("/post_processor/special_tokens", json!({}), "no ids for \"<s>\""),
        ("/added_tokens/0/id", json!(4_000_000_000u32), "4000000001 tokens"),
        ("/model/merges/0/1", json!("q"), "q"),
    ] {
        let mut file = file();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match file.pointer_mut(parent).unwrap() {
            Value::Object(map) => drop(map.insert(key.into(), value)),
            other => other[key.parse::<usize>().unwrap()] = value,
        }
        let message =
            Tokenizer::from_json(file.to_string().as_bytes(), None).err().expect(pointer).to_string();
        assert!(message.contains(part), "{pointer}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_damaged_file_never_panics(at in 0usize..2000, n in 0usize..12, with in "[\"\\[\\]{}:,0-9a-z<>. -]{0,6}") {
        let mut text = file().to_string();
        let clamp = |i: usize| (0..=i.min(text.len())).rev().find(|&i| text.is_char_boundary(i)).unwrap();
        let (start, end) = (clamp(at % text.len()), clamp(at % text.len() + n));
        text.replace_range(start..end.max(start), &with);
        if let Ok(tokenizer) = Tokenizer::from_json(text.as_bytes(), Some(text.as_bytes()))
            && let Ok(ids) = tokenizer.encode("<s> ab  aab 12é\0", true, true)
        {
            tokenizer.decode(&ids);
        }
    }
}
