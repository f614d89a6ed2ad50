//! Findings of a Linux machine: how its processors and memory are set, and its wires.

use crate::{
    facts::Linux,
    sysfs::{HugePages, Interface},
};

use super::{Finding, Severity, wireless_only};

/// The governor that leaves processors at their speed.
const PERFORMANCE: &str = "performance";
/// Slower wires than this hold a cluster up, in Mb/s.
const FAST_WIRE_MBIT_S: u32 = 10_000;

pub(super) fn diagnose(linux: &Linux, findings: &mut Vec<Finding>) {
    let slow: Vec<&str> = linux.governors.iter().map(String::as_str).filter(|g| *g != PERFORMANCE).collect();
    if !slow.is_empty() {
        findings.push(Finding {
            id: "governor",
            severity: Severity::Slow,
            what: format!("processors choose their own speed (governor {})", slow.join(", ")),
            cost: "they slow down while a rank waits for the others, and take milliseconds to be fast again".to_owned(),
            remedy: "until the next restart: echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
                .to_owned(),
        });
    }
    if linux.huge_pages == Some(HugePages::Never) {
        findings.push(Finding {
            id: "huge-pages-off",
            severity: Severity::Slow,
            what: "memory comes in pages of 4 KiB only".to_owned(),
            cost: "reading weights misses the processor's table of pages again and again".to_owned(),
            remedy:
                "until the next restart: echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
                    .to_owned(),
        });
    }
    instructions(linux, findings);
    wires(&linux.interfaces, findings);
    rdma(linux, findings);
}

fn instructions(linux: &Linux, findings: &mut Vec<Finding>) {
    let features = &linux.features;
    let is_x86 = features.has("sse2");
    if is_x86 && !(features.has("avx512f") && features.has("avx512_vnni")) {
        let widest = if features.has("avx2") { "AVX2" } else { "neither AVX-512 nor AVX2" };
        findings.push(Finding {
            id: "no-avx512",
            severity: Severity::Note,
            what: format!("the processor has {widest}, not AVX-512 with VNNI"),
            cost:
                "prefill is slower than on processors that have it; decode is bound by memory and hardly so"
                    .to_owned(),
            remedy:
                "nothing mends it; in a virtual machine, let it have its host's processor (such as -cpu host)"
                    .to_owned(),
        });
    }
    if features.has("amx_int8") || features.has("amx_bf16") {
        findings.push(Finding {
            id: "amx-unused",
            severity: Severity::Note,
            what: "the processor has matrix units (AMX) that onefold does not use".to_owned(),
            cost: "prefill could be faster than it is".to_owned(),
            remedy: "nothing to do".to_owned(),
        });
    }
}

/// The wires in use: hardware with something at the other end.
fn wires(interfaces: &[Interface], findings: &mut Vec<Finding>) {
    let in_use = || interfaces.iter().filter(|i| i.is_physical && i.has_carrier == Some(true));
    let wired = || in_use().filter(|interface| !interface.is_wireless);
    if wired().next().is_none() {
        if in_use().next().is_some() {
            findings.push(wireless_only());
        }
        return;
    }
    // a wire whose speed is not known may be fast
    let fastest =
        wired().map(|interface| interface.speed_mbit_s).try_fold(0, |most, speed| Some(speed?.max(most)));
    if let Some(fastest) = fastest.filter(|fastest| *fastest < FAST_WIRE_MBIT_S) {
        findings.push(Finding {
            id: "slow-wire",
            severity: Severity::Note,
            what: format!("the fastest wire in use has {fastest} Mb/s"),
            cost: "prefill of long prompts over several machines waits for it; so does fetching models".to_owned(),
            remedy: "10 Gb/s Ethernet or faster between the machines, or a cable that negotiates what both ends can".to_owned(),
        });
    }
}

fn rdma(linux: &Linux, findings: &mut Vec<Finding>) {
    for device in &linux.infiniband {
        for port in device.ports.iter().filter(|port| !port.is_active) {
            let remedy = match &port.interface {
                Some(interface) => {
                    format!("sudo ip link set {interface} up; if it stays down, look at its cable")
                }
                None => "look at its cable, and at its state: rdma link".to_owned(),
            };
            findings.push(Finding {
                id: "rdma-port-down",
                severity: Severity::Note,
                what: format!("port {} of the RDMA device {} is down", port.number, device.name),
                cost: "links to machines behind it use TCP".to_owned(),
                remedy,
            });
        }
    }
}
