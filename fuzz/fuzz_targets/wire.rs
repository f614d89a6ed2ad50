//! Frames between processes. The body is shared with the ordinary test `hostile` of its crate.
#![no_main]
#![allow(dead_code)] // seeds are for that test

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/wire/tests/fuzz/frames.rs"]
mod frames;

fuzz_target!(|data: &[u8]| frames::run(data));
