//! GGUF files as written, cut short, bent and made up: what is whole reads back, everything else is an error.
#![allow(clippy::unwrap_used)] // helpers of tests

use std::{fs, io::Write, path::Path};

use base::DType;
use proptest::prelude::*;
use tempfile::TempDir;
use weights::{
    Checkpoint, GgufMetadata, Source, TensorInfo, WriteError,
    gguf::{Value, Writer},
};

fn info(name: &str, dtype: DType, shape: &[usize]) -> TensorInfo {
    TensorInfo { name: name.to_owned(), dtype, shape: shape.to_owned() }
}

/// Values that count up from the tensor's length, so that a shifted read shows.
fn pattern(info: &TensorInfo, out: &mut dyn Write) -> std::io::Result<()> {
    let n = info.n_bytes().unwrap();
    out.write_all(&(0..n).map(|i| (n + i) as u8).collect::<Vec<_>>())
}

fn sample() -> Writer {
    let mut writer = Writer::new();
    writer.metadata("a.str", Value::Str("größer".into()));
    writer.metadata("a.u16", Value::U16(65_535));
    writer.metadata("a.u32", Value::U32(7));
    writer.metadata("a.f32", Value::F32(0.5));
    writer.metadata("a.bool", Value::Bool(true));
    writer.metadata("a.strs", Value::StrArray(vec!["x".into(), String::new(), "yz".into()]));
    writer.metadata("a.i32s", Value::I32Array(vec![-1, 2]));
    writer.metadata("a.f32s", Value::F32Array(vec![1.0, -2.5]));
    writer.tensor(info("norm", DType::F32, &[5]));
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        writer.tensor(info(&format!("m{i}"), dtype, &[3, 512]));
    }
    writer.tensor(info("cube", DType::F16, &[2, 3, 4]));
    writer
}

fn sample_bytes() -> Vec<u8> {
    let mut bytes = Vec::new();
    sample().write(&mut bytes, pattern).unwrap();
    bytes
}

fn open_bytes(dir: &TempDir, bytes: &[u8]) -> Result<Checkpoint, String> {
    let path = dir.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path).map_err(|e| {
        let message = e.to_string();
        assert!(message.contains("x.gguf"), "names no file: {message}");
        message
    })
}

fn gguf(checkpoint: &Checkpoint) -> &GgufMetadata {
    match checkpoint.metadata() {
        Source::Gguf(metadata) => metadata,
        Source::Hf { .. } => panic!("not GGUF"),
    }
}

/// Reads everything there is in every way.
fn read_all(checkpoint: &Checkpoint) {
    for name in checkpoint.tensor_names() {
        let tensor = checkpoint.tensor(name).unwrap();
        assert_eq!(tensor.name, name);
        std::hint::black_box(tensor.bytes.iter().fold(0u8, |sum, b| sum ^ b));
        let _ = checkpoint.matrix(name).map(|m| m.row(m.n_rows - 1).len());
        let _ = checkpoint.vector(name);
    }
    let metadata = gguf(checkpoint);
    for key in metadata.keys() {
        let _ = (metadata.str(key), metadata.u32(key), metadata.f32(key), metadata.bool(key));
        let _ = (metadata.str_array(key), metadata.f32_array(key), metadata.i32_array(key));
    }
}

#[test]
fn what_was_written_reads_back() {
    let dir = TempDir::new().unwrap();
    let checkpoint = open_bytes(&dir, &sample_bytes()).unwrap();
    let metadata = gguf(&checkpoint);
    assert_eq!(metadata.str("a.str").unwrap(), "größer");
    assert_eq!(metadata.u32("a.u16").unwrap(), 65_535);
    assert_eq!(metadata.u32("a.u32").unwrap(), 7);
    assert_eq!(metadata.f32("a.f32").unwrap(), 0.5);
    assert!(metadata.bool("a.bool").unwrap());
    assert_eq!(metadata.str_array("a.strs").unwrap(), ["x", "", "yz"]);
    assert_eq!(metadata.i32_array("a.i32s").unwrap(), [-1, 2]);
    assert_eq!(metadata.f32_array("a.f32s").unwrap(), [1.0, -2.5]);
    assert_eq!(metadata.optional("none", GgufMetadata::u32).unwrap(), None);
    assert_eq!(metadata.optional("a.u32", GgufMetadata::u32).unwrap(), Some(7));
    assert_eq!(checkpoint.tensor_names().count(), 15);
    for (i, dtype) in DType::ALL.into_iter().enumerate() {
        let matrix = checkpoint.matrix(&format!("m{i}")).unwrap();
        assert_eq!((matrix.dtype, matrix.n_rows, matrix.n_cols), (dtype, 3, 512));
        let n = matrix.bytes.len();
        assert!(matrix.bytes.iter().enumerate().all(|(j, b)| *b == (n + j) as u8), "{dtype}");
    }
    assert_eq!(checkpoint.tensor("cube").unwrap().shape, [2, 3, 4]);
    assert_eq!(checkpoint.vector("norm").unwrap().len(), 5);
}

