//! Whatever bytes arrive, an error comes of them and never a panic: the body of a fuzz target in `fuzz/`, over bytes that
//! are any or nearly right.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod fuzz {
    pub(crate) mod frames;
    #[path = "../../../transport/tests/fuzz/mutate.rs"]
    pub(crate) mod mutate;
}
#[allow(dead_code)] // some samples serve another test
mod samples;

use fuzz::{frames, mutate::hostile};
use proptest::prelude::*;
use wire::{
    ToRank, encode, encode_step,
    handshake::{Hello, Party},
};

fn seeds() -> Vec<Vec<u8>> {
    vec![
        encode(&ToRank::Init(Box::new(samples::init()))).unwrap(),
        encode(&ToRank::Submit(samples::request())).unwrap(),
        encode(&Hello { party: Party::Node, nonce: [3; 32] }).unwrap(),
        encode_step(&samples::step()).unwrap(),
    ]
}

proptest! {
    #[test]
    fn frames_of_a_process(data in hostile(seeds())) {
        frames::run(&data);
    }
}
