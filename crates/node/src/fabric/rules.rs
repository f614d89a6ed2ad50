//! From what is known of this machine's interfaces to what people should know of them: what kind of link each is, what limits
//! it, and what would help. A pure function of facts; finds nothing out itself and changes nothing.

use std::{iter, net::IpAddr};

/// Above this a Thunderbolt port carries RDMA, in Gb/s; the slower ones are of version 4 or older.
const RDMA_ABOVE_GBPS: f64 = 40.0;

/// All that the rules look at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkFacts {
    /// The network interfaces, in the system's order.
    pub interfaces: Vec<Interface>,
    /// Whether there is RDMA at all.
    pub rdma: RdmaState,
}

/// Whether the system offers RDMA.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RdmaState {
    /// It does.
    On,
    /// It could, and is told not to.
    Off,
    /// It does not, or nobody knows.
    #[default]
    Absent,
}

/// One network interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// As the system calls it.
    pub name: String,
    /// What its bits travel over.
    pub kind: InterfaceKind,
    /// Whether anything can travel now.
    pub state: InterfaceState,
    /// The speed that was agreed with the other end of the cable, in Mb/s.
    pub speed_mbps: Option<u64>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The bridge that it is a member of.
    pub bridge: Option<String>,
    /// The Thunderbolt port behind it.
    pub thunderbolt: Option<ThunderboltPort>,
    /// The RDMA device beside it.
    pub rdma: Option<RdmaPort>,
}

/// What an interface's bits travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceKind {
    /// Nothing: this machine with itself.
    Loopback,
    /// Ethernet cables.
    Ethernet,
    /// Radio.
    WiFi,
    /// A Thunderbolt cable, as a network.
    Thunderbolt,
    /// Several interfaces joined into one.
    Bridge,
    /// Software: tunnels, containers, virtual machines.
    Virtual,
    /// Something else.
    Other,
}

/// Whether an interface carries anything now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceState {
    /// It does.
    Up,
    /// Nothing is at the other end.
    NoCarrier,
    /// It is switched off.
    Off,
    /// The system does not say.
    Unknown,
}

/// A Thunderbolt port and what is in it.
#[derive(Clone, Debug, PartialEq)]
pub struct ThunderboltPort {
    /// The most that the port can do, in Gb/s; known while it is empty, on most systems.
    pub ceiling_gbps: Option<f64>,
    /// What was agreed with the other end, in Gb/s; `None` while the port is empty.
    pub agreed_gbps: Option<f64>,
    /// Whether the other machine is behind a dock or hub.
    pub is_behind_hub: bool,
    /// Whether what is plugged in is another machine.
    pub is_machine: bool,
}

/// The port of an RDMA device.
#[derive(Clone, Debug, PartialEq)]
pub struct RdmaPort {
    /// The device.
    pub device: String,
    /// Whether its port carries traffic.
    pub is_active: bool,
    /// Its raw speed in Gb/s.
    pub speed_gbps: Option<f64>,
}

/// What there is to know of one link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkReport {
    /// The interface.
    pub name: String,
    /// What it is, for people.
    pub kind: String,
    /// Its speed in Mb/s.
    pub speed_mbps: Option<u64>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether verbs links can go over it now.
    pub has_rdma: bool,
    /// What limits it, most important first.
    pub findings: Vec<Finding>,
}

/// One thing that limits a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub limit: String,
    /// What a person can do, if anything.
    pub hint: Option<&'static str>,
}

/// What limits each interface, in the order of the facts.
pub fn judge(facts: &LinkFacts) -> Vec<LinkReport> {
    facts.interfaces.iter().map(|interface| report(interface, facts.rdma)).collect()
}

fn report(interface: &Interface, rdma: RdmaState) -> LinkReport {
    let findings = findings(interface, rdma);
    let rdma = interface.rdma.as_ref().filter(|port| port.is_active);
    let carries_rdma = rdma.is_some() && interface.bridge.is_none() && has_ipv4(interface);
    LinkReport {
        name: interface.name.clone(),
        kind: kind(interface),
        speed_mbps: speed_mbps(interface),
        addresses: interface.addresses.clone(),
        has_rdma: carries_rdma && !is_old_thunderbolt(interface),
        findings,
    }
}

