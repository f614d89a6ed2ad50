//! Messages between ranks. The body is shared with the ordinary test `hostile` of its crate.
#![no_main]
#![allow(dead_code)] // seeds are for that test

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/collective/tests/fuzz/messages.rs"]
mod messages;

fuzz_target!(|data: &[u8]| messages::run(data));
