//! Messages of a stream. The body is shared with the ordinary test `hostile` of its crate.
#![no_main]
#![allow(dead_code)] // seeds are for that test

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/transport/tests/fuzz/framed.rs"]
mod framed;
#[path = "../../crates/transport/tests/fuzz/tape.rs"]
mod tape;

fuzz_target!(|data: &[u8]| framed::run(data));