#[test]
fn misuse_is_named() {
    let dir = TempDir::new().unwrap();
    let checkpoint = open_bytes(&dir, &sample_bytes()).unwrap();
    let metadata = gguf(&checkpoint);
    let errors = [
        (metadata.u32("a.str").unwrap_err(), "metadata key \"a.str\": expected an integer"),
        (metadata.u32("a.none").unwrap_err(), "metadata key \"a.none\": expected an integer"),
        (metadata.str_array("a.i32s").map(drop).unwrap_err(), "found an array of i32"),
        (checkpoint.matrix("norm").map(drop).unwrap_err(), "expected a matrix, found F32 of shape [5]"),
        (checkpoint.vector("m3").unwrap_err(), "tensor \"m3\": expected a vector"),
        (checkpoint.tensor("no").map(drop).unwrap_err(), "\"no\", found none of that name among 15"),
    ];
    for (error, part) in errors {
        assert!(error.to_string().contains(part), "{error} lacks {part}");
    }
}

#[test]
fn halves_become_f32() {
    let mut writer = Writer::new();
    writer.tensor(info("f16", DType::F16, &[2]));
    writer.tensor(info("bf16", DType::BF16, &[2]));
    let mut bytes = Vec::new();
    let fill = |info: &TensorInfo, out: &mut dyn Write| {
        let one: u16 = if info.name == "f16" { 0x3c00 } else { 0x3f80 };
        out.write_all(&one.to_le_bytes())?;
        out.write_all(&(one | 0x8000).to_le_bytes())
    };
    writer.write(&mut bytes, fill).unwrap();
    let dir = TempDir::new().unwrap();
    let checkpoint = open_bytes(&dir, &bytes).unwrap();
    assert_eq!(checkpoint.vector("f16").unwrap(), [1.0, -1.0]);
    assert_eq!(checkpoint.vector("bf16").unwrap(), [1.0, -1.0]);
}

#[test]
fn every_truncation_is_an_error() {
    let mut writer = Writer::new();
    writer.metadata("k", Value::StrArray(vec!["one".into(), "two".into()]));
    writer.tensor(info("a", DType::Q4_0, &[2, 32]));
    writer.tensor(info("b", DType::F32, &[8])); // ends at the alignment, so no padding follows
    let mut bytes = Vec::new();
    writer.write(&mut bytes, pattern).unwrap();
    let dir = TempDir::new().unwrap();
    for len in 0..bytes.len() {
        assert!(open_bytes(&dir, &bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
    }
    let cut = open_bytes(&dir, &bytes[..bytes.len() - 1]).unwrap_err();
    assert!(cut.contains("tensor \"b\": expected its 32 bytes"), "{cut}");
    read_all(&open_bytes(&dir, &bytes).unwrap());
}

proptest! {
    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((0usize..1500, any::<u8>()), 1..6)) {
        let dir = TempDir::new().unwrap();
        let mut bytes = sample_bytes();
        for (at, value) in flips {
            bytes[at] = value;
        }
        if let Ok(checkpoint) = open_bytes(&dir, &bytes) {
            read_all(&checkpoint);
        }
    }

    #[test]
    fn noise_after_a_good_start_never_panics(
        counts in (0u64..4, 0u64..4),
        noise in prop::collection::vec(prop_oneof![Just(0u8), 0u8..14, any::<u8>()], 0..300),
    ) {
        let dir = TempDir::new().unwrap();
        let bytes = [header(counts.0, counts.1), noise].concat();
        if let Ok(checkpoint) = open_bytes(&dir, &bytes) {
            read_all(&checkpoint);
        }
    }
}

// A file by hand.

fn header(n_tensors: u64, n_keys: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &3u32.to_le_bytes(), &n_tensors.to_le_bytes(), &n_keys.to_le_bytes()].concat()
}

