//! Facts that are made, changed in one place each, and what is said of them.

use std::path::Path;

use proptest::prelude::*;

use crate::{
    Machine,
    facts::{Linux, Mac, Peer, mac::tests::studio},
    sysfs::{HugePages, InfinibandDevice, InfinibandPort, Interface},
    tools::{rdma::PortState, thunderbolt},
};

use super::*;

const STUDIO_1: &str = include_str!("../../fixtures/thunderbolt-studio-1.json");
const STUDIO_2: &str = include_str!("../../fixtures/thunderbolt-studio-2.json");
const STUDIO_3: &str = include_str!("../../fixtures/thunderbolt-studio-3.json");
const MINI: &str = include_str!("../../fixtures/thunderbolt-mini.json");

fn found(facts: &Facts) -> Vec<Finding> {
    let found = diagnose(facts, &Catalogue::embedded().unwrap());
    for finding in &found {
        assert!(
            ![&finding.what, &finding.cost, &finding.remedy].iter().any(|text| text.is_empty()),
            "{finding:?}"
        );
    }
    found
}

fn ids(facts: &Facts) -> Vec<&'static str> {
    found(facts).iter().map(|finding| finding.id).collect()
}

/// The finding of that name; there is one.
fn the(facts: &Facts, id: &str) -> Finding {
    let found: Vec<Finding> = found(facts).into_iter().filter(|finding| finding.id == id).collect();
    assert_eq!(found.len(), 1, "{id}: {found:?}");
    found[0].clone()
}

/// A Mac of the fixtures: every kind of cable is in it.
fn mac() -> Facts {
    let mut facts = Facts::of_mac(Machine::probe(), &studio);
    facts.machine.name = Some("studio-1".to_owned());
    facts.machine.total_memory = Some(Bytes(128 << 30));
    facts
}

fn change(facts: &mut Facts, change: impl FnOnce(&mut Mac)) {
    let System::Mac(mac) = &mut facts.system else { panic!("no Mac") };
    change(mac);
}

/// A Mac that has nothing to complain of: two cables to another, all as it should be.
fn sound_mac() -> Facts {
    let mut facts = mac();
    facts.swap_used = Some(Bytes(0));
    change(&mut facts, |mac| {
        mac.ports.as_mut().unwrap().truncate(2);
        mac.settings.wired_limit = Some(Bytes(112 << 30));
        for device in mac.devices.as_mut().unwrap() {
            device.ports[0].state = PortState::Active;
            device.ports[0].gids = vec![(0, "fe80::1".to_owned()), (1, "::ffff:169.254.1.2".to_owned())];
        }
        mac.interfaces.as_mut().unwrap().retain(|interface| interface.members.is_empty());
    });
    facts
}

fn peer(name: &str, model: &str, ports: &str) -> Peer {
    let ports = thunderbolt::parse(ports).unwrap();
    Peer { name: name.to_owned(), model: Some(model.to_owned()), build: Some("25C56".to_owned()), ports }
}

#[test]
fn a_sound_mac_has_no_findings() {
    let mut facts = sound_mac();
    assert_eq!(ids(&facts), [""; 0]);
    facts.peers.push(peer("studio-2", "Mac15,14", STUDIO_2));
    assert_eq!(ids(&facts), [""; 0]);
}

#[test]
fn every_cable_is_looked_at() {
    let facts = mac();
    let found: Vec<&str> = ids(&facts);
    assert_eq!(
        found,
        ["bridge-on", "port-wedged", "hub-between", "swap-in-use", "gpu-limit-default", "tb4-port"],
        "the worst first"
    );
    assert!(the(&facts, "hub-between").what.contains("Hub Five is between Thunderbolt 3 and studio-3"));
    assert!(
        the(&facts, "tb4-port")
            .what
            .contains("Thunderbolt 6 and mini are linked at 40 Gb/s, for mini has no")
    );
    let bridge = the(&facts, "bridge-on");
    assert_eq!(bridge.remedy, "sudo networksetup -setnetworkserviceenabled \"Thunderbolt Bridge\" off");
    let wedged = the(&facts, "port-wedged");
    assert!(wedged.what.contains("Thunderbolt 1") && wedged.what.contains("rdma_en2 is down"), "{wedged:?}");
    assert!(wedged.remedy.contains("shutdown -r"));
}

