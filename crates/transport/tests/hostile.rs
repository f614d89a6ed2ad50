//! Whatever bytes arrive, an error comes of them, soon, and never a panic: the bodies of the fuzz targets in `fuzz/`, over
//! bytes that are any or nearly right.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod fuzz {
    pub(crate) mod framed;
    pub(crate) mod handover;
    pub(crate) mod mutate;
    pub(crate) mod tape;
    pub(crate) mod verbs;
}

use fuzz::{framed, handover, mutate::hostile, verbs};
use proptest::prelude::*;

#[test]
fn what_is_right_is_taken_as_it_is() {
    framed::seeds().iter().for_each(|seed| framed::run(seed));
    handover::seeds().iter().for_each(|seed| handover::run(seed));
    verbs::seeds().iter().for_each(|seed| verbs::run(seed));
}

proptest! {
    #[test]
    fn messages_of_a_stream(data in hostile(framed::seeds())) {
        framed::run(&data);
    }

    #[test]
    fn offers_of_shared_memory(data in hostile(handover::seeds())) {
        handover::run(&data);
    }

    #[test]
    fn packets_of_a_device(data in hostile(verbs::seeds())) {
        verbs::run(&data);
    }
}
