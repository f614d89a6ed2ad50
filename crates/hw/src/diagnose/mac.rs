//! Findings of a Mac: its settings, and its ports as it sees them alone. What only the Mac at the other end can tell is in
//! `pairs`.

use base::Bytes;

use crate::{
    catalogue::{Catalogue, mac_gpu_memory},
    facts::Mac,
    tools::thunderbolt::{Port, Reached},
};

use super::{Finding, Severity, has_tb5, thunderbolt_of, wireless_only};

/// What RDMA is worth.
const WITHOUT_RDMA: &str = "machines exchange over IP: about 300 us for each sum inside a layer instead of about 20, so tensor \
     parallel over two Macs is slower than one Mac alone";
/// What the rest of the system needs beside a GPU that takes all it can.
const SYSTEM_MEMORY: Bytes = Bytes(8 << 30);
/// Macs with less than this have nothing to give.
const LEAST_MEMORY_FOR_LIMIT: Bytes = Bytes(32 << 30);

/// The GPU's part of all memory.
pub(super) fn wired_limit(mac: &Mac, memory: Bytes, findings: &mut Vec<Finding>) {
    let most = Bytes(memory.0.saturating_sub(SYSTEM_MEMORY.0));
    let megabytes = most.0 >> 20;
    let limit = mac.settings.wired_limit;
    if limit.is_some_and(|limit| limit > most) {
        findings.push(Finding {
            id: "gpu-limit-high",
            severity: Severity::Slow,
            what: format!("the GPU may take {} of {memory}", limit.unwrap_or(memory)),
            cost:
                "the rest of the system may be left without memory, and a Mac without memory stops answering"
                    .to_owned(),
            remedy: format!("sudo sysctl iogpu.wired_limit_mb={megabytes}"),
        });
    }
    let may_use = limit.unwrap_or_else(|| mac_gpu_memory(memory));
    if limit.is_none() && memory >= LEAST_MEMORY_FOR_LIMIT && may_use < most {
        findings.push(Finding {
            id: "gpu-limit-default",
            severity: Severity::Note,
            what: format!("the GPU may take about {may_use} of {memory}, the system's own choice"),
            cost: format!("{} more would hold larger models or longer contexts", Bytes(most.0 - may_use.0)),
            remedy: format!("until the next restart: sudo sysctl iogpu.wired_limit_mb={megabytes}"),
        });
    }
}

/// Ports, cables and RDMA.
pub(super) fn ports(mac: &Mac, catalogue: &Catalogue, findings: &mut Vec<Finding>) {
    let model = mac.settings.model.as_deref();
    let ports = mac.ports.as_deref().unwrap_or_default();
    // an unknown model with a fast cable in it has Thunderbolt 5 too
    let is_tb5 = has_tb5(catalogue, model).or(ports.iter().any(Port::is_fast).then_some(true));
    if is_tb5 == Some(true) {
        rdma_switch(mac, findings);
    }
    let is_alone = mac.ports.is_some() && ports.iter().all(|port| port.macs().is_empty());
    if is_alone {
        findings.push(Finding {
            id: "no-cable",
            severity: Severity::Note,
            what: "no Thunderbolt cable leads from this Mac to another".to_owned(),
            cost: "it takes part over the network only, at the network's speed".to_owned(),
            remedy: "connect each pair of Macs with a cable of its own, port to port".to_owned(),
        });
    }
    for port in ports {
        for reached in port.macs() {
            cable(mac, port, reached, is_tb5, catalogue, findings);
        }
    }
}

/// Which of its interfaces are in use.
pub(super) fn network(mac: &Mac, findings: &mut Vec<Finding>) {
    let (Some(interfaces), Some(ports)) = (&mac.interfaces, &mac.hardware_ports) else { return };
    let is_radio = |name: &str| ports.iter().any(|port| port.device == name && port.name == "Wi-Fi");
    let is_hardware = |name: &str| ports.iter().any(|port| port.device == name);
    let in_use = || interfaces.iter().filter(|i| i.is_active == Some(true) && is_hardware(&i.name));
    if in_use().next().is_some() && in_use().all(|interface| is_radio(&interface.name)) {
        findings.push(wireless_only());
    }
}

fn rdma_switch(mac: &Mac, findings: &mut Vec<Finding>) {
    let (what, remedy) = match mac.is_rdma_enabled {
        Some(true) => return,
        Some(false) => (
            "RDMA over Thunderbolt is switched off",
            "shut down, start into recovery (hold the power button), open Utilities > Terminal, run: rdma_ctl enable, \
             then restart",
        ),
        None => (
            "whether RDMA over Thunderbolt is switched on is not known: rdma_ctl did not answer",
            "macOS 26.2 or later has it. See what there is: softwareupdate --list",
        ),
    };
    findings.push(Finding {
        id: "rdma-off",
        severity: Severity::Slow,
        what: what.to_owned(),
        cost: WITHOUT_RDMA.to_owned(),
        remedy: remedy.to_owned(),
    });
}

/// What is wrong with the way to one other Mac.
fn cable(
    mac: &Mac,
    port: &Port,
    reached: Reached<'_>,
    is_tb5: Option<bool>,
    catalogue: &Catalogue,
    findings: &mut Vec<Finding>,
) {
    let (here, peer) = (port_name(port), &reached.mac.name);
    if let Some(hub) = reached.through {
        findings.push(Finding {
            id: "hub-between",
            severity: Severity::Slow,
            what: format!("{} is between {here} and {peer}", hub.name),
            cost: format!("at most 10 Gb/s and no RDMA: {WITHOUT_RDMA}"),
            remedy: format!("lead a Thunderbolt 5 cable from {here} directly to {peer}"),
        });
        return;
    }
    if !port.is_fast() {
        let is_peer_tb5 = has_tb5(catalogue, reached.mac.model.as_deref());
        findings.push(slow_cable(port, peer, is_tb5, is_peer_tb5));
        return;
    }
    bridge(mac, port, findings);
    if mac.is_rdma_enabled == Some(true) {
        device(mac, port, peer, catalogue, findings);
    }
}