#[test]
fn rdma_that_is_off_is_told_with_the_way_to_switch_it_on() {
    let mut facts = sound_mac();
    change(&mut facts, |mac| mac.is_rdma_enabled = Some(false));
    assert!(the(&facts, "rdma-off").remedy.contains("rdma_ctl enable"));
    change(&mut facts, |mac| mac.is_rdma_enabled = None);
    assert!(the(&facts, "rdma-off").what.contains("not known"));
    // a Mac without Thunderbolt 5 has nothing to switch on
    change(&mut facts, |mac| {
        mac.settings.model = Some("Mac16,10".to_owned());
        mac.ports = Some(thunderbolt::parse(MINI).unwrap());
    });
    assert_eq!(ids(&facts), ["tb4-port"]);
    assert!(the(&facts, "tb4-port").remedy.contains("let this Mac be a stage"));
}

#[test]
fn a_slow_cable_between_fast_ports_is_the_cables_fault() {
    let mut facts = sound_mac();
    change(&mut facts, |mac| {
        for port in mac.ports.as_mut().unwrap() {
            port.negotiated_gbit_s = Some(40);
        }
        mac.ports.as_mut().unwrap().truncate(1);
    });
    let finding = the(&facts, "slow-cable");
    assert!(finding.what.contains("Thunderbolt 1 and studio-2 are linked at 40 Gb/s"), "{finding:?}");
    change(&mut facts, |mac| mac.ports.as_mut().unwrap()[0].negotiated_gbit_s = None);
    assert!(the(&facts, "slow-cable").what.contains("unknown speed"));
}

#[test]
fn a_port_without_rdma_is_told_from_a_wedged_one() {
    let mut facts = sound_mac();
    change(&mut facts, |mac| {
        mac.settings.model = Some("Mac15,14".to_owned());
        mac.devices.as_mut().unwrap().remove(0);
    });
    assert!(the(&facts, "port-without-rdma").remedy.contains("beside Ethernet"));
    change(&mut facts, |mac| mac.settings.model = Some("Mac17,14".to_owned()));
    assert!(the(&facts, "port-wedged").what.contains("rdma_en2 is missing"));
    let mut facts = sound_mac();
    change(&mut facts, |mac| {
        mac.settings.model = Some("Mac15,14".to_owned());
        mac.devices.as_mut().unwrap()[0].ports[0].state = PortState::Down;
    });
    let remedy = the(&facts, "port-wedged").remedy;
    assert!(remedy.contains("beside Ethernet") && remedy.contains("restart"), "{remedy}");
}

#[test]
fn a_port_needs_an_address() {
    let mut facts = sound_mac();
    change(&mut facts, |mac| {
        mac.devices.as_mut().unwrap()[1].ports[0].gids = vec![(0, "fe80::1".to_owned())]
    });
    let finding = the(&facts, "no-address");
    assert!(
        finding.remedy.contains("-setdhcp \"Thunderbolt 2\"") && finding.what.contains("en3"),
        "{finding:?}"
    );
    change(&mut facts, |mac| mac.devices.as_mut().unwrap()[1].ports[0].gids.clear());
    assert_eq!(ids(&facts), [""; 0], "not known without -v");
}

#[test]
fn a_bridge_that_is_off_is_no_finding() {
    let mut facts = mac();
    change(&mut facts, |mac| {
        let services = mac.services.as_mut().unwrap();
        services.iter_mut().filter(|s| s.name == "Thunderbolt Bridge").for_each(|s| s.is_enabled = false);
    });
    assert!(!ids(&facts).contains(&"bridge-on"));
    let mut facts = mac();
    change(&mut facts, |mac| mac.interfaces.as_mut().unwrap().iter_mut().for_each(|i| i.is_up = false));
    assert!(!ids(&facts).contains(&"bridge-on"));
}

