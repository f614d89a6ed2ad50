//! Links over RDMA verbs: unreliable connected queue pairs with SEND and RECV only, which is what Thunderbolt between Macs
//! offers and what every RDMA device has. The system's library is opened at run time, so a machine without one loses
//! nothing. Knows devices and packets; which devices are joined by a cable is said by the caller.
//!
//! [`Verbs::load`] opens the library, [`Verbs::probe`] tells what there is, [`upgrade`] puts a [`VerbsLink`] beside a TCP
//! stream or gives the stream back with the reason why not.
//!
//! ```no_run
//! # use std::{net::TcpStream, time::Duration};
//! use transport::{Link, TcpLink, verbs::{Limits, Upgrade, Verbs, upgrade}};
//!
//! /// Both ends call this with their end of an authenticated stream; each names its own device.
//! fn link(stream: TcpStream, peer: &str, device: &str) -> Result<Box<dyn Link>, Box<dyn std::error::Error>> {
//!     let device = Verbs::load().and_then(|verbs| verbs.open(device));
//!     match upgrade(stream, peer, device, Limits::APPLE, Duration::from_secs(10))? {
//!         Upgrade::Verbs(link) => Ok(link),
//!         Upgrade::Tcp(stream, why) => {
//!             eprintln!("{peer}: over TCP, for {why}");
//!             Ok(Box::new(TcpLink::new(stream, peer)?))
//!         }
//!     }
//! }
//! ```

mod control;
mod credit;
mod device;
mod error;
mod library;
mod link;
mod packet;
mod pair;
mod port;
mod sys;
pub mod twin;
mod upgrade;

pub use device::{Device, DeviceReport, Verbs};
pub use error::VerbsError;
pub use link::{LOSS_MS, VerbsLink};
pub use packet::{PACKET_BYTES, PACKET_HEADER_BYTES};
pub use port::{LinkLayer, PortReport, PortState};
pub use twin::Rules;
pub use upgrade::{MAX_ATTEMPTS, Upgrade, upgrade};

/// What a device and its driver bear. Links obey it, so that nothing depends on how a driver fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Queue pairs of a device, one for each link.
    pub n_queue_pairs: usize,
    /// Registered regions of a device, one for each link.
    pub n_regions: usize,
    /// Receives that a link keeps posted; as many packets may be on their way to it.
    pub n_receives: u32,
    /// Sends that a link has under way.
    pub n_sends: u32,
}

impl Limits {
    /// Apple's, over Thunderbolt: 10 queue pairs, about 100 regions, and up to 63 receives, of which 32 are always safe.
    pub const APPLE: Limits = Limits { n_queue_pairs: 10, n_regions: 100, n_receives: 32, n_sends: 32 };

    /// With fewer receives there is no room for packets of data and of credit at the same time.
    const MIN_RECEIVES: u32 = 4;
    /// With more requests of a link than this a queue pair cannot be made, sends and receives together.
    const MAX_REQUESTS: u32 = 4095;

    /// Links of a device.
    fn n_links(self) -> usize {
        self.n_queue_pairs.min(self.n_regions)
    }

    fn check(self) -> Result<(), VerbsError> {
        let n_requests = self.n_receives.saturating_add(self.n_sends);
        let fits = self.n_receives >= Limits::MIN_RECEIVES && self.n_sends > 0;
        match fits && n_requests <= Limits::MAX_REQUESTS {
            true => Ok(()),
            false => Err(VerbsError::Limits {
                min_receives: Limits::MIN_RECEIVES,
                max_requests: Limits::MAX_REQUESTS,
                found: self,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_no_queue_pair_can_keep_are_refused() {
        let with = |n_receives, n_sends| Limits { n_receives, n_sends, ..Limits::APPLE }.check();
        assert!(with(32, 32).is_ok() && with(4, 1).is_ok() && with(4000, 95).is_ok());
        for (n_receives, n_sends) in [(3, 1), (4, 0), (4000, 96), (u32::MAX, u32::MAX)] {
            assert!(matches!(with(n_receives, n_sends), Err(VerbsError::Limits { .. })));
        }
        assert_eq!(Limits::APPLE.n_links(), 10);
    }
}
