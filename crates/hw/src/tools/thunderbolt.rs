//! `system_profiler SPThunderboltDataType -json`: a Mac's Thunderbolt ports and what is plugged into them, and which of two Macs'
//! ports a cable joins. It does not know network interfaces.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::ToolError;

const TOOL: &str = "system_profiler";
/// Its list of buses, and its kind of data.
const DATA: &str = "SPThunderboltDataType";
/// The most that a link negotiates without being Thunderbolt 5, in Gb/s: RDMA needs more.
pub const MAX_TB4_GBIT_S: u32 = 40;

/// A port of a Mac.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// N of `Thunderbolt N` in `networksetup`'s list.
    pub number: Option<u32>,
    /// Its domain: what the Mac at the other end lists.
    pub domain: Option<String>,
    /// Whether something is plugged in.
    pub is_connected: bool,
    /// What both ends agreed on, in Gb/s; `None` at an empty port.
    pub negotiated_gbit_s: Option<u32>,
    /// What the port could do, in Gb/s, where an empty one says so.
    pub ceiling_gbit_s: Option<u32>,
    /// What is plugged in.
    pub attached: Vec<Attached>,
}

/// A device at a port, or behind another device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Its own name.
    pub name: String,
    /// Its model: for a Mac, the identifier.
    pub model: Option<String>,
    /// Who made it.
    pub vendor: Option<String>,
    /// The domain of its own port: only Macs have one.
    pub domain: Option<String>,
    /// What hangs on it.
    pub behind: Vec<Attached>,
}

/// Another Mac that a port leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached<'a> {
    /// The Mac.
    pub mac: &'a Attached,
    /// The nearest device between the port and it, such as a hub.
    pub through: Option<&'a Attached>,
}

/// A cable between ports of two Macs, given by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Place of the first Mac's port.
    pub from: usize,
    /// Place of the second Mac's port.
    pub to: usize,
    /// Nothing is between them.
    pub is_direct: bool,
    /// What both ends agreed on, in Gb/s: the lesser where they differ.
    pub gbit_s: Option<u32>,
}

/// The ports, in the order of their numbers; those without one come last.
pub fn parse(text: &str) -> Result<Vec<Port>, ToolError> {
    let value: Value =
        serde_json::from_str(text).map_err(|e| ToolError::new(TOOL, "JSON", &format!("{e}: {text}")))?;
    let buses = value[DATA].as_array().ok_or_else(|| ToolError::new(TOOL, "a list of buses", text))?;
    let buses = buses.iter().map(|bus| {
        let found = || ToolError::new(TOOL, "buses with names and values", &bus.to_string());
        bus.as_object().map(port).ok_or_else(found)
    });
    let mut ports = buses.collect::<Result<Vec<Port>, ToolError>>()?;
    ports.sort_by_key(|port| port.number.unwrap_or(u32::MAX));
    Ok(ports)
}

impl Port {
    /// The Macs that this port leads to, directly or through something.
    pub fn macs(&self) -> Vec<Reached<'_>> {
        let mut found = Vec::new();
        reach(&self.attached, None, &mut found);
        found
    }

    /// Whether the cable in it is fast enough for RDMA.
    pub fn is_fast(&self) -> bool {
        self.negotiated_gbit_s.is_some_and(|speed| speed > MAX_TB4_GBIT_S)
    }
}

/// The cables between two Macs: each end lists the other's domain. Two cables are two entries.
pub fn cables(from: &[Port], to: &[Port]) -> Vec<Cable> {
    let mut cables = Vec::new();
    for (i, a) in from.iter().enumerate() {
        for (j, b) in to.iter().enumerate() {
            let (Some(there), Some(back)) = (leads(a, b), leads(b, a)) else { continue };
            let gbit_s = a.negotiated_gbit_s.into_iter().chain(b.negotiated_gbit_s).min();
            cables.push(Cable { from: i, to: j, is_direct: there && back, gbit_s });
        }
    }
    cables
}

/// Whether one port leads to another, and if so, directly.
fn leads(from: &Port, to: &Port) -> Option<bool> {
    let domain = to.domain.as_ref()?;
    from.macs().iter().find(|r| r.mac.domain.as_ref() == Some(domain)).map(|r| r.through.is_none())
}

fn reach<'a>(devices: &'a [Attached], through: Option<&'a Attached>, found: &mut Vec<Reached<'a>>) {
    for device in devices {
        if device.domain.is_some() {
            found.push(Reached { mac: device, through });
        }
        reach(&device.behind, Some(device), found); // no deeper than JSON's reader lets it be
    }
}

fn port(bus: &Map<String, Value>) -> Port {
    let tag = bus.iter().find(|(key, _)| key.starts_with("receptacle_") && key.ends_with("_tag"));
    let tag = tag.and_then(|(_, tag)| tag.as_object());
    let told = |key: &str| tag.and_then(|tag| text(tag, key));
    let is_connected = told("receptacle_status_key").as_deref() == Some("receptacle_connected");
    let speed = told("current_speed_key");
    // an empty port tells a ceiling, "Up to 120 Gb/s"
    let ceiling = speed.as_deref().and_then(|speed| speed.strip_prefix("Up to "));
    Port {
        number: told("receptacle_id_key").and_then(|id| id.parse().ok()),
        domain: text(bus, "domain_uuid_key"),
        is_connected,
        negotiated_gbit_s: speed.as_deref().and_then(gbit_s).filter(|_| is_connected),
        ceiling_gbit_s: ceiling.and_then(gbit_s),
        attached: items(bus),
    }
}

fn items(of: &Map<String, Value>) -> Vec<Attached> {
    let items = of.get("_items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let items = items.iter().filter_map(Value::as_object);
    items
        .map(|item| Attached {
            name: text(item, "_name").unwrap_or_default(),
            model: text(item, "device_name_key"),
            vendor: text(item, "vendor_name_key"),
            domain: text(item, "domain_uuid_key"),
            behind: self::items(item),
        })
        .collect()
}

fn text(of: &Map<String, Value>, key: &str) -> Option<String> {
    of.get(key)?.as_str().map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// `80 Gb/s`.
fn gbit_s(speed: &str) -> Option<u32> {
    speed.trim().strip_suffix("Gb/s")?.trim().parse().ok()
}