fn findings(interface: &Interface, rdma: RdmaState) -> Vec<Finding> {
    match interface.kind {
        InterfaceKind::Loopback | InterfaceKind::Virtual | InterfaceKind::Other => return Vec::new(),
        _ => {}
    }
    if let Some(unusable) = unusable(interface) {
        return iter::once(unusable).chain(old_port(interface)).collect();
    }
    let mut found = match interface.kind {
        InterfaceKind::WiFi => vec![finding(
            "Wi-Fi: milliseconds of latency, and shared with all others on the air",
            "join the machines by a cable; Ethernet is better, Thunderbolt much better",
        )],
        InterfaceKind::Ethernet => ethernet(interface.speed_mbps),
        InterfaceKind::Thunderbolt => thunderbolt(interface, rdma),
        _ => Vec::new(),
    };
    found.extend(beside_rdma(interface));
    if interface.addresses.is_empty() && interface.bridge.is_none() {
        let hint = "give it an address; one that both ends choose themselves (link-local) is enough";
        found.push(finding("has no address", hint));
    }
    found
}

/// Why nothing at all goes over it.
fn unusable(interface: &Interface) -> Option<Finding> {
    let is_port = interface.kind == InterfaceKind::Thunderbolt;
    match interface.state {
        InterfaceState::Off => Some(finding("switched off", "switch it on in the system's network settings")),
        InterfaceState::NoCarrier if is_port => Some(finding(
            "no machine at the other end of a cable",
            "join the two machines by a Thunderbolt cable; the other one must be on",
        )),
        InterfaceState::NoCarrier if interface.kind == InterfaceKind::WiFi => {
            Some(finding("not in any network", "join one, or switch it off"))
        }
        InterfaceState::NoCarrier => {
            Some(finding("no cable", "plug a cable in at both ends; what is there must be on"))
        }
        InterfaceState::Up | InterfaceState::Unknown => None,
    }
}

fn ethernet(speed_mbps: Option<u64>) -> Vec<Finding> {
    match speed_mbps {
        Some(speed @ ..1000) => vec![finding(
            format!("Ethernet at {speed} Mb/s, less than any machine of today can do"),
            "look for an old switch, or a cable with a broken wire",
        )],
        Some(speed @ 1000..10_000) => vec![finding(
            format!("Ethernet at {} Gb/s", gbps(speed)),
            "10 Gb/s Ethernet at both ends, or Thunderbolt between Macs, carries more",
        )],
        Some(_) | None => Vec::new(),
    }
}

fn thunderbolt(interface: &Interface, rdma: RdmaState) -> Vec<Finding> {
    let Some(port) = &interface.thunderbolt else { return Vec::new() };
    if port.is_behind_hub {
        return vec![finding(
            "behind a dock or hub: at most 10 Gb/s, and no RDMA",
            "plug the other machine's cable into this machine itself",
        )];
    }
    if !port.is_machine && port.agreed_gbps.is_some() {
        return vec![finding(
            "what is plugged in is no machine",
            "join the two machines by a Thunderbolt cable; the other one must be on",
        )];
    }
    if let Some(old) = old_port(interface) {
        return vec![old];
    }
    if let Some(speed) = port.agreed_gbps.filter(|speed| *speed <= RDMA_ABOVE_GBPS) {
        return vec![finding(
            format!("agreed on {speed} Gb/s only: IP only, no RDMA"),
            "the other end or the cable is Thunderbolt 4; RDMA needs Thunderbolt 5 at both ends and in the cable",
        )];
    }
    if rdma == RdmaState::Off {
        return vec![finding(
            "RDMA is off: IP only",
            "run `rdma_ctl enable` in recoveryOS (start up with the power button held), then restart",
        )];
    }
    Vec::new()
}

fn old_port(interface: &Interface) -> Option<Finding> {
    let ceiling = interface.thunderbolt.as_ref()?.ceiling_gbps?;
    let hint = "RDMA needs Thunderbolt 5 at both ends; other ports of this machine may have it";
    (ceiling <= RDMA_ABOVE_GBPS).then(|| finding("this is a Thunderbolt 4 port: IP only, no RDMA", hint))
}