#[test]
fn pairs_need_cables_and_the_same_build() {
    let mut facts = sound_mac();
    let mut old = peer("studio-3", "Mac15,14", STUDIO_3);
    old.build = Some("25B11".to_owned());
    facts.peers = vec![peer("studio-2", "Mac15,14", STUDIO_2), old];
    let of_builds: Vec<String> =
        found(&facts).into_iter().filter(|f| f.id == "builds-differ").map(|f| f.what).collect();
    assert_eq!(of_builds.len(), 2, "{of_builds:?}");
    assert!(of_builds[0].contains("studio-1 and studio-3") && of_builds[0].contains("25C56 and 25B11"));
    let missing: Vec<String> =
        found(&facts).into_iter().filter(|f| f.id == "cable-missing").map(|f| f.what).collect();
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert!(missing[1].contains("from studio-2 to studio-3"));
}

#[test]
fn crossed_cables_are_found() {
    let mut facts = sound_mac();
    // ports 1 and 2 lead to ports 3 and 1 of the other
    let swapped = STUDIO_2
        .replace("11111111-0000-4000-8000-000000000001", "swap")
        .replace("11111111-0000-4000-8000-000000000002", "11111111-0000-4000-8000-000000000001")
        .replace("swap", "11111111-0000-4000-8000-000000000002");
    let here = STUDIO_1
        .replace("22222222-0000-4000-8000-000000000001", "swap")
        .replace("22222222-0000-4000-8000-000000000003", "22222222-0000-4000-8000-000000000001")
        .replace("swap", "22222222-0000-4000-8000-000000000003");
    facts.peers = vec![peer("studio-2", "Mac15,14", &swapped)];
    change(&mut facts, |mac| {
        mac.ports = Some(thunderbolt::parse(&here).unwrap());
        mac.ports.as_mut().unwrap().truncate(2);
    });
    let finding = the(&facts, "cables-crossed");
    assert!(
        finding.what.contains("Thunderbolt 1 to Thunderbolt 3, Thunderbolt 2 to Thunderbolt 1"),
        "{finding:?}"
    );
}

#[test]
fn limits_battery_disk_and_radio() {
    let mut facts = sound_mac();
    change(&mut facts, |mac| mac.settings.wired_limit = None);
    assert!(the(&facts, "gpu-limit-default").remedy.contains("iogpu.wired_limit_mb=122880"));
    change(&mut facts, |mac| mac.settings.wired_limit = Some(Bytes(127 << 30)));
    assert!(the(&facts, "gpu-limit-high").remedy.contains("iogpu.wired_limit_mb=122880"));
    facts = sound_mac();
    facts.machine.total_memory = Some(Bytes(16 << 30));
    change(&mut facts, |mac| mac.settings.wired_limit = None);
    assert_eq!(ids(&facts), [""; 0], "nothing to give");

    facts = sound_mac();
    facts.swap_used = Some(Bytes(2 << 30));
    facts.disk_free = Some(Bytes(1 << 30));
    facts.is_on_battery = Some(true);
    assert_eq!(ids(&facts), ["swap-in-use", "disk-low", "on-battery"]);
    facts = sound_mac();
    change(&mut facts, |mac| {
        for interface in mac.interfaces.as_mut().unwrap() {
            interface.is_active = Some(false);
        }
    });
    assert_eq!(ids(&facts), [""; 0], "nothing in use is another matter");
    change(&mut facts, |mac| {
        let wifi = mac.interfaces.as_mut().unwrap().iter_mut().find(|i| i.name == "en0").unwrap();
        (wifi.name, wifi.is_active) = ("en1".to_owned(), Some(true));
        mac.ports = Some(Vec::new());
    });
    assert_eq!(ids(&facts), ["wireless-only", "no-cable"]);
}

#[test]
fn nothing_known_is_nothing_said() {
    let nothing = |_: &str, _: &[&str]| Err("silent".to_owned());
    let facts = Facts::of_mac(Machine::probe(), &nothing);
    assert!(found(&facts).iter().all(|finding| finding.id == "gpu-limit-default"), "{:?}", ids(&facts));
    let facts = Facts::of_linux(Machine::probe(), Path::new("/nonexistent"));
    assert_eq!(ids(&facts), [""; 0]);
}

fn linux(change: impl FnOnce(&mut Linux)) -> Facts {
    let mut facts = Facts::of_linux(Machine::probe(), Path::new("/nonexistent"));
    let System::Linux(linux) = &mut facts.system else { panic!("no Linux") };
    change(linux);
    facts
}

