//! What a port says of itself, and whether a link can go over it. Decides on numbers that were read elsewhere.

use std::{fmt, net::Ipv4Addr};

use super::{VerbsError, sys::PortAttr};

/// Over Thunderbolt, RDMA needs a port faster than this, in Gb/s; slower ones list devices that carry nothing.
const THUNDERBOLT_TOO_SLOW_GBPS: f64 = 40.0;

/// What a port can do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Nothing is plugged in, or the other end is off.
    Down,
    /// Plugged in, not ready yet.
    Initializing,
    /// Carries traffic.
    Active,
    /// A state that no header names.
    Unknown(u32),
}

/// What a port's bits travel over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// InfiniBand's own cables.
    InfiniBand,
    /// Ethernet, in hardware or software.
    Ethernet,
    /// Thunderbolt between two Macs.
    Thunderbolt,
    /// One that no header names.
    Unknown(u8),
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct PortReport {
    /// The device.
    pub device: String,
    /// Counted from 1.
    pub port: u8,
    /// What it can do now.
    pub state: PortState,
    /// What its bits travel over.
    pub link_layer: LinkLayer,
    /// Its MTU in bytes, as agreed with what is at the other end of the cable; `None` if that cannot be read.
    pub mtu_bytes: Option<usize>,
    /// Raw speed in Gb/s; `None` if that cannot be read.
    pub speed_gbps: Option<f64>,
    /// Its local identifier, 0 where there is none.
    pub lid: u16,
    /// Its addresses, with their places in the port's table.
    pub gids: Vec<(u8, [u8; 16])>,
}

impl PortReport {
    pub(super) fn new(device: &str, port: u8, attr: &PortAttr, gids: Vec<(u8, [u8; 16])>) -> PortReport {
        PortReport {
            device: device.to_owned(),
            port,
            state: PortState::new(attr.state),
            link_layer: LinkLayer::new(attr.link_layer),
            mtu_bytes: mtu_bytes(attr.active_mtu),
            speed_gbps: speed_gbps(attr.active_width, attr.active_speed),
            lid: attr.lid,
            gids,
        }
    }

    /// The first address that holds an IPv4 address, with its place in the table. It is not always the second one.
    pub fn ipv4(&self) -> Option<(u8, Ipv4Addr)> {
        self.gids.iter().find_map(|(index, gid)| Some((*index, mapped_ipv4(gid)?)))
    }

    /// The place of an IPv4 address in the table.
    pub(super) fn gid_index(&self, address: Ipv4Addr) -> Option<u8> {
        self.gids.iter().find(|(_, gid)| mapped_ipv4(gid) == Some(address)).map(|(index, _)| *index)
    }

    /// Says why no link can go over this port, if so.
    pub fn check(&self) -> Result<(), VerbsError> {
        let wrong = |expected, found, hint| {
            Err(VerbsError::Port { device: self.device.clone(), port: self.port, expected, found, hint })
        };
        if self.state != PortState::Active {
            let hint = "plug the cable in at both ends; the other machine must be on";
            return wrong("an active port", self.state.to_string(), hint);
        }
        if let (LinkLayer::Thunderbolt, Some(speed)) = (self.link_layer, self.speed_gbps)
            && speed <= THUNDERBOLT_TOO_SLOW_GBPS
        {
            let hint = "RDMA needs Thunderbolt 5 ports at both ends and a cable for them";
            return wrong("more than 40 Gb/s", format!("{speed} Gb/s"), hint);
        }
        if self.ipv4().is_none() {
            let hint = "its network interface needs an IPv4 address, a link-local one is enough";
            return wrong(
                "an address that holds an IPv4 address",
                format!("{} others", self.gids.len()),
                hint,
            );
        }
        Ok(())
    }
}

impl PortState {
    pub(super) fn new(state: u32) -> PortState {
        match state {
            1 => PortState::Down,
            2 | 3 => PortState::Initializing,
            4 => PortState::Active,
            other => PortState::Unknown(other),
        }
    }
}

impl fmt::Display for PortState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PortState::Down => f.write_str("down"),
            PortState::Initializing => f.write_str("initializing"),
            PortState::Active => f.write_str("active"),
            PortState::Unknown(state) => write!(f, "state {state}"),
        }
    }
}

