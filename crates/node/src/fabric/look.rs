//! This machine's interfaces in the form that the rules read, from what `hw` found out on either system. Judges nothing.

use std::{io, net::IpAddr};

use hw::{
    facts::{Facts, Linux, Mac, System},
    sysfs,
    tools::networksetup::HardwarePort,
};

use super::rules::{
    Interface, InterfaceKind, InterfaceState, LinkFacts, RdmaPort, RdmaState, ThunderboltPort,
};

/// Looks at all interfaces, those that are switched off too. Takes up to some seconds, for a Mac's tools are slow.
pub fn look() -> io::Result<LinkFacts> {
    let mut facts = match Facts::look().system {
        System::Mac(mac) => of_mac(&mac),
        System::Linux(linux) => of_linux(&linux),
    };
    for address in if_addrs::get_if_addrs()? {
        facts.add(&address.name, address.ip());
    }
    Ok(facts)
}

impl LinkFacts {
    /// The interface that has an address.
    pub(super) fn with_address(&self, address: IpAddr) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.addresses.contains(&address))
    }

    /// Notes an address; an interface that was not known before has no hardware.
    fn add(&mut self, name: &str, address: IpAddr) {
        let known = self.interfaces.iter().position(|known| known.name == name);
        let at = known.unwrap_or_else(|| {
            let kind = if address.is_loopback() { InterfaceKind::Loopback } else { InterfaceKind::Virtual };
            self.interfaces.push(interface(name, kind, InterfaceState::Up));
            self.interfaces.len() - 1
        });
        let addresses = &mut self.interfaces[at].addresses;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
}

fn of_linux(linux: &Linux) -> LinkFacts {
    let ports = || linux.infiniband.iter().filter_map(|device| Some((device, device.ports.first()?)));
    let rdma_beside = |name: &str| {
        let (device, port) = ports().find(|(_, port)| port.interface.as_deref() == Some(name))?;
        let (device, is_active) = (device.name.clone(), port.is_active);
        Some(RdmaPort { device, is_active, speed_gbps: port.rate_gbit_s })
    };
    let one = |found: &sysfs::Interface| {
        let state = match found.has_carrier {
            Some(true) => InterfaceState::Up,
            Some(false) => InterfaceState::NoCarrier,
            // only one that is switched on says so
            None => InterfaceState::Off,
        };
        let kind = linux_kind(found);
        // the driver knows no more than whether another machine is there
        let thunderbolt = (kind == InterfaceKind::Thunderbolt).then(|| ThunderboltPort {
            ceiling_gbps: None,
            agreed_gbps: None,
            is_behind_hub: false,
            is_machine: state == InterfaceState::Up,
        });
        Interface {
            speed_mbps: found.speed_mbit_s.map(u64::from),
            bridge: found.member_of.clone(),
            thunderbolt,
            rdma: rdma_beside(&found.name),
            ..interface(&found.name, kind, state)
        }
    };
    let rdma = if ports().next().is_some() { RdmaState::On } else { RdmaState::Absent };
    LinkFacts { interfaces: linux.interfaces.iter().map(one).collect(), rdma }
}

fn linux_kind(found: &sysfs::Interface) -> InterfaceKind {
    match found {
        _ if found.is_wireless => InterfaceKind::WiFi,
        _ if found.is_bridge => InterfaceKind::Bridge,
        _ if found.is_thunderbolt() => InterfaceKind::Thunderbolt,
        _ if found.is_physical => InterfaceKind::Ethernet,
        _ => InterfaceKind::Virtual,
    }
}

fn of_mac(mac: &Mac) -> LinkFacts {
    let ports = mac.hardware_ports.iter().flatten();
    let rdma = match mac.is_rdma_enabled {
        Some(true) => RdmaState::On,
        Some(false) => RdmaState::Off,
        None => RdmaState::Absent,
    };
    LinkFacts { interfaces: ports.map(|port| mac_interface(mac, port)).collect(), rdma }
}

