//! Two ranks of different nodes leave TCP for RDMA verbs where both have a device at the ends of the way that their
//! stream takes, and stay with TCP elsewhere. Which device that is, the stream's own address says; everything else about
//! devices, `transport` knows.

use std::{
    net::{IpAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use base::RankId;
use transport::{
    TcpLink,
    verbs::{Device, Limits, Upgrade, Verbs, VerbsError, upgrade},
};

use super::{RankError, links::Carried};

/// This machine's RDMA devices, each opened once, when the first link looks for one.
#[derive(Default)]
pub(super) struct Devices(Option<Vec<Arc<Device>>>);

impl Devices {
    /// The device whose port has that address.
    fn at(&mut self, address: IpAddr) -> Result<Arc<Device>, VerbsError> {
        let devices = match &mut self.0 {
            Some(devices) => devices,
            none => none.insert(Verbs::load()?.open_all()),
        };
        let has_it = |device: &&Arc<Device>| match address.to_canonical() {
            IpAddr::V4(address) => device.has_address(address),
            IpAddr::V6(_) => false,
        };
        let names = || devices.iter().map(|device| device.name().to_owned()).collect();
        let found = devices.iter().find(has_it).cloned();
        found.ok_or_else(|| VerbsError::NoDeviceAt { address, found: names() })
    }
}

/// The link of rank `me` to rank `peer` of another node, which calls this too. No step takes longer than `deadline`.
pub(super) fn carry(
    me: RankId,
    peer: RankId,
    stream: TcpStream,
    devices: &mut Devices,
    deadline: Duration,
) -> Result<Carried, RankError> {
    let device = devices.at(stream.local_addr()?.ip());
    let has_device = device.is_ok();
    match upgrade(stream, peer.to_string(), device, Limits::APPLE, deadline)? {
        Upgrade::Verbs(link) => {
            let over = format!("verbs {}", link.device());
            Ok(Carried { link, over })
        }
        Upgrade::Tcp(stream, why) => {
            if has_device {
                eprintln!("warning: {me} stays with TCP to {peer}: {why}");
            }
            Carried::tcp(stream, peer)
        }
    }
}

impl Carried {
    /// A link that stays as it is.
    pub(super) fn tcp(stream: TcpStream, peer: RankId) -> Result<Carried, RankError> {
        Ok(Carried { link: Box::new(TcpLink::new(stream, peer.to_string())?), over: "tcp".to_owned() })
    }
}