/// What keeps a verbs link from an interface that has an RDMA device beside it.
fn beside_rdma(interface: &Interface) -> Option<Finding> {
    let port = interface.rdma.as_ref().filter(|_| !is_old_thunderbolt(interface))?;
    if let Some(bridge) = &interface.bridge {
        return Some(finding(
            format!("is a member of {bridge}, which keeps RDMA from it"),
            "one of the two ends has the bridge on: take the port out of the Thunderbolt Bridge at both",
        ));
    }
    if !port.is_active {
        return Some(finding(
            format!("the port of {} is down", port.device),
            "plug the cable in at both ends; RDMA must be on at the other end too",
        ));
    }
    let hint = "its network interface needs an IPv4 address, a link-local one is enough";
    (!has_ipv4(interface)).then(|| finding(format!("{} has no IPv4 address", port.device), hint))
}

fn is_old_thunderbolt(interface: &Interface) -> bool {
    let is_slow = |speed: Option<f64>| speed.is_some_and(|speed| speed <= RDMA_ABOVE_GBPS);
    interface.thunderbolt.as_ref().is_some_and(|port| is_slow(port.ceiling_gbps) || is_slow(port.agreed_gbps))
}

fn has_ipv4(interface: &Interface) -> bool {
    interface.addresses.iter().any(IpAddr::is_ipv4)
}

fn speed_mbps(interface: &Interface) -> Option<u64> {
    let agreed = interface.thunderbolt.as_ref().and_then(|port| port.agreed_gbps);
    agreed.map(|gbps| (gbps * 1000.0) as u64).or(interface.speed_mbps)
}

/// What it is, with its speed where that is part of the name people give it.
fn kind(interface: &Interface) -> String {
    let name = match interface.kind {
        InterfaceKind::Loopback => "loopback",
        InterfaceKind::Ethernet => "Ethernet",
        InterfaceKind::WiFi => "Wi-Fi",
        InterfaceKind::Thunderbolt => "Thunderbolt",
        InterfaceKind::Bridge => "bridge",
        InterfaceKind::Virtual => "virtual",
        InterfaceKind::Other => "other",
    };
    match speed_mbps(interface) {
        Some(speed @ ..1000) => format!("{name} {speed} Mb/s"),
        Some(speed) => format!("{name} {} Gb/s", gbps(speed)),
        None => name.to_owned(),
    }
}

fn gbps(mbps: u64) -> f64 {
    mbps as f64 / 1000.0
}