fn string(s: &str) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes(), s.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [string(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

fn described(name: &str, dims: &[u64], dtype: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    let n_dims = (dims.len() as u32).to_le_bytes();
    [string(name), n_dims.to_vec(), dims_bytes, dtype.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec()]
        .concat()
}

fn one_tensor(tensor: Vec<u8>) -> Vec<u8> {
    [header(1, 0), tensor, vec![0; 256]].concat()
}

fn one_key(key: Vec<u8>) -> Vec<u8> {
    [header(0, 1), key, vec![0; 256]].concat()
}

#[test]
fn made_up_numbers_are_refused_and_named() {
    const HUGE: [u8; 8] = u64::MAX.to_le_bytes();
    let array = |kind: u32, n: [u8; 8]| entry("k", 9, &[kind.to_le_bytes().as_slice(), &n].concat());
    let deep: Vec<u8> =
        (0..5000).flat_map(|_| [9u32.to_le_bytes().as_slice(), &1u64.to_le_bytes()].concat()).collect();
    let two = [header(2, 0), described("t", &[1], 0, 0), described("t", &[1], 0, 0), vec![0; 64]].concat();
    let twice = [header(0, 2), entry("k", 7, &[1]), entry("k", 7, &[1]), vec![0; 64]].concat();
    let mut version_1 = header(0, 0);
    version_1[4] = 1;
    let mut big_endian = header(0, 0);
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (header(u64::MAX, 0), "at byte 8: number of tensors: expected at most 0"),
        (header(0, u64::MAX), "at byte 16: number of metadata keys: expected at most 0"),
        (version_1, "version: expected 2 or 3, found 1"),
        (big_endian, "expected a little-endian file, found a big-endian one"),
        (one_key([HUGE.as_slice(), &[0; 8]].concat()), "name of metadata key 0 of 1"),
        (one_key(entry("k", 8, &HUGE)), "metadata key \"k\": expected 18446744073709551615 bytes"),
        (
            one_key(entry("k", 13, &[])),
            "metadata key \"k\": expected a value type from 0 to 12, found number 13",
        ),
        (one_key(array(8, HUGE)), "metadata key \"k\": expected at most 32"),
        (one_key(array(12, HUGE)), "metadata key \"k\": expected at most 32"),
        (one_key(array(9, HUGE)), "metadata key \"k\": expected at most 21"),
        (one_key(entry("k", 9, &deep)), "metadata key \"k\": expected arrays at most 4 deep"),
        (one_key(entry("general.alignment", 4, &[0; 4])), "alignment\": expected a power of two, found 0"),
        (one_key(entry("general.alignment", 4, &[3, 0, 0, 0])), "expected a power of two, found 3"),
        (one_key(entry("general.alignment", 8, &string("x"))), "alignment\": expected an integer"),
        (twice, "metadata key \"k\": expected keys that differ"),
        (two, "tensor \"t\": expected names that differ"),
        (one_tensor(described("t", &[], 0, 0)), "tensor \"t\": expected 1 to 4 dimensions, found 0"),
        (one_tensor(described("t", &[1; 5], 0, 0)), "tensor \"t\": expected 1 to 4 dimensions, found 5"),
        (
            one_tensor(described("t", &[4, 0], 0, 0)),
            "tensor \"t\": expected a dimension of at least 1, found 0",
        ),
        (one_tensor(described("t", &[1 << 40; 4], 0, 0)), "a size that can be addressed"),
        (one_tensor(described("t", &[33], 2, 0)), "rows of whole 32-value blocks"),
        (one_tensor(described("t", &[1 << 50], 0, 0)), "tensor \"t\": expected its 4503599627370496 bytes"),
        (one_tensor(described("t", &[1], 0, u64::MAX - 31)), "from a position past any file on"),
        (one_tensor(described("t", &[1], 0, 1 << 40)), "tensor \"t\": expected its 4 bytes"),
        (
            one_tensor(described("t", &[1], 0, 8)),
            "tensor \"t\": expected an offset that is a multiple of 32, found 8",
        ),
        (one_tensor(described("t", &[256], 20, 0)), "tensor \"t\": expected a number format out of F32 F16"),
        (one_tensor(described("t", &[256], 20, 0)), "found IQ4_NL (number 20)"),
        (one_tensor(described("t", &[256], 99, 0)), "found number 99"),
        (b"PK\x03\x04".to_vec(), "found \"PK\\x03\\x04\" in a file of 4 bytes"),
        (Vec::new(), "found \"\" in a file of 0 bytes"),
    ];
    let dir = TempDir::new().unwrap();
    for (bytes, part) in cases {
        let message = open_bytes(&dir, &bytes).map(drop).unwrap_err();
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}

#[test]
fn every_integer_type_is_read_and_range_checked() {
    let dir = TempDir::new().unwrap();
    let integers: [(u32, &[u8]); 8] = [
        (0, &[200]),
        (1, &[100]),
        (2, &[1, 1]),
        (3, &[1, 1]),
        (4, &[1, 0, 0, 0]),
        (5, &[1, 0, 0, 0]),
        (10, &[1, 0, 0, 0, 0, 0, 0, 0]),
        (11, &[1, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for ((kind, value), expected) in integers.into_iter().zip([200, 100, 257, 257, 1, 1, 1, 1]) {
        let checkpoint = open_bytes(&dir, &one_key(entry("k", kind, value))).unwrap();
        assert_eq!(gguf(&checkpoint).u32("k").unwrap(), expected);
    }
    for (kind, value) in [(1, vec![0xff]), (11, vec![0xff; 8]), (10, vec![0xff; 8])] {
        let checkpoint = open_bytes(&dir, &one_key(entry("k", kind, &value))).unwrap();
        let message = gguf(&checkpoint).u32("k").unwrap_err().to_string();
        assert!(message.contains("expected an integer from 0 to 4294967295, found "), "{message}");
    }
    let checkpoint = open_bytes(&dir, &one_key(entry("k", 12, &0.25f64.to_le_bytes()))).unwrap();
    assert_eq!(gguf(&checkpoint).f32("k").unwrap(), 0.25);
    let checkpoint = open_bytes(&dir, &one_key(entry("k", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff]))).unwrap();
    assert!(gguf(&checkpoint).str("k").unwrap_err().to_string().contains("UTF-8"));
}

fn write_part(path: &Path, tensor: &str, count: u16) {
    let mut writer = Writer::new();
    writer.metadata("split.count", Value::U16(count));
    writer.metadata("general.name", Value::Str(tensor.to_owned()));
    writer.tensor(info(tensor, DType::F32, &[4]));
    writer.write(fs::File::create(path).unwrap(), pattern).unwrap();
}

#[test]
fn a_split_file_opens_by_any_part() {
    let dir = TempDir::new().unwrap();
    let part = |i: u32| dir.path().join(format!("m-{i:05}-of-00003.gguf"));
    for i in 1..=3 {
        write_part(&part(i), &format!("t{i}"), 3);
    }
    for i in 1..=3 {
        let checkpoint = Checkpoint::open(part(i)).unwrap();
        assert_eq!(checkpoint.tensor_names().collect::<Vec<_>>(), ["t1", "t2", "t3"]);
        assert_eq!(gguf(&checkpoint).str("general.name").unwrap(), "t1", "metadata of the first");
    }
    fs::copy(part(1), dir.path().join("other.gguf")).unwrap();
    let message = Checkpoint::open(dir.path().join("other.gguf")).unwrap_err().to_string();
    assert!(message.contains("NAME-0000i-of-0000n.gguf"), "{message}");
    write_part(&part(3), "t1", 3);
    assert!(Checkpoint::open(part(1)).unwrap_err().to_string().contains("00003-of-00003.gguf"));
    fs::remove_file(part(2)).unwrap();
    let message = Checkpoint::open(part(1)).unwrap_err().to_string();
    assert!(message.contains("m-00002-of-00003.gguf is missing"), "{message}");
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = TempDir::new().unwrap();
    assert!(Checkpoint::open(dir.path().join("none.gguf")).unwrap_err().to_string().contains("cannot open"));
    assert!(Checkpoint::open("/dev/zero").unwrap_err().to_string().contains("not a regular file"));
}

#[test]
fn the_writer_refuses_what_no_reader_takes() {
    let mut writer = Writer::new();
    writer.tensor(info("t", DType::Q4_0, &[2, 40]));
    assert!(matches!(writer.write(Vec::new(), pattern), Err(WriteError::Shape { .. })));
    let mut writer = Writer::new();
    writer.tensor(info("t", DType::F32, &[2]));
    let short = writer.write(Vec::new(), |_, out| out.write_all(&[0; 7]));
    assert!(matches!(short, Err(WriteError::Length { expected: 8, found: 7, .. })));
}
