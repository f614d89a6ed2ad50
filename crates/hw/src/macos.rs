//! The machine as macOS describes it through its `sysctl` command: a program of the system instead of Apple's
//! frameworks, so that ours links with the system library alone. What the answer means is in `tools::sysctl`.

use crate::{Machine, facts::child, tools::sysctl};

pub(crate) fn probe() -> Machine {
    // A name that a version of the system does not know ends the answer early; what came before it counts.
    let answer = child::output(sysctl::PROGRAM, &sysctl::NAMES).unwrap_or_default();
    sysctl::machine(&String::from_utf8_lossy(&answer))
}