fn wire(name: &str, speed_mbit_s: Option<u32>, is_wireless: bool) -> Interface {
    Interface {
        name: name.to_owned(),
        speed_mbit_s,
        has_carrier: Some(true),
        is_physical: true,
        is_wireless,
        is_bridge: false,
        member_of: None,
        driver: None,
    }
}

#[test]
fn linux_is_told_of_its_settings() {
    let governors = |names: &[&str]| linux(|l| l.governors = names.iter().map(|n| (*n).to_owned()).collect());
    assert!(the(&governors(&["performance", "powersave"]), "governor").what.contains("(governor powersave)"));
    assert_eq!(ids(&governors(&["performance"])), [""; 0]);
    assert_eq!(ids(&linux(|l| l.huge_pages = Some(HugePages::Never))), ["huge-pages-off"]);
    assert_eq!(ids(&linux(|l| l.huge_pages = Some(HugePages::Madvise))), [""; 0]);
}

#[test]
fn linux_is_told_of_its_processor() {
    let features = |names: &str| {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        std::fs::write(root.path().join("proc/cpuinfo"), format!("flags : {names}\n")).unwrap();
        Facts::of_linux(Machine::probe(), root.path())
    };
    assert!(the(&features("sse2 avx2"), "no-avx512").what.contains("AVX2, not"));
    assert_eq!(ids(&features("sse2 avx2 avx512f")), ["no-avx512"]);
    assert_eq!(ids(&features("sse2 avx512f avx512_vnni")), [""; 0]);
    assert_eq!(ids(&features("sse2 avx512f avx512_vnni amx_int8")), ["amx-unused"]);
    assert_eq!(ids(&features("asimd")), [""; 0], "another kind of processor");
}

#[test]
fn linux_is_told_of_its_wires() {
    let wires = |wires: Vec<Interface>| linux(|l| l.interfaces = wires);
    assert_eq!(ids(&wires(vec![wire("wlan0", None, true)])), ["wireless-only"]);
    assert_eq!(ids(&wires(vec![wire("wlan0", None, true), wire("eth0", Some(10_000), false)])), [""; 0]);
    assert!(the(&wires(vec![wire("eth0", Some(1000), false)]), "slow-wire").what.contains("1000 Mb/s"));
    assert_eq!(ids(&wires(vec![wire("eth0", Some(1000), false), wire("eth1", None, false)])), [""; 0]);
    let unplugged = Interface { has_carrier: Some(false), ..wire("eth0", None, false) };
    assert_eq!(ids(&wires(vec![unplugged, wire("wlan0", None, true)])), ["wireless-only"]);
    let port = InfinibandPort {
        number: 1,
        is_active: false,
        link_layer: None,
        rate_gbit_s: None,
        interface: Some("eth7".to_owned()),
    };
    let facts =
        linux(|l| l.infiniband = vec![InfinibandDevice { name: "mlx5_0".to_owned(), ports: vec![port] }]);
    assert!(the(&facts, "rdma-port-down").remedy.contains("ip link set eth7 up"));
}

proptest! {
    /// What is plugged in decides nothing but findings.
    #[test]
    fn no_mixture_of_ports_panics(
        here in proptest::sample::subsequence(vec![0, 1, 2, 3, 4, 5], 0..6),
        there in proptest::sample::select(vec![STUDIO_1, STUDIO_2, STUDIO_3, MINI]),
        is_on in proptest::option::of(any::<bool>()),
        model in proptest::option::of(proptest::sample::select(vec!["Mac15,14", "Mac16,10", "Mac99,9"])),
    ) {
        let mut facts = mac();
        change(&mut facts, |mac| {
            let ports = mac.ports.take().unwrap();
            mac.ports = Some(here.iter().map(|at| ports[*at].clone()).collect());
            mac.is_rdma_enabled = is_on;
            mac.settings.model = model.map(str::to_owned);
        });
        facts.peers = vec![peer("other", "Mac15,14", there)];
        let severities: Vec<Severity> = found(&facts).iter().map(|finding| finding.severity).collect();
        prop_assert!(severities.is_sorted());
    }
}
