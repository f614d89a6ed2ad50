//! Whatever messages arrive, an error comes of them, soon, and never a panic: the body of a fuzz target in `fuzz/`, over
//! bytes that are any or nearly right.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod fuzz {
    pub(crate) mod messages;
    #[path = "../../../transport/tests/fuzz/mutate.rs"]
    pub(crate) mod mutate;
}

use fuzz::{messages, mutate::hostile};
use proptest::prelude::*;

#[test]
fn what_is_right_is_taken_as_it_is() {
    messages::seeds().iter().for_each(|seed| messages::run(seed));
}

proptest! {
    #[test]
    fn messages_of_a_rank(data in hostile(messages::seeds())) {
        messages::run(&data);
    }
}
