//! What the tools print, as fixtures of our own values, and what becomes of it when it is cut off, changed or nonsense.

use base::Bytes;
use proptest::prelude::*;

use super::{
    ifconfig, ioreg, macmon, networksetup, pmset, powermetrics,
    rdma::{self, PortState},
    sysctl,
    thunderbolt::{self, Cable, Port},
};

/// A fixture by its file's name.
macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../fixtures/", $name))
    };
}

const STUDIO_1: &str = fixture!("thunderbolt-studio-1.json");
const STUDIO_2: &str = fixture!("thunderbolt-studio-2.json");
const STUDIO_3: &str = fixture!("thunderbolt-studio-3.json");
const MINI: &str = fixture!("thunderbolt-mini.json");
const HARDWARE_PORTS: &str = fixture!("hardware-ports.txt");
const SERVICES: &str = fixture!("network-services.txt");
const IFCONFIG: &str = fixture!("ifconfig.txt");
const DEVICES: &str = fixture!("ibv_devices.txt");
const DEVINFO: &str = fixture!("ibv_devinfo.txt");
const DEVINFO_V: &str = fixture!("ibv_devinfo-v.txt");
const IOREG: &str = fixture!("ioreg.txt");
const MACMON: &str = fixture!("macmon.jsonl");
const MACMON_OLD: &str = fixture!("macmon-old.jsonl");
const POWERMETRICS: &str = fixture!("powermetrics.plist");
const PMSET: &str = fixture!("pmset.txt");
const SYSCTL: &str = fixture!("sysctl.txt");

fn ports(text: &str) -> Vec<Port> {
    thunderbolt::parse(text).unwrap()
}

