//! The readers over trees of their own making.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;

/// A tree of files: path, content. A content `→ target` is a link.
fn tree(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("→ ") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
    root
}

#[test]
fn nothing_there_is_nothing_known() {
    let root = tree(&[]);
    let root = root.path();
    assert!(!cpu_features(root).is_known() && governors(root).is_empty());
    assert_eq!((huge_pages(root), swap_used(root), is_on_battery(root)), (None, None, None));
    assert!(interfaces(root).is_empty() && infiniband(root).is_empty());
    assert!(energy_zones(root).is_empty() && power_sensors(root).is_empty());
}

#[test]
fn processors_and_memory_are_read() {
    let root = tree(&[
        (
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: X\nflags\t\t: fpu avx2 avx512f amx_int8\n\nprocessor\t: 1\nflags\t: mmx\n",
        ),
        ("proc/meminfo", "MemTotal:  8000 kB\nSwapCached:  0 kB\nSwapTotal:   4096 kB\nSwapFree:  1024 kB\n"),
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave\n"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n"),
        ("sys/devices/system/cpu/online", "0-1\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ]);
    let features = cpu_features(root.path());
    assert!(
        features.has("avx512f") && features.has("amx_int8") && !features.has("mmx") && !features.has("amx")
    );
    assert_eq!(swap_used(root.path()), Some(Bytes(3072 * 1024)));
    assert_eq!(governors(root.path()).into_iter().collect::<Vec<_>>(), ["powersave"]);
    assert_eq!(huge_pages(root.path()), Some(HugePages::Madvise));
    let arm = tree(&[
        ("proc/cpuinfo", "processor\t: 0\nFeatures\t: asimd i8mm\n"),
        ("proc/meminfo", "SwapTotal: 1 kB\nSwapFree: 2 kB"),
    ]);
    assert!(cpu_features(arm.path()).has("i8mm"));
    assert_eq!(swap_used(arm.path()), None, "more free than there is");
}

#[test]
fn interfaces_are_told_apart() {
    let root = tree(&[
        ("sys/class/net/lo/speed", ""),
        ("sys/class/net/eth0/speed", "10000\n"),
        ("sys/class/net/eth0/carrier", "1\n"),
        ("sys/class/net/eth0/device/driver", "→ ../../../drivers/ixgbe"),
        ("sys/class/net/eth0/master", "→ ../br0"),
        ("sys/class/net/eth1/speed", "-1\n"),
        ("sys/class/net/eth1/carrier", "0\n"),
        ("sys/class/net/br0/bridge/bridge_id", "8000\n"),
        ("sys/class/net/wlan0/phy80211/name", "phy0\n"),
        ("sys/class/net/wlan0/carrier", "nonsense"),
        ("sys/class/net/thunderbolt0/device/driver", "→ ../../bus/thunderbolt/drivers/thunderbolt-net"),
    ]);
    let found = interfaces(root.path());
    let of = |name: &str| found.iter().find(|interface| interface.name == name).unwrap();
    assert_eq!(found.len(), 5, "loopback is none");
    let eth0 = of("eth0");
    assert_eq!((eth0.speed_mbit_s, eth0.has_carrier, eth0.is_physical), (Some(10_000), Some(true), true));
    assert_eq!((eth0.driver.as_deref(), eth0.member_of.as_deref()), (Some("ixgbe"), Some("br0")));
    assert_eq!((of("eth1").speed_mbit_s, of("eth1").has_carrier), (None, Some(false)));
    assert!(of("br0").is_bridge && !of("br0").is_physical);
    assert!(of("wlan0").is_wireless && of("wlan0").has_carrier.is_none());
    assert!(of("thunderbolt0").is_thunderbolt() && !eth0.is_thunderbolt());
}

#[test]
fn rdma_devices_have_ports() {
    let root = tree(&[
        ("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n"),
        ("sys/class/infiniband/mlx5_0/ports/1/rate", "100 Gb/sec (4X EDR)\n"),
        ("sys/class/infiniband/mlx5_0/ports/1/link_layer", "Ethernet\n"),
        ("sys/class/infiniband/mlx5_0/ports/1/gid_attrs/ndevs/0", "eth0\n"),
        ("sys/class/infiniband/mlx5_0/ports/2/state", "1: DOWN\n"),
        ("sys/class/infiniband/mlx5_0/ports/2/rate", "inf Gb/sec\n"),
        ("sys/class/infiniband/mlx5_0/ports/two/state", "4: ACTIVE\n"),
    ]);
    let devices = infiniband(root.path());
    assert_eq!((devices.len(), devices[0].ports.len()), (1, 2));
    let [one, two] = &devices[0].ports[..] else { panic!("{devices:?}") };
    assert_eq!((one.is_active, one.rate_gbit_s, one.interface.as_deref()), (true, Some(100.0), Some("eth0")));
    assert_eq!((two.is_active, two.rate_gbit_s, two.link_layer.as_deref()), (false, None, None));
}

#[test]
fn power_has_counters_and_sensors() {
    let root = tree(&[
        ("sys/class/powercap/intel-rapl/enabled", "1\n"), // the kind, not a counter
        ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
        ("sys/class/powercap/intel-rapl:0/energy_uj", "5000\n"),
        ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "262143328850\n"),
        ("sys/class/hwmon/hwmon0/name", "amdgpu\n"),
        ("sys/class/hwmon/hwmon0/power1_average", "45000000\n"),
        ("sys/class/hwmon/hwmon0/power1_input", "47000000\n"),
        ("sys/class/hwmon/hwmon0/power1_cap", "250000000\n"),
        ("sys/class/hwmon/hwmon1/power2_input", "1500000\n"),
        ("sys/class/hwmon/hwmon1/power3_input", "?\n"),
        ("sys/class/hwmon/hwmon1/temp1_input", "30000\n"),
    ]);
    let zones = energy_zones(root.path());
    assert_eq!((zones.len(), zones[0].name.as_str()), (1, "package-0 (intel-rapl:0)"));
    assert_eq!(zones[0].energy_uj, Some(5000));
    let sensors: Vec<(String, f64)> =
        power_sensors(root.path()).into_iter().map(|s| (s.name, s.watts)).collect();
    assert_eq!(sensors, [("amdgpu power1".to_owned(), 45.0), ("hwmon1 power2".to_owned(), 1.5)]);
}

#[test]
fn a_counter_may_start_again() {
    let zone = |energy_uj| EnergyZone { name: String::new(), energy_uj, max_uj: 100 };
    assert_eq!(zone(Some(30)).used_since(&zone(Some(10))), Some(20));
    assert_eq!(zone(Some(5)).used_since(&zone(Some(90))), Some(15));
    assert_eq!(zone(None).used_since(&zone(Some(90))), None);
    assert_eq!(
        zone(Some(u64::MAX - 1)).used_since(&zone(Some(u64::MAX))),
        Some(u64::MAX - 1),
        "more than its range"
    );
}

#[test]
fn a_laptop_says_where_its_power_is_from() {
    let laptop = |mains: &str, battery: &str| {
        let root = tree(&[
            ("sys/class/power_supply/AC/type", "Mains\n"),
            ("sys/class/power_supply/AC/online", mains),
            ("sys/class/power_supply/BAT0/type", "Battery\n"),
            ("sys/class/power_supply/BAT0/status", battery),
        ]);
        is_on_battery(root.path())
    };
    assert_eq!(laptop("0\n", "Discharging\n"), Some(true));
    assert_eq!(laptop("1\n", "Charging\n"), Some(false));
    assert_eq!(laptop("1\n", "Discharging\n"), Some(false), "being held at a charge");
    let mouse = tree(&[
        ("sys/class/power_supply/mouse/type", "Battery\n"),
        ("sys/class/power_supply/mouse/scope", "Device\n"),
        ("sys/class/power_supply/mouse/status", "Discharging\n"),
    ]);
    assert_eq!(is_on_battery(mouse.path()), None);
}
