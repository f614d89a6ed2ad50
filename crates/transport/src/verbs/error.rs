//! What can go wrong before a verbs link stands: the library, the devices, the agreement with the peer.

use std::{io, net::IpAddr, time::Duration};

use super::Limits;

/// Why there is no verbs link.
#[derive(Debug, thiserror::Error)]
pub enum VerbsError {
    /// The system's library cannot be opened or lacks a function.
    #[error(
        "cannot use the verbs library {name}: {source}\n\
         hint: macOS has it from 26.2 on, Debian in the packages libibverbs1 and ibverbs-providers"
    )]
    Library {
        /// Its file name.
        name: &'static str,
        /// The loader's words.
        source: libloading::Error,
    },
    /// There is no device of that name.
    #[error(
        "expected an RDMA device {expected}, found {}{}", listed(.found),
        "\nhint: on a Mac `rdma_ctl status` must say enabled; `rdma_ctl enable` works in recovery only"
    )]
    NoDevice {
        /// The name asked for.
        expected: String,
        /// The devices there are.
        found: Vec<String>,
    },
    /// No device's port has the address from which a stream leaves.
    #[error("expected an RDMA device with the address {address}, found {}", elsewhere(.found))]
    NoDeviceAt {
        /// The stream's address on this machine.
        address: IpAddr,
        /// The devices there are.
        found: Vec<String>,
    },
    /// The library's structures are not as this program was told.
    #[error(
        "{device}: expected {expected}, found {found}\nhint: this version of the verbs library is not known yet"
    )]
    Layout {
        /// The device.
        device: String,
        /// What must be there.
        expected: &'static str,
        /// What is.
        found: String,
    },
    /// Setting up failed again and again, at either end.
    #[error("gave up after {n_attempts} attempts: {last}")]
    GaveUp {
        /// Attempts that were made.
        n_attempts: u32,
        /// Why the last one failed.
        last: Box<VerbsError>,
    },
    /// The library refused a call.
    #[error("{device}: {call} failed: {source}{}", call_hint(.source))]
    Call {
        /// The device.
        device: String,
        /// The function of the library.
        call: &'static str,
        /// The system's words.
        source: io::Error,
    },
    /// The port cannot carry a link.
    #[error("{device} port {port}: expected {expected}, found {found}\nhint: {hint}")]
    Port {
        /// The device.
        device: String,
        /// The port's number.
        port: u8,
        /// What a link needs.
        expected: &'static str,
        /// What there is.
        found: String,
        /// What a person can do.
        hint: &'static str,
    },
    /// The device has as many links as it bears.
    #[error("{device} has {limit} links, which is the limit")]
    Full {
        /// The device.
        device: String,
        /// Links of a device.
        limit: usize,
    },
    /// Limits that no queue pair can keep.
    #[error(
        "expected at least {min_receives} receives, a send and at most {max_requests} of both, found {found:?}"
    )]
    Limits {
        /// Receives, at least.
        min_receives: u32,
        /// Sends and receives, at most.
        max_requests: u32,
        /// The limits.
        found: Limits,
    },
    /// The peer has no verbs link either, for a reason of its own.
    #[error("{peer} cannot use verbs: {reason}")]
    Refused {
        /// The other end.
        peer: String,
        /// Its words.
        reason: String,
    },
    /// Both ends are ready, and nothing arrives.
    #[error(
        "{peer}: nothing arrived on {device} within {} ms\nhint: the two ends of one cable must be named at both ends, \
         and the Thunderbolt bridge must be off", .timeout.as_millis()
    )]
    Silent {
        /// The other end.
        peer: String,
        /// Our device.
        device: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The agreement broke off: this stream is of no more use, for TCP neither.
    #[error("{peer}: agreeing on a verbs link failed: {source}")]
    Control {
        /// The other end.
        peer: String,
        /// The system's words.
        source: io::Error,
    },
    /// The peer speaks another language: this stream is of no more use, for TCP neither.
    #[error("{peer}: agreeing on a verbs link failed: expected {expected}, found {found}")]
    Protocol {
        /// The other end.
        peer: String,
        /// What was due.
        expected: &'static str,
        /// What came.
        found: String,
    },
}

/// What helps, for what is known to go wrong on Thunderbolt; the numbers are macOS's.
fn call_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(60) if cfg!(target_os = "macos") => {
            "\nhint: the peer's address is not reachable over this cable"
        }
        Some(96) if cfg!(target_os = "macos") => {
            "\nhint: the port went stale; pull the cable and plug it in again"
        }
        Some(12) => {
            "\nhint: locked memory may be limited (`ulimit -l`), or the device still holds what dead processes had"
        }
        _ => "",
    }
}

fn elsewhere(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { format!("{} with others", names.join(", ")) }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