fn mac_interface(mac: &Mac, hardware: &HardwarePort) -> Interface {
    let name = &hardware.device;
    let configured = mac.interfaces.iter().flatten().find(|interface| interface.name == *name);
    let number = hardware.thunderbolt_number();
    let port = mac.ports.iter().flatten().find(|port| port.number.is_some() && port.number == number);
    let thunderbolt = port.map(|port| {
        let macs = port.macs();
        ThunderboltPort {
            ceiling_gbps: port.ceiling_gbit_s.map(f64::from),
            agreed_gbps: port.negotiated_gbit_s.map(f64::from),
            is_behind_hub: !macs.is_empty() && macs.iter().all(|reached| reached.through.is_some()),
            is_machine: !macs.is_empty(),
        }
    });
    let state = match (configured, port) {
        (Some(configured), _) if !configured.is_up => InterfaceState::Off,
        (_, Some(port)) if port.is_connected => InterfaceState::Up,
        (_, Some(_)) => InterfaceState::NoCarrier,
        (Some(configured), None) => match configured.is_active {
            Some(true) => InterfaceState::Up,
            Some(false) => InterfaceState::NoCarrier,
            None => InterfaceState::Unknown,
        },
        (None, None) => InterfaceState::Unknown,
    };
    let bridge = mac.interfaces.iter().flatten().find(|bridge| bridge.members.contains(name));
    let device = mac.devices.iter().flatten().find(|device| device.name == format!("rdma_{name}"));
    Interface {
        addresses: configured.iter().flat_map(|found| &found.ipv4).map(|ip| IpAddr::V4(*ip)).collect(),
        bridge: bridge.map(|bridge| bridge.name.clone()),
        thunderbolt,
        rdma: device.map(|device| RdmaPort {
            device: device.name.clone(),
            is_active: device.is_active(),
            speed_gbps: device
                .ports
                .first()
                .and_then(|port| Some(f64::from(port.n_lanes?) * port.lane_gbit_s?)),
        }),
        ..interface(name, mac_kind(hardware), state)
    }
}

fn mac_kind(hardware: &HardwarePort) -> InterfaceKind {
    match hardware.name.as_str() {
        "Wi-Fi" => InterfaceKind::WiFi,
        "Thunderbolt Bridge" => InterfaceKind::Bridge,
        _ if hardware.thunderbolt_number().is_some() => InterfaceKind::Thunderbolt,
        name if name.contains("Ethernet") || name.contains("LAN") => InterfaceKind::Ethernet,
        _ => InterfaceKind::Other,
    }
}

