//! The machine as macOS describes it through its `sysctl` command: a program of the system instead of Apple's
//! frameworks, so that ours links with the system library alone. What the answer means is in `sysctl`.

use std::process::{Command, Stdio};

use crate::{Machine, sysctl};

/// Where the system keeps the command, whatever the search path says.
const SYSCTL: &str = "/usr/sbin/sysctl";

pub(crate) fn probe() -> Machine {
    // A name that a version of the system does not know ends the answer early; what came before it counts.
    let answer = Command::new(SYSCTL).args(sysctl::NAMES).stdin(Stdio::null()).stderr(Stdio::null()).output();
    sysctl::machine(
        &answer.map(|answer| String::from_utf8_lossy(&answer.stdout).into_owned()).unwrap_or_default(),
    )
}
