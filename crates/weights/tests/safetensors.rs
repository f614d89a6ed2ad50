//! Hugging Face directories: whole, sharded, incomplete, contradictory and hostile.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use base::DType;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;
use weights::{Checkpoint, Source, TensorInfo, WriteError, hf::Writer};

fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, shape: shape.to_owned() }
}

fn pattern(info: &TensorInfo, out: &mut dyn Write) -> std::io::Result<()> {
    let n = info.n_bytes().unwrap();
    out.write_all(&(0..n).map(|i| (n + i) as u8).collect::<Vec<_>>())
}

fn file_bytes(tensors: &[TensorInfo]) -> Vec<u8> {
    let mut writer = Writer::new();
    tensors.iter().for_each(|t| writer.tensor(t.clone()));
    let mut bytes = Vec::new();
    writer.write(&mut bytes, pattern).unwrap();
    bytes
}

fn sample_bytes() -> Vec<u8> {
    file_bytes(&[
        info("z", DType::F32, &[3]),
        info("m", DType::BF16, &[2, 5]),
        info("a", DType::F16, &[4]),
        info("cube", DType::F32, &[2, 2, 2]),
    ])
}

/// A file with this header and this many bytes of values.
fn raw(header: &serde_json::Value, n_values: usize) -> Vec<u8> {
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &vec![0; n_values]].concat()
}

fn model_dir(files: &[(&str, &[u8])]) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("config.json"), r#"{"hidden_size": 8}"#).unwrap();
    for (name, bytes) in files {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

fn message(path: impl AsRef<Path>) -> String {
    Checkpoint::open(path).map(drop).unwrap_err().to_string()
}

#[test]
fn a_single_file_reads_back() {
    let dir = model_dir(&[("model.safetensors", &sample_bytes())]);
    for path in [dir.path().to_owned(), dir.path().join("model.safetensors")] {
        let checkpoint = Checkpoint::open(path).unwrap();
        let Source::Hf { config, dir: found } = checkpoint.metadata() else { panic!("not a directory") };
        assert_eq!((config["hidden_size"].as_u64(), found), (Some(8), dir.path()));
        assert_eq!(checkpoint.tensor_names().collect::<Vec<_>>(), ["a", "cube", "m", "z"]);
        let m = checkpoint.matrix("m").unwrap();
        assert_eq!((m.dtype, m.n_rows, m.n_cols, m.bytes[0], m.bytes[19]), (DType::BF16, 2, 5, 20, 39));
        assert_eq!(checkpoint.tensor("cube").unwrap().bytes[31], 63);
        assert_eq!(checkpoint.vector("a").unwrap().len(), 4);
    }
}

#[test]
fn the_only_file_of_any_name_will_do() {
    let dir = model_dir(&[("weights.safetensors", &sample_bytes())]);
    assert!(Checkpoint::open(dir.path()).unwrap().contains("m"));
    fs::write(dir.path().join("more.safetensors"), sample_bytes()).unwrap();
    assert!(message(dir.path()).contains("2 *.safetensors files and no index"));
    assert!(Checkpoint::open(dir.path().join("more.safetensors")).is_ok());
    let empty = model_dir(&[]);
    assert!(message(empty.path()).contains("0 *.safetensors files and no index"));
}

const INDEX: &str = "model.safetensors.index.json";

fn sharded(index: &serde_json::Value) -> (TempDir, PathBuf) {
    let one = file_bytes(&[info("x", DType::F32, &[2]), info("unlisted", DType::F32, &[2])]);
    let two = file_bytes(&[info("y", DType::F16, &[2])]);
    let dir = model_dir(&[
        ("s-1.safetensors", &one),
        ("s-2.safetensors", &two),
        (INDEX, index.to_string().as_bytes()),
    ]);
    let second = dir.path().join("s-2.safetensors");
    (dir, second)
}

#[test]
fn shards_open_through_their_index() {
    let (dir, second) = sharded(&json!({ "weight_map": { "x": "s-1.safetensors", "y": "s-2.safetensors" } }));
    for path in [dir.path(), &second] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!(checkpoint.tensor_names().collect::<Vec<_>>(), ["x", "y"], "only what the index lists");
        assert_eq!(checkpoint.tensor("y").unwrap().bytes, [4, 5, 6, 7]);
    }
    fs::remove_file(&second).unwrap();
    let missing = message(dir.path());
    assert!(missing.contains("s-2.safetensors is missing") && missing.contains("\"y\""), "{missing}");
}