#[test]
fn ports_come_in_the_order_of_their_numbers() {
    let ports = ports(STUDIO_1);
    let numbers: Vec<u32> = ports.iter().filter_map(|port| port.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
    let speeds: Vec<Option<u32>> = ports.iter().map(|port| port.negotiated_gbit_s).collect();
    assert_eq!(speeds, [Some(80), Some(80), Some(80), None, Some(40), Some(40)]);
    assert_eq!((ports[3].is_connected, ports[3].ceiling_gbit_s), (false, Some(120)), "a ceiling is no rate");
    assert_eq!(ports.iter().filter(|port| port.is_fast()).count(), 3);
}

#[test]
fn macs_are_found_behind_hubs_and_disks_are_none() {
    let ports = ports(STUDIO_1);
    let seen: Vec<Vec<(&str, Option<&str>)>> = ports
        .iter()
        .map(|port| {
            let macs = port.macs();
            macs.iter().map(|r| (r.mac.name.as_str(), r.through.map(|hub| hub.name.as_str()))).collect()
        })
        .collect();
    let none = Vec::new();
    let expected = [
        vec![("studio-2", None)],
        vec![("studio-2", None)],
        vec![("studio-3", Some("Hub Five"))],
        none.clone(),
        none,
        vec![("mini", None)],
    ];
    assert_eq!(seen, expected);
    assert_eq!(ports[4].attached[0].vendor.as_deref(), Some("Dockmaker, Inc."));
    assert_eq!(ports[5].attached[0].model.as_deref(), Some("Mac16,10"));
}

#[test]
fn cables_join_the_ports_that_list_each_other() {
    let (one, two, three, mini) = (ports(STUDIO_1), ports(STUDIO_2), ports(STUDIO_3), ports(MINI));
    let cable = |from, to, is_direct, gbit_s| Cable { from, to, is_direct, gbit_s: Some(gbit_s) };
    let two_cables = [cable(0, 0, true, 80), cable(1, 2, true, 80)];
    assert_eq!(thunderbolt::cables(&one, &two), two_cables, "two cables between two Macs");
    assert_eq!(thunderbolt::cables(&one, &three), [cable(2, 0, false, 80)], "through a hub");
    assert_eq!(thunderbolt::cables(&mini, &one), [cable(0, 5, true, 40)]);
    assert_eq!(thunderbolt::cables(&two, &three), [], "the other Mac's name is no proof");
    assert_eq!(thunderbolt::cables(&one, &ports(r#"{"SPThunderboltDataType": []}"#)), []);
    // one end alone may be out of date
    let forgotten =
        STUDIO_2.replace("11111111-0000-4000-8000-000000000001", "99999999-0000-4000-8000-000000000001");
    assert_eq!(thunderbolt::cables(&one, &ports(&forgotten)), [cable(1, 2, true, 80)]);
}

#[test]
fn other_data_of_thunderbolt_is_an_error() {
    for bad in
        ["", "[]", "{}", "null", r#"{"SPThunderboltDataType": 3}"#, r#"{"SPThunderboltDataType": [7]}"#]
    {
        let error = thunderbolt::parse(bad).unwrap_err().to_string();
        assert!(error.starts_with("system_profiler: expected"), "{error}");
    }
    let odd =
        r#"{"SPThunderboltDataType": [{"receptacle_1_tag": 4, "_items": {"a": 1}, "domain_uuid_key": ""}]}"#;
    assert_eq!(ports(odd)[0].domain, None);
    let deep = format!("{{\"SPThunderboltDataType\": {}", "[".repeat(100_000));
    assert!(thunderbolt::parse(&deep).is_err());
}

#[test]
fn interfaces_belong_to_ports() {
    let ports = networksetup::hardware_ports(HARDWARE_PORTS).unwrap();
    let port_2 = ports.iter().find(|port| port.thunderbolt_number() == Some(2)).unwrap();
    assert_eq!((port_2.device.as_str(), ports.len()), ("en3", 9));
    assert_eq!(
        ports.iter().filter(|port| port.thunderbolt_number().is_some()).count(),
        6,
        "the bridge is none"
    );
    assert!(networksetup::hardware_ports("Device: en1").is_err());
    assert!(networksetup::hardware_ports("Hardware Port: Wi-Fi\n").is_err());
    assert!(networksetup::hardware_ports("\nVLAN Configurations\nHardware Port: x\nDevice: y").is_err());
    let services = networksetup::services(SERVICES).unwrap();
    let is_on: Vec<(&str, bool)> = services.iter().map(|s| (s.name.as_str(), s.is_enabled)).collect();
    assert_eq!(
        is_on,
        [("Ethernet", true), ("Thunderbolt Bridge", true), ("Thunderbolt 6", false), ("Wi-Fi", true)]
    );
    assert!(networksetup::services("Ethernet").is_err());
}

#[test]
fn bridges_have_members() {
    let interfaces = ifconfig::parse(IFCONFIG).unwrap();
    let of = |name: &str| interfaces.iter().find(|interface| interface.name == name).unwrap();
    assert_eq!(of("bridge0").members, ["en2"]);
    assert!(of("bridge0").is_up && of("en2").members.is_empty());
    assert_eq!((of("en5").is_active, of("lo0").is_active), (Some(false), None));
    assert_eq!(of("en3").ipv4, ["169.254.12.34".parse::<std::net::Ipv4Addr>().unwrap()]);
    for bad in ["", "\tinet 1.2.3.4", "ifconfig: no such thing", "en0: flags=8863"] {
        assert!(ifconfig::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn rdma_devices_have_ports_and_states() {
    let names = rdma::devices(DEVICES).unwrap();
    assert_eq!((names[1].name.as_str(), names[1].guid, names.len()), ("rdma_en3", 0x0200_0000_0000_01bb, 2));
    let off = DEVICES.lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(rdma::devices(&off).unwrap(), [], "headings alone: RDMA is off");
    for bad in [
        "",
        "device",
        "no such program\nat all",
        &DEVICES.replace("01bb", "01b"),
        &DEVICES.replace("01bb", "01bg"),
    ] {
        assert!(rdma::devices(bad).is_err(), "{bad}");
    }

    let plain = rdma::devinfo(DEVINFO).unwrap();
    assert_eq!(plain[0].transport.as_deref(), Some("Thunderbolt (100)"));
    assert_eq!((plain[0].is_active(), plain[1].is_active()), (false, true), "the first port is wedged");
    assert_eq!(plain[1].ports[0].active_mtu, Some(4096));
    assert_eq!((plain[1].ports[0].n_lanes, plain[1].ports[0].ipv4_gid()), (None, None));

    let verbose = rdma::devinfo(DEVINFO_V).unwrap();
    let port = &verbose[1].ports[0];
    assert_eq!((port.n_lanes, port.lane_gbit_s, port.ipv4_gid()), (Some(8), Some(10.0), Some(1)));
    assert_eq!((verbose[0].ports[0].state, verbose[0].ports[0].ipv4_gid()), (PortState::Down, None));
    assert_eq!(rdma::devinfo("").unwrap(), []);
    assert_eq!(rdma::devinfo("No IB devices found\n").unwrap(), []);
    assert!(rdma::devinfo("Segmentation fault").is_err());
    assert!(rdma::devinfo("hca_id:\ta\n\tport:\tone").is_err());
}

#[test]
fn rdma_is_on_or_off() {
    assert_eq!(rdma::is_enabled("enabled\n"), Ok(true));
    assert_eq!(rdma::is_enabled("disabled\n"), Ok(false));
    assert!(rdma::is_enabled("").is_err());
    let error = rdma::is_enabled("rdma_ctl: not permitted").unwrap_err().to_string();
    assert!(error.contains("expected enabled or disabled") && error.contains("not permitted"), "{error}");
}

#[test]
fn a_gpu_is_told_from_its_driver() {
    let gpu = ioreg::gpu(IOREG).unwrap();
    assert_eq!((gpu.model.as_deref(), gpu.n_cores), (Some("Apple M5 Pro"), Some(20)));
    assert_eq!(gpu.in_use, Some(Bytes(734_003_200)), "not the driver's");
    assert!(ioreg::gpu("").is_err());
    let odd = ioreg::gpu("\"gpu-core-count\" = 99999999999\n\"model\" = \"x").unwrap_err();
    assert_eq!(odd.tool, "ioreg");
}

#[test]
fn power_is_read_in_every_layout() {
    let new = macmon::power(MACMON).unwrap();
    assert_eq!((new.system_w, new.gpu_w), (Some(44.5), Some(28.0)));
    let old = macmon::power(MACMON_OLD).unwrap();
    assert_eq!((old.system_w, old.cpu_w, old.memory_w), (Some(11.0), Some(2.5), Some(0.5)));
    let cut = &MACMON[..MACMON.len() - 10];
    assert_eq!(macmon::power(cut).unwrap().system_w, Some(8.25), "the last whole line");
    for bad in ["", "{}", "[1]", "{\"cpu_power\": -1}", "{\"cpu_power\": \"3\"}", "cannot read"] {
        assert!(macmon::power(bad).is_err(), "{bad}");
    }

    let samples = powermetrics::samples(POWERMETRICS.as_bytes()).unwrap();
    assert_eq!(samples.len(), 2);
    assert_eq!((samples[0].cpu_w, samples[1].gpu_w, samples[1].ane_w), (Some(1.2005), Some(34.0), Some(0.0)));
    assert_eq!((samples[1].chip_w, samples[1].system_w), (Some(34.8), None));
    let cut = &POWERMETRICS.as_bytes()[..POWERMETRICS.len() - 30];
    assert_eq!(powermetrics::samples(cut).unwrap().len(), 1);
    assert!(powermetrics::samples(b"powermetrics must be invoked as the superuser\n").is_err());
    assert!(powermetrics::samples(b"").is_err());
    for n in [4096, 300_000] {
        let deep = format!("<plist>{}", "<array>".repeat(n));
        assert!(powermetrics::samples(deep.as_bytes()).is_err());
        let closed = format!("{deep}{}</plist>", "</array>".repeat(n));
        assert!(powermetrics::samples(closed.as_bytes()).is_err());
    }
}

#[test]
fn a_battery_is_told_from_mains() {
    assert_eq!(pmset::is_on_battery(PMSET), Ok(true));
    assert_eq!(pmset::is_on_battery("Now drawing from 'AC Power'\n"), Ok(false));
    assert!(pmset::is_on_battery("").is_err());
}

/// Every parser that is handed this text.
fn parse_as_everything(text: &str) {
    if let Ok(ports) = thunderbolt::parse(text) {
        thunderbolt::cables(&ports, &ports);
    }
    let _ = networksetup::hardware_ports(text);
    let _ = networksetup::services(text);
    let _ = ifconfig::parse(text);
    let _ = rdma::devices(text);
    let _ = rdma::is_enabled(text);
    for device in rdma::devinfo(text).unwrap_or_default() {
        let _ = device.ports.iter().filter_map(rdma::DevicePort::ipv4_gid).count();
    }
    let _ = ioreg::gpu(text);
    let _ = macmon::power(text);
    let _ = powermetrics::samples(text.as_bytes());
    let _ = pmset::is_on_battery(text);
    let _ = sysctl::machine(text);
    let _ = sysctl::settings(text);
}

fn any_fixture() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(
        &[
            STUDIO_1,
            MINI,
            HARDWARE_PORTS,
            SERVICES,
            IFCONFIG,
            DEVICES,
            DEVINFO_V,
            IOREG,
            MACMON,
            MACMON_OLD,
            POWERMETRICS,
            PMSET,
            SYSCTL,
        ][..],
    )
}

proptest! {
    #[test]
    fn nothing_that_is_cut_or_changed_panics(
        fixture in any_fixture(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), prop::sample::select(&b"{}[]<>\"':,=\n\t \0-9eX"[..])]), 0..12),
        swaps in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..4),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = fixture.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        for (a, b) in swaps {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            lines.swap(a, b);
        }
        let bytes = lines.join(&b'\n');
        parse_as_everything(&String::from_utf8_lossy(&bytes));
        parse_as_everything(&String::from_utf8_lossy(&bytes[..end.index(bytes.len())]));
    }

    #[test]
    fn nonsense_does_not_panic(text in "\\PC{0,200}") {
        parse_as_everything(&text);
    }
}
