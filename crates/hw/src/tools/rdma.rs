//! `ibv_devices`, `ibv_devinfo` and `rdma_ctl`: RDMA devices and the states of their ports, on Macs as on Linux. It does not know
//! which cables they sit on.

use super::{ToolError, field};

const DEVICES: &str = "ibv_devices";
const DEVINFO: &str = "ibv_devinfo";
const RDMA_CTL: &str = "rdma_ctl";

/// A device as `ibv_devices` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceName {
    /// As in `rdma_en2`.
    pub name: String,
    /// The node's GUID.
    pub guid: u64,
}

/// A device as `ibv_devinfo` describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// As in `rdma_en2`.
    pub name: String,
    /// As in `Thunderbolt (100)`, `InfiniBand (0)`.
    pub transport: Option<String>,
    /// Its ports.
    pub ports: Vec<DevicePort>,
}

/// A port of an RDMA device.
#[derive(Clone, Debug, PartialEq)]
pub struct DevicePort {
    /// Counted from 1.
    pub number: u32,
    /// Whether it can carry anything.
    pub state: PortState,
    /// The unit of transfer in use, in bytes.
    pub active_mtu: Option<u32>,
    /// As in `Thunderbolt`, `Ethernet`.
    pub link_layer: Option<String>,
    /// Lanes in use.
    pub n_lanes: Option<u32>,
    /// Of each lane.
    pub lane_gbit_s: Option<f64>,
    /// Addresses by their index, as printed.
    pub gids: Vec<(u32, String)>,
}

/// What a port says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Ready.
    Active,
    /// Nothing at the other end, or wedged.
    Down,
    /// On its way, or something newer than this program.
    Other,
}

impl Device {
    /// Whether one of its ports is ready.
    pub fn is_active(&self) -> bool {
        self.ports.iter().any(|port| port.state == PortState::Active)
    }
}

impl DevicePort {
    /// Index of the address that maps an IPv4 address: the one that works between Macs.
    pub fn ipv4_gid(&self) -> Option<u32> {
        self.gids.iter().find(|(_, gid)| is_ipv4_mapped(gid)).map(|(index, _)| *index)
    }
}

/// Whether a Mac has RDMA switched on: `rdma_ctl status`.
pub fn is_enabled(text: &str) -> Result<bool, ToolError> {
    match text.trim() {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        other => Err(ToolError::new(RDMA_CTL, "enabled or disabled", other)),
    }
}

/// The rows below two lines of headings; none where RDMA is off.
pub fn devices(text: &str) -> Result<Vec<DeviceName>, ToolError> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let headings = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if !headings.0.trim_start().starts_with("device") || !headings.1.trim_start().starts_with("---") {
        return Err(ToolError::new(DEVICES, "two lines of headings", text));
    }
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, guid) = (words.next()?.to_owned(), words.next()?);
        let guid = (guid.len() == 16).then(|| u64::from_str_radix(guid, 16).ok()).flatten()?;
        words.next().is_none().then_some(DeviceName { name, guid })
    };
    lines
        .map(|line| row(line).ok_or_else(|| ToolError::new(DEVICES, "a name and 16 hex digits", line)))
        .collect()
}

/// Every device with its ports, with or without `-v`. What says that there is none is an empty list.
pub fn devinfo(text: &str) -> Result<Vec<Device>, ToolError> {
    let mut devices: Vec<Device> = Vec::new();
    for line in text.lines() {
        if let Some(name) = field(line, "hca_id") {
            devices.push(Device { name: name.to_owned(), transport: None, ports: Vec::new() });
            continue;
        }
        let Some(device) = devices.last_mut() else { continue };
        if let Some(transport) = field(line, "transport") {
            device.transport = Some(transport.to_owned());
        } else if let Some(number) = field(line, "port") {
            let number = number.parse().map_err(|_| ToolError::new(DEVINFO, "a port's number", line))?;
            device.ports.push(DevicePort::new(number));
        } else if let Some(port) = device.ports.last_mut() {
            port.read(line);
        }
    }
    if devices.is_empty() && !text.trim().is_empty() && !text.contains("No IB devices found") {
        return Err(ToolError::new(DEVINFO, "hca_id", text));
    }
    Ok(devices)
}

impl DevicePort {
    fn new(number: u32) -> DevicePort {
        DevicePort {
            number,
            state: PortState::Other,
            active_mtu: None,
            link_layer: None,
            n_lanes: None,
            lane_gbit_s: None,
            gids: Vec::new(),
        }
    }

    fn read(&mut self, line: &str) {
        let first = |name| field(line, name).and_then(|value| value.split_whitespace().next());
        if let Some(state) = first("state") {
            self.state = match state {
                "PORT_ACTIVE" => PortState::Active,
                "PORT_DOWN" => PortState::Down,
                _ => PortState::Other,
            };
        } else if let Some(mtu) = first("active_mtu") {
            self.active_mtu = mtu.parse().ok();
        } else if let Some(layer) = field(line, "link_layer") {
            self.link_layer = Some(layer.to_owned());
        } else if let Some(width) = first("active_width") {
            self.n_lanes = width.trim_end_matches(['X', 'x']).parse().ok();
        } else if let Some(speed) = first("active_speed") {
            self.lane_gbit_s = speed.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
        } else if let Some((index, gid)) = gid(line) {
            self.gids.push((index, gid));
        }
    }
}

/// `GID[  1]:\t\t::ffff:169.254.10.1, RoCE v2`.
fn gid(line: &str) -> Option<(u32, String)> {
    let (index, gid) = line.trim_start().strip_prefix("GID[")?.split_once("]:")?;
    let gid = gid.split(',').next().unwrap_or_default().trim();
    (!gid.is_empty()).then_some((index.trim().parse().ok()?, gid.to_owned()))
}

fn is_ipv4_mapped(gid: &str) -> bool {
    gid.parse::<std::net::Ipv6Addr>().is_ok_and(|address| address.to_ipv4_mapped().is_some())
}