#[test]
fn a_bad_index_is_named() {
    let cases = [
        (json!({ "weight_map": { "q": "s-1.safetensors" } }), "index.json says that tensor \"q\" is in "),
        (json!({ "weight_map": { "x": "../s-1.safetensors" } }), "tensor \"x\": expected the name of a file"),
        (json!({ "weight_map": { "x": "/etc/passwd" } }), "tensor \"x\": expected the name of a file"),
        (json!({ "weight_map": { "x": ".." } }), "tensor \"x\": expected the name of a file"),
        (json!({ "weight_map": { "x": "" } }), "tensor \"x\": expected the name of a file"),
        (json!({ "weight_map": { "x": 5 } }), "tensor \"x\": expected the name of a file"),
        (json!({ "weight_map": [] }), "\"weight_map\": expected an object"),
        (json!(3), "\"weight_map\": expected an object"),
    ];
    for (index, part) in cases {
        let (dir, _) = sharded(&index);
        let message = message(dir.path());
        assert!(message.contains(part) && message.contains(INDEX), "{message:?} lacks {part:?}");
    }
}

#[test]
fn a_directory_needs_its_config() {
    let dir = model_dir(&[("model.safetensors", &sample_bytes())]);
    fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(message(dir.path()).contains("config.json at byte 0: the whole file: expected JSON"));
    fs::remove_file(dir.path().join("config.json")).unwrap();
    assert!(message(dir.path()).contains("found no config.json"));
}

#[test]
fn bad_headers_are_refused_and_named() {
    let tensor = |dtype: &str, shape: &[u64], offsets: [u64; 2]| json!({ "t": { "dtype": dtype, "shape": shape, "data_offsets": offsets } });
    let huge_header = [u64::MAX.to_le_bytes().as_slice(), b"{}"].concat();
    let cases = [
        (huge_header, "at byte 0: header length: expected at most 2 in a file of 10 bytes"),
        (raw(&tensor("I16", &[4], [0, 8]), 8), "tensor \"t\": expected a number format out of F32"),
        (raw(&tensor("F8_E5M2", &[8], [0, 8]), 8), "found F8_E5M2"),
        (raw(&tensor("F32", &[2], [0, 8]), 7), "tensor \"t\": expected values inside the 7 bytes"),
        (raw(&tensor("F32", &[2], [8, 0]), 8), "tensor \"t\": expected values inside the 8 bytes"),
        (raw(&tensor("F32", &[2], [0, u64::MAX]), 8), "tensor \"t\": expected values inside the 8 bytes"),
        (raw(&tensor("F32", &[3], [0, 8]), 8), "expected a safetensors header"),
        (raw(&tensor("F32", &[1 << 40, 1 << 40], [0, 8]), 8), "expected a safetensors header"),
        (raw(&tensor("F99", &[2], [0, 8]), 8), "F99"),
        (raw(&json!({ "t": 5 }), 0), "tensor \"t\": expected two data_offsets, found 5"),
        (raw(&json!("text"), 0), "expected a safetensors header"),
        (Vec::new(), "header length: expected 8 bytes"),
    ];
    for (bytes, part) in cases {
        let dir = model_dir(&[("model.safetensors", &bytes)]);
        let message = message(dir.path());
        assert!(
            message.contains(part) && message.contains("model.safetensors"),
            "{message:?} lacks {part:?}"
        );
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = sample_bytes();
    let dir = model_dir(&[]);
    for len in 0..bytes.len() {
        fs::write(dir.path().join("model.safetensors"), &bytes[..len]).unwrap();
        assert!(Checkpoint::open(dir.path()).is_err(), "{len} of {} bytes", bytes.len());
    }
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..350, any::<u8>()), 1..6)) {
        let mut bytes = sample_bytes();
        for (at, value) in flips {
            let n = bytes.len();
            bytes[at % n] = value;
        }
        let dir = model_dir(&[("model.safetensors", &bytes)]);
        if let Ok(checkpoint) = Checkpoint::open(dir.path()) {
            for name in checkpoint.tensor_names() {
                std::hint::black_box(checkpoint.tensor(name).unwrap().bytes.iter().fold(0u8, |sum, b| sum ^ b));
                let _ = (checkpoint.matrix(name).map(|m| m.n_rows), checkpoint.vector(name));
            }
        }
    }
}

#[test]
fn the_writer_refuses_block_formats() {
    let mut writer = Writer::new();
    writer.tensor(info("t", DType::Q4_0, &[1, 32]));
    assert!(matches!(writer.write(Vec::new(), pattern), Err(WriteError::DType { .. })));
}
