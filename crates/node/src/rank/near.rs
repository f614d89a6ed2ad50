//! Two ranks of one node leave TCP for shared memory, and stay with TCP where that cannot be had. How memory is handed
//! over, `transport` knows.

use std::{path::Path, time::Duration};

use base::RankId;
use collective::CollectiveError;
use transport::{
    Link, TcpLink,
    shm::{self, HandoverError},
};

use super::links::Carried;
use crate::secret::nonce;

/// The link of rank `me` to rank `peer` of its own node, which calls this too: the lower one offers.
pub(super) fn carry(
    me: RankId,
    peer: RankId,
    mut link: TcpLink,
    directory: &Path,
    deadline: Duration,
) -> Result<Carried, CollectiveError> {
    let shared = match me < peer {
        true => shm::offer(&mut link, nonce(), directory, deadline),
        false => shm::accept(&mut link, deadline),
    };
    let (link, over): (Box<dyn Link>, _) = match shared {
        Ok(shared) => (Box::new(shared), "shm"),
        Err(why @ HandoverError::Declined { .. }) => {
            eprintln!("warning: {me} stays with TCP: {why}");
            (Box::new(link), "tcp")
        }
        Err(HandoverError::Link(source)) => {
            return Err(CollectiveError::Link { op: "share memory", rank: me, peer, source });
        }
    };
    Ok(Carried { link, over: over.to_owned() })
}