fn finding(limit: impl Into<String>, hint: &'static str) -> Finding {
    Finding { limit: limit.into(), hint: Some(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(kind: InterfaceKind) -> Interface {
        Interface {
            name: "en2".to_owned(),
            kind,
            state: InterfaceState::Up,
            speed_mbps: None,
            addresses: vec![[169, 254, 7, 9].into()],
            bridge: None,
            thunderbolt: None,
            rdma: None,
        }
    }

    /// A Thunderbolt 5 cable between two Macs, RDMA on: nothing limits it.
    fn best() -> Interface {
        Interface {
            thunderbolt: Some(ThunderboltPort {
                ceiling_gbps: None,
                agreed_gbps: Some(80.0),
                is_behind_hub: false,
                is_machine: true,
            }),
            rdma: Some(RdmaPort { device: "rdma_en2".to_owned(), is_active: true, speed_gbps: Some(80.0) }),
            ..interface(InterfaceKind::Thunderbolt)
        }
    }

    fn with_port(change: impl Fn(&mut ThunderboltPort)) -> Interface {
        let mut best = best();
        best.thunderbolt.iter_mut().for_each(change);
        best
    }

    fn judged(interface: Interface, rdma: RdmaState) -> LinkReport {
        judge(&LinkFacts { interfaces: vec![interface], rdma }).remove(0)
    }

    /// The only thing that limits it, and its hint.
    fn only(interface: Interface, rdma: RdmaState) -> (String, &'static str) {
        let report = judged(interface, rdma);
        let [found] = &report.findings[..] else { panic!("{report:?}") };
        (found.limit.clone(), found.hint.unwrap_or_default())
    }

    #[test]
    fn nothing_limits_a_thunderbolt_5_cable_with_rdma() {
        let report = judged(best(), RdmaState::On);
        assert_eq!((report.findings.len(), report.has_rdma), (0, true));
        assert_eq!((report.kind.as_str(), report.speed_mbps), ("Thunderbolt 80 Gb/s", Some(80_000)));
        let report = judged(interface(InterfaceKind::Loopback), RdmaState::On);
        assert_eq!((report.findings.len(), report.has_rdma), (0, false));
    }

    #[test]
    fn rdma_that_is_off_says_where_to_turn_it_on() {
        let (limit, hint) = only(Interface { rdma: None, ..best() }, RdmaState::Off);
        assert!(
            limit.contains("RDMA is off") && hint.contains("`rdma_ctl enable` in recoveryOS"),
            "{limit} {hint}"
        );
    }

    #[test]
    fn old_ports_cables_and_hubs_are_told_apart() {
        type Change = fn(&mut ThunderboltPort);
        let cases: [(Change, &str); 4] = [
            (|port| port.ceiling_gbps = Some(40.0), "this is a Thunderbolt 4 port"),
            (|port| port.agreed_gbps = Some(40.0), "agreed on 40 Gb/s only"),
            (|port| port.is_behind_hub = true, "behind a dock or hub"),
            (|port| port.is_machine = false, "no machine"),
        ];
        for (change, expected) in cases {
            let (limit, hint) = only(with_port(change), RdmaState::On);
            assert!(limit.contains(expected) && !hint.is_empty(), "{limit}");
        }
        assert!(!judged(with_port(|port| port.ceiling_gbps = Some(40.0)), RdmaState::On).has_rdma);
        // the port's kind comes before what is off, for turning it on would not help
        let (limit, _) = only(with_port(|port| port.ceiling_gbps = Some(40.0)), RdmaState::Off);
        assert!(limit.contains("Thunderbolt 4"), "{limit}");
    }

    #[test]
    fn a_bridge_a_dead_port_and_a_missing_address_keep_rdma_away() {
        let bridged = Interface { bridge: Some("bridge0".to_owned()), ..best() };
        let (limit, hint) = only(bridged, RdmaState::On);
        assert!(
            limit.contains("bridge0") && hint.contains("one of the two ends has the bridge on"),
            "{hint}"
        );
        let mut down = best();
        down.rdma.iter_mut().for_each(|port| port.is_active = false);
        assert!(only(down, RdmaState::On).0.contains("the port of rdma_en2 is down"));
        let ipv6 = Interface { addresses: vec![[0xfe80, 0, 0, 0, 0, 0, 0, 1].into()], ..best() };
        assert!(!judged(ipv6.clone(), RdmaState::On).has_rdma);
        assert!(only(ipv6, RdmaState::On).0.contains("no IPv4 address"));
    }

    #[test]
    fn what_is_not_plugged_in_is_all_there_is_to_say() {
        for (kind, expected) in [
            (InterfaceKind::Ethernet, "no cable"),
            (InterfaceKind::Thunderbolt, "no machine at the other end"),
            (InterfaceKind::WiFi, "not in any network"),
        ] {
            let empty = Interface { state: InterfaceState::NoCarrier, addresses: vec![], ..interface(kind) };
            assert!(only(empty.clone(), RdmaState::Off).0.contains(expected));
            let port = ThunderboltPort {
                ceiling_gbps: Some(40.0),
                agreed_gbps: None,
                is_behind_hub: false,
                is_machine: false,
            };
            let old = judged(Interface { thunderbolt: Some(port), ..empty.clone() }, RdmaState::Off);
            assert!(old.findings.last().is_some_and(|found| found.limit.contains("Thunderbolt 4 port")));
            let off = Interface { state: InterfaceState::Off, ..empty };
            assert_eq!(only(off, RdmaState::Off).0, "switched off");
        }
    }

    #[test]
    fn ethernet_is_judged_by_its_speed() {
        let at = |speed_mbps| Interface { speed_mbps, ..interface(InterfaceKind::Ethernet) };
        assert!(only(at(Some(100)), RdmaState::Absent).1.contains("cable with a broken wire"));
        assert_eq!(only(at(Some(1000)), RdmaState::Absent).0, "Ethernet at 1 Gb/s");
        assert_eq!(only(at(Some(2500)), RdmaState::Absent).0, "Ethernet at 2.5 Gb/s");
        for speed in [None, Some(10_000), Some(25_000), Some(400_000)] {
            assert_eq!(judged(at(speed), RdmaState::Absent).findings, []);
        }
        let (limit, hint) = only(interface(InterfaceKind::WiFi), RdmaState::Absent);
        assert!(limit.starts_with("Wi-Fi") && hint.contains("cable"), "{limit}");
        let nameless = Interface { addresses: vec![], ..at(Some(10_000)) };
        assert_eq!(only(nameless, RdmaState::Absent).0, "has no address");
    }
}
