//! Network interfaces and RDMA devices of Linux. It does not know what is at the other end.

use std::path::Path;

use super::{folders, name, read, read_number, target};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// As in `eth0`.
    pub name: String,
    /// What it negotiated, in Mb/s.
    pub speed_mbit_s: Option<u32>,
    /// Whether something is at the other end, where it is up and says so.
    pub has_carrier: Option<bool>,
    /// Whether hardware is behind it.
    pub is_physical: bool,
    /// Whether it sends by radio.
    pub is_wireless: bool,
    /// Whether it is a bridge itself.
    pub is_bridge: bool,
    /// The bridge or bond that it belongs to.
    pub member_of: Option<String>,
    /// As in `mlx5_core`, `thunderbolt-net`.
    pub driver: Option<String>,
}

/// An RDMA device.
#[derive(Clone, Debug, PartialEq)]
pub struct InfinibandDevice {
    /// As in `mlx5_0`.
    pub name: String,
    /// Its ports.
    pub ports: Vec<InfinibandPort>,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, PartialEq)]
pub struct InfinibandPort {
    /// Counted from 1.
    pub number: u32,
    /// Whether it can carry anything.
    pub is_active: bool,
    /// As in `Ethernet`, `InfiniBand`.
    pub link_layer: Option<String>,
    /// In Gb/s, of all lanes.
    pub rate_gbit_s: Option<f64>,
    /// The network interface it shares its wire with.
    pub interface: Option<String>,
}

impl Interface {
    /// Whether it is the driver for IP over Thunderbolt.
    pub fn is_thunderbolt(&self) -> bool {
        self.driver.as_deref() == Some("thunderbolt-net")
    }
}

/// The interfaces but loopback, by name.
pub fn interfaces(root: &Path) -> Vec<Interface> {
    let folders = folders(&root.join("sys/class/net"));
    folders.iter().map(|folder| interface(folder)).filter(|interface| interface.name != "lo").collect()
}

fn interface(folder: &Path) -> Interface {
    Interface {
        name: name(folder),
        // -1 where there is no carrier
        speed_mbit_s: read_number(&folder.join("speed")).filter(|speed| *speed > 0),
        has_carrier: read_number::<u8>(&folder.join("carrier")).map(|carrier| carrier > 0),
        is_physical: folder.join("device").exists(),
        is_wireless: folder.join("wireless").exists() || folder.join("phy80211").exists(),
        is_bridge: folder.join("bridge").exists(),
        member_of: target(&folder.join("master")),
        driver: target(&folder.join("device/driver")),
    }
}

/// The RDMA devices, by name.
pub fn infiniband(root: &Path) -> Vec<InfinibandDevice> {
    let devices = folders(&root.join("sys/class/infiniband"));
    devices
        .iter()
        .map(|device| {
            let mut ports: Vec<InfinibandPort> =
                folders(&device.join("ports")).iter().filter_map(|port| self::port(port)).collect();
            ports.sort_by_key(|port| port.number);
            InfinibandDevice { name: name(device), ports }
        })
        .collect()
}

fn port(folder: &Path) -> Option<InfinibandPort> {
    // "4: ACTIVE", "100 Gb/sec (4X EDR)"
    let state = read(&folder.join("state")).unwrap_or_default();
    let rate = read(&folder.join("rate")).unwrap_or_default();
    let rate = rate.split_once(" Gb/sec").and_then(|(rate, _)| rate.trim().parse().ok());
    Some(InfinibandPort {
        number: name(folder).parse().ok()?,
        is_active: state.starts_with("4:"),
        link_layer: read(&folder.join("link_layer")).filter(|layer| !layer.is_empty()),
        rate_gbit_s: rate.filter(|rate: &f64| rate.is_finite() && *rate > 0.0),
        interface: read(&folder.join("gid_attrs/ndevs/0")).filter(|interface| !interface.is_empty()),
    })
}
