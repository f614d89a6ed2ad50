//! `networksetup`: a Mac's network interfaces by the ports they belong to (`-listallhardwareports`), and which services are off
//! (`-listallnetworkservices`). It does not know what is plugged in.

use super::{ToolError, field};

const TOOL: &str = "networksetup";

/// A port and its interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HardwarePort {
    /// As in `Thunderbolt 1`, `Wi-Fi`.
    pub name: String,
    /// As in `en1`.
    pub device: String,
}

/// A network service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// As in `Thunderbolt Bridge`.
    pub name: String,
    /// Whether it may be used.
    pub is_enabled: bool,
}

impl HardwarePort {
    /// N of `Thunderbolt N`.
    pub fn thunderbolt_number(&self) -> Option<u32> {
        self.name.strip_prefix("Thunderbolt ")?.trim().parse().ok()
    }
}

/// Ports that have interfaces, in the tool's order.
pub fn hardware_ports(text: &str) -> Result<Vec<HardwarePort>, ToolError> {
    let mut ports: Vec<HardwarePort> = Vec::new();
    let mut name = None;
    for line in text.lines() {
        if line.starts_with("VLAN Configurations") {
            break;
        }
        if let Some(port) = field(line, "Hardware Port") {
            name = Some(port.to_owned());
        } else if let Some(device) = field(line, "Device") {
            let Some(name) = name.take() else {
                return Err(ToolError::new(TOOL, "a hardware port before its device", line));
            };
            ports.push(HardwarePort { name, device: device.to_owned() });
        }
    }
    match (ports.is_empty(), name) {
        (_, Some(name)) => Err(ToolError::new(TOOL, "a device after its hardware port", &name)),
        (true, None) => Err(ToolError::new(TOOL, "hardware ports", text)),
        (false, None) => Ok(ports),
    }
}

/// Services; the first line explains that `*` marks those that are off.
pub fn services(text: &str) -> Result<Vec<Service>, ToolError> {
    let mut lines = text.lines();
    match lines.next() {
        Some(first) if first.contains('*') => {}
        other => {
            return Err(ToolError::new(TOOL, "a line that explains the asterisk", other.unwrap_or_default()));
        }
    }
    let names = lines.map(str::trim).filter(|line| !line.is_empty());
    Ok(names
        .map(|line| Service {
            name: line.trim_start_matches('*').trim().to_owned(),
            is_enabled: !line.starts_with('*'),
        })
        .collect())
}