impl LinkLayer {
    fn new(link_layer: u8) -> LinkLayer {
        match link_layer {
            1 => LinkLayer::InfiniBand,
            2 => LinkLayer::Ethernet,
            100 => LinkLayer::Thunderbolt,
            other => LinkLayer::Unknown(other),
        }
    }
}

impl fmt::Display for LinkLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkLayer::InfiniBand => f.write_str("InfiniBand"),
            LinkLayer::Ethernet => f.write_str("Ethernet"),
            LinkLayer::Thunderbolt => f.write_str("Thunderbolt"),
            LinkLayer::Unknown(number) => write!(f, "link layer {number}"),
        }
    }
}

/// The IPv4 address in `::ffff:a.b.c.d`.
fn mapped_ipv4(gid: &[u8; 16]) -> Option<Ipv4Addr> {
    std::net::Ipv6Addr::from(*gid).to_ipv4_mapped()
}

/// Bytes for the header's number: 1 is 256, and each next one twice as many, up to 4096.
fn mtu_bytes(mtu: u32) -> Option<usize> {
    (1..=5).contains(&mtu).then(|| 128 << mtu)
}

/// Lanes times their speed, both as the InfiniBand architecture numbers them.
fn speed_gbps(width: u8, speed: u8) -> Option<f64> {
    let n_lanes = match width {
        1 => 1.0,
        2 => 4.0,
        4 => 8.0,
        8 => 12.0,
        16 => 2.0,
        _ => return None,
    };
    let lane = match speed {
        1 => 2.5,
        2 => 5.0,
        4 | 8 => 10.0,
        16 => 14.0,
        32 => 25.0,
        64 => 50.0,
        128 => 100.0,
        _ => return None,
    };
    Some(n_lanes * lane)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0xff, 0xfe, 0, 1, 1];
    const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 80, 1, 2];

    /// A Thunderbolt 5 port as its device describes it.
    fn attr() -> PortAttr {
        PortAttr {
            state: 4,
            active_mtu: 5,
            active_width: 4,
            active_speed: 4,
            link_layer: 100,
            lid: 7,
            ..PortAttr::default()
        }
    }

    fn report(attr: PortAttr, gids: &[[u8; 16]]) -> PortReport {
        let gids = gids.iter().enumerate().map(|(i, gid)| (i as u8 + 2, *gid)).collect();
        PortReport::new("rdma_en2", 1, &attr, gids)
    }

    #[test]
    fn a_port_is_read() {
        let port = report(attr(), &[LINK_LOCAL, MAPPED]);
        assert_eq!((port.state, port.link_layer), (PortState::Active, LinkLayer::Thunderbolt));
        assert_eq!((port.mtu_bytes, port.speed_gbps, port.lid), (Some(4096), Some(80.0), 7));
        assert_eq!(port.ipv4(), Some((3, Ipv4Addr::new(10, 80, 1, 2))));
        assert_eq!(port.gid_index(Ipv4Addr::new(10, 80, 1, 2)), Some(3));
        assert_eq!(port.gid_index(Ipv4Addr::new(10, 80, 1, 1)), None);
        assert!(port.check().is_ok());
        let port = report(PortAttr { active_mtu: 9, active_width: 3, ..attr() }, &[]);
        assert_eq!((port.mtu_bytes, port.speed_gbps, port.ipv4()), (None, None, None));
    }

    #[test]
    fn a_port_that_cannot_carry_a_link_says_why() {
        let why = |attr, gids: &[[u8; 16]]| report(attr, gids).check().unwrap_err().to_string();
        let down = why(PortAttr { state: 1, ..attr() }, &[MAPPED]);
        assert!(down.starts_with("rdma_en2 port 1: expected an active port, found down\nhint: "), "{down}");
        let slow = why(PortAttr { active_width: 2, ..attr() }, &[MAPPED]);
        assert!(slow.contains("expected more than 40 Gb/s, found 40 Gb/s\nhint: "), "{slow}");
        let unnumbered = why(attr(), &[LINK_LOCAL]);
        assert!(unnumbered.contains("found 1 others\nhint: "), "{unnumbered}");
        // 40 Gb/s is fine over anything else
        assert!(report(PortAttr { active_width: 2, link_layer: 2, ..attr() }, &[MAPPED]).check().is_ok());
    }
}