fn interface(name: &str, kind: InterfaceKind, state: InterfaceState) -> Interface {
    Interface {
        name: name.to_owned(),
        kind,
        state,
        speed_mbps: None,
        addresses: Vec::new(),
        bridge: None,
        thunderbolt: None,
        rdma: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::rules::judge;

    fn plain(name: &str) -> sysfs::Interface {
        sysfs::Interface {
            name: name.to_owned(),
            speed_mbit_s: None,
            has_carrier: Some(true),
            is_physical: true,
            is_wireless: false,
            is_bridge: false,
            member_of: None,
            driver: None,
        }
    }

    #[test]
    fn a_linux_machine_is_read() {
        let linux = Linux {
            interfaces: vec![
                sysfs::Interface {
                    speed_mbit_s: Some(2500),
                    member_of: Some("br0".to_owned()),
                    ..plain("eth0")
                },
                sysfs::Interface { is_wireless: true, has_carrier: Some(false), ..plain("wlan0") },
                sysfs::Interface { driver: Some("thunderbolt-net".to_owned()), ..plain("thunderbolt0") },
                sysfs::Interface { is_bridge: true, is_physical: false, ..plain("br0") },
                sysfs::Interface { is_physical: false, has_carrier: None, ..plain("veth1") },
            ],
            infiniband: vec![sysfs::InfinibandDevice {
                name: "mlx5_0".to_owned(),
                ports: vec![sysfs::InfinibandPort {
                    number: 1,
                    is_active: true,
                    link_layer: Some("Ethernet".to_owned()),
                    rate_gbit_s: Some(2.5),
                    interface: Some("eth0".to_owned()),
                }],
            }],
            ..Linux::default()
        };
        let facts = of_linux(&linux);
        let kinds: Vec<_> = facts.interfaces.iter().map(|found| (found.kind, found.state)).collect();
        use InterfaceKind::{Bridge, Ethernet, Thunderbolt, Virtual, WiFi};
        use InterfaceState::{NoCarrier, Off, Up};
        assert_eq!(
            kinds,
            [(Ethernet, Up), (WiFi, NoCarrier), (Thunderbolt, Up), (Bridge, Up), (Virtual, Off)]
        );
        let eth0 = &facts.interfaces[0];
        assert_eq!((eth0.speed_mbps, eth0.bridge.as_deref()), (Some(2500), Some("br0")));
        assert_eq!(eth0.rdma.as_ref().map(|port| port.device.as_str()), Some("mlx5_0"));
        assert_eq!((facts.rdma, of_linux(&Linux::default()).rdma), (RdmaState::On, RdmaState::Absent));
    }

    /// A Mac with something else in each of its ports.
    #[test]
    fn a_mac_is_read_and_judged() {
        let ask = |program: &str, args: &[&str]| {
            let text = match (program.rsplit('/').next(), args.first()) {
                (Some("system_profiler"), _) => {
                    include_str!("../../../hw/fixtures/thunderbolt-studio-1.json")
                }
                (Some("networksetup"), Some(&"-listallhardwareports")) => {
                    include_str!("../../../hw/fixtures/hardware-ports.txt")
                }
                (Some("ifconfig"), _) => include_str!("../../../hw/fixtures/ifconfig.txt"),
                (Some("rdma_ctl"), _) => "enabled\n",
                (Some("ibv_devinfo"), _) => include_str!("../../../hw/fixtures/ibv_devinfo-v.txt"),
                _ => return Err(format!("{program}: no such program")),
            };
            Ok(text.as_bytes().to_vec())
        };
        let System::Mac(mac) = Facts::of_mac(hw::Machine::probe(), &ask).system else { panic!("no Mac") };
        let judged = |mac: &Mac| {
            let reports = judge(&of_mac(mac)).into_iter();
            let first = |findings: &[crate::fabric::Finding]| {
                findings.first().map(|found| found.limit.clone()).unwrap_or_default()
            };
            reports.map(|report| (report.name, report.has_rdma, first(&report.findings))).collect::<Vec<_>>()
        };
        let expected = [
            ("en0", false, ""),
            ("en1", false, "Wi-Fi"),
            ("en2", false, "is a member of bridge0"),
            ("en3", true, ""),
            ("en4", false, "behind a dock or hub"),
            ("en5", false, "no machine at the other end"),
            ("en6", false, "what is plugged in is no machine"),
            ("en7", false, "agreed on 40 Gb/s only"),
            ("bridge0", false, "has no address"),
        ];
        let found = judged(&mac);
        for ((name, has_rdma, limit), (found, found_rdma, found_limit)) in expected.iter().zip(&found) {
            assert_eq!((name, has_rdma), (&found.as_str(), found_rdma), "{found_limit}");
            assert!(
                found_limit.starts_with(limit) && limit.is_empty() == found_limit.is_empty(),
                "{name}: {found_limit}"
            );
        }
        let off = Mac { is_rdma_enabled: Some(false), devices: None, ..mac };
        assert!(judged(&off)[3].2.contains("RDMA is off"), "{:?}", judged(&off));
    }

    #[test]
    fn this_machine_has_itself() {
        let facts = look().unwrap();
        let loopback = facts.with_address(IpAddr::from([127, 0, 0, 1])).unwrap();
        assert_eq!(loopback.kind, InterfaceKind::Loopback);
    }
}
