//! Our own binding of the verbs library, as far as one machine can try it: opens every device and asks its ports. The answers
//! lie in structures whose layout is assumed on a Mac; values that no port has show that it is another one. It sends nothing.

use anyhow::Result;
use serde_json::{Value, json};
use transport::verbs::{LinkLayer, PortReport, PortState, Verbs};

use super::outcome::Outcome;

/// Asks the ports of every device; one with a value that cannot be fails the part.
pub(super) fn ask() -> Result<Outcome> {
    let verbs = match Verbs::load() {
        Ok(verbs) => verbs,
        Err(why) => return Ok(Outcome::skipped(why.to_string())),
    };
    let (mut ports, mut wrong) = (Vec::new(), Vec::new());
    for device in verbs.probe() {
        match device.ports {
            Ok(of_device) => ports.extend(of_device),
            Err(why) => wrong.push(why.to_string()),
        }
    }
    wrong.extend(ports.iter().filter_map(implausible));
    let result = json!(ports.iter().map(port).collect::<Vec<_>>());
    Ok(match (ports.is_empty(), wrong.is_empty()) {
        (true, true) => Outcome::skipped("the verbs library is there and lists no device"),
        (false, true) => Outcome::passed(result),
        (_, false) => Outcome { result, ..Outcome::failed(wrong.join("\n")) },
    })
}

/// What a port says, without its addresses.
fn port(port: &PortReport) -> Value {
    json!({
        "device": port.device,
        "port": port.port,
        "state": port.state.to_string(),
        "link_layer": port.link_layer.to_string(),
        "mtu_bytes": port.mtu_bytes,
        "speed_gbps": port.speed_gbps,
        "n_gids": port.gids.len(),
        "ipv4_gid_index": port.ipv4().map(|(index, _)| index),
        "carries_links": port.check().err().map_or("yes".to_owned(), |why| why.to_string()),
    })
}

/// What cannot be, if anything is.
fn implausible(port: &PortReport) -> Option<String> {
    let (state, layer) = (port.state, port.link_layer);
    let is_active = state == PortState::Active; // what is not plugged in need not say how fast it is
    let checks = [
        (!matches!(state, PortState::Unknown(_)), "a known state"),
        (!matches!(layer, LinkLayer::Unknown(_)), "a known link layer"),
        (port.mtu_bytes.is_some() || !is_active, "an MTU from 256 to 4096 bytes"),
        (port.speed_gbps.is_some() || !is_active, "a known width and speed"),
    ];
    let (_, expected) = checks.into_iter().find(|(holds, _)| !holds)?;
    let PortReport { mtu_bytes, speed_gbps, .. } = port;
    let found = format!("{state}, {layer}, MTU {mtu_bytes:?}, {speed_gbps:?} Gb/s");
    Some(format!("{} port {}: expected {expected}, found {found}", port.device, port.port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_cannot_be_are_told() {
        let good = PortReport {
            device: "rdma_en2".into(),
            port: 1,
            state: PortState::Active,
            link_layer: LinkLayer::Thunderbolt,
            mtu_bytes: Some(4096),
            speed_gbps: Some(80.0),
            lid: 0,
            gids: vec![(0, [0xfe; 16])],
        };
        assert_eq!(implausible(&good), None);
        assert_eq!(port(&good)["n_gids"], 1, "an address is nobody's business");
        let down = PortReport { state: PortState::Down, mtu_bytes: None, speed_gbps: None, ..good.clone() };
        assert_eq!(implausible(&down), None);
        for bad in [
            PortReport { state: PortState::Unknown(4096), ..good.clone() },
            PortReport { link_layer: LinkLayer::Unknown(7), ..down },
            PortReport { mtu_bytes: None, ..good.clone() },
            PortReport { speed_gbps: None, ..good },
        ] {
            let why = implausible(&bad).unwrap();
            assert!(why.starts_with("rdma_en2 port 1: expected ") && why.contains(", found "), "{why}");
        }
    }
}