fn slow_cable(port: &Port, peer: &str, is_tb5: Option<bool>, is_peer_tb5: Option<bool>) -> Finding {
    let here = port_name(port);
    let speed = port.negotiated_gbit_s.map_or("an unknown speed".to_owned(), |speed| format!("{speed} Gb/s"));
    let cost = format!("IP only, no RDMA: {WITHOUT_RDMA}");
    let older = match (is_tb5, is_peer_tb5) {
        (Some(false), _) => Some("this Mac"),
        (_, Some(false)) => Some(peer),
        _ => None,
    };
    match older {
        Some(older) => Finding {
            id: "tb4-port",
            severity: Severity::Note,
            what: format!("{here} and {peer} are linked at {speed}, for {older} has no Thunderbolt 5"),
            cost,
            remedy: format!(
                "nothing mends it: let {older} be a stage of its own (pipeline parallel), which exchanges little"
            ),
        },
        None => Finding {
            id: "slow-cable",
            severity: Severity::Slow,
            what: format!("{here} and {peer} are linked at {speed}, where Thunderbolt 5 has 80"),
            cost,
            remedy: "take a cable that is marked with Thunderbolt and 5, or 80 Gb/s; plug both ends in again"
                .to_owned(),
        },
    }
}

/// Whether the port belongs to a bridge, which RDMA does not bear.
fn bridge(mac: &Mac, port: &Port, findings: &mut Vec<Finding>) {
    let Some(interface) = mac.interface_of(port) else { return };
    let interfaces = mac.interfaces.as_deref().unwrap_or_default();
    let is_off =
        |name: &str| mac.services.iter().flatten().any(|service| service.name == name && !service.is_enabled);
    let has_port = |members: &[String]| members.iter().any(|member| member == interface);
    let Some(bridge) = interfaces.iter().find(|bridge| bridge.is_up && has_port(&bridge.members)) else {
        return;
    };
    let ports = mac.hardware_ports.iter().flatten();
    let service = ports.clone().find(|port| port.device == bridge.name).map(|port| port.name.as_str());
    let service = service.unwrap_or("Thunderbolt Bridge");
    let is_known = findings.iter().any(|finding| finding.id == "bridge-on");
    if is_off(service) || is_known {
        return;
    }
    findings.push(Finding {
        id: "bridge-on",
        severity: Severity::Broken,
        what: format!("{} belongs to the {service}", port_name(port)),
        cost: "RDMA does not work on its ports, and a ring of cables makes the bridge pass packets round and round".to_owned(),
        remedy: format!("sudo networksetup -setnetworkserviceenabled {service:?} off"),
    });
}

/// Whether the port's RDMA device works, now that a fast cable is in it and RDMA is on.
fn device(mac: &Mac, port: &Port, peer: &str, catalogue: &Catalogue, findings: &mut Vec<Finding>) {
    let (Some(devices), Some(interface)) = (&mac.devices, mac.interface_of(port)) else { return };
    let (name, here) = (format!("rdma_{interface}"), port_name(port));
    let device = devices.iter().find(|device| device.name == name);
    let ports = thunderbolt_of(catalogue, mac.settings.model.as_deref());
    let has_poor_port = ports.is_some_and(|ports| ports.n_rdma_ports < ports.n_ports);
    let active = device.filter(|device| device.is_active());
    let Some(active) = active else {
        let state = if device.is_some() { "is down" } else { "is missing" };
        let move_it = "one port of this model, the one beside Ethernet, carries no RDMA: move the cable to another port";
        findings.push(Finding {
            id: if has_poor_port && device.is_none() { "port-without-rdma" } else { "port-wedged" },
            severity: Severity::Broken,
            what: format!("{here} has a cable to {peer}, and its device {name} {state}"),
            cost: WITHOUT_RDMA.to_owned(),
            remedy: match (has_poor_port, device) {
                (true, None) => move_it.to_owned(),
                (true, Some(_)) => {
                    format!("{move_it}; if it is down there too, restart this Mac: sudo shutdown -r now")
                }
                (false, _) => "restart this Mac: sudo shutdown -r now".to_owned(),
            },
        });
        return;
    };
    // without -v nothing is known of addresses
    let gids: Vec<_> = active.ports.iter().filter(|port| !port.gids.is_empty()).collect();
    if !gids.is_empty() && gids.iter().all(|port| port.ipv4_gid().is_none()) {
        let service = &here;
        findings.push(Finding {
            id: "no-address",
            severity: Severity::Broken,
            what: format!("{here} ({interface}) has no IPv4 address"),
            cost: format!("RDMA needs one, of any kind: {WITHOUT_RDMA}"),
            remedy: format!(
                "sudo networksetup -createnetworkservice {service:?} {interface}; sudo networksetup -setdhcp {service:?}"
            ),
        });
    }
}

/// As `networksetup` calls it.
pub(super) fn port_name(port: &Port) -> String {
    port.number.map_or_else(|| "a Thunderbolt port".to_owned(), |number| format!("Thunderbolt {number}"))
}
