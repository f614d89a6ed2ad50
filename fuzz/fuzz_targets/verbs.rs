//! Packets of a verbs device. The body is shared with the ordinary test `hostile` of its crate.
#![no_main]
#![allow(dead_code)] // seeds are for that test

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/transport/tests/fuzz/verbs.rs"]
mod verbs;

fuzz_target!(|data: &[u8]| verbs::run(data));
