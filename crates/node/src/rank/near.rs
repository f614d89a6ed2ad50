//! Ranks of one node leave TCP for shared memory, and stay with TCP where that cannot be had. Knows whom; how memory is
//! handed over, `transport` knows.

use std::{path::Path, time::Duration};

use base::RankId;
use collective::CollectiveError;
use transport::shm::{self, HandoverError};

use super::Links;
use crate::secret::nonce;

/// Replaces the links of rank `me` to ranks of its own node. Every rank goes through its peers in the order of ranks,
/// and the lower of two offers, so no ring of ranks waits for itself.
pub(super) fn share_memory(
    me: RankId,
    is_near: impl Fn(RankId) -> bool,
    links: &mut Links,
    directory: &Path,
    deadline: Duration,
) -> Result<(), CollectiveError> {
    links.sort_by_key(|(peer, _)| *peer);
    for (peer, link) in links.iter_mut().filter(|(peer, _)| is_near(*peer)) {
        let shared = if me < *peer {
            shm::offer(link.as_mut(), nonce(), directory, deadline)
        } else {
            shm::accept(link.as_mut(), deadline)
        };
        match shared {
            Ok(shared) => *link = Box::new(shared),
            Err(why @ HandoverError::Declined { .. }) => eprintln!("warning: {me} stays with TCP: {why}"),
            Err(HandoverError::Link(source)) => {
                return Err(CollectiveError::Link { op: "share memory", rank: me, peer: *peer, source });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{env, thread};

    use transport::{Link, MemoryLink, recv, send};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Links among four ranks, of which 0, 1 and 3 are on one node; what each has in the end, by peer.
    fn linked(directory: &Path) -> Vec<Links> {
        let mut worlds: Vec<Links> = (0..4).map(|_| Vec::new()).collect();
        for (low, high) in [(0, 1), (1, 2), (0, 3), (2, 3), (1, 3), (0, 2)] {
            let (a, b) = MemoryLink::pair();
            worlds[low].push((RankId(high as u32), Box::new(a)));
            worlds[high].push((RankId(low as u32), Box::new(b)));
        }
        thread::scope(|s| {
            let ranks = (0..).zip(&mut worlds).map(|(rank, links)| {
                let is_near = move |peer| rank != 2 && peer != RankId(2);
                s.spawn(move || share_memory(RankId(rank), is_near, links, directory, LONG))
            });
            let ranks: Vec<_> = ranks.collect();
            ranks.into_iter().for_each(|rank| rank.join().unwrap().unwrap());
        });
        worlds
    }

    /// A link inside this process is nothing that the kernel can wait on, one over shared memory is.
    fn is_shared(link: &dyn Link) -> bool {
        link.pollable().is_some()
    }

    #[test]
    fn ranks_of_one_node_share_memory_and_others_do_not() {
        for (rank, links) in (0..).zip(linked(&env::temp_dir())) {
            for (peer, link) in &links {
                assert_eq!(is_shared(link.as_ref()), rank != 2 && *peer != RankId(2), "{rank} to {peer}");
            }
        }
    }

    #[test]
    fn ranks_that_cannot_share_memory_keep_their_links() {
        let mut worlds = linked(Path::new("/nowhere/at/all"));
        let (first, rest) = worlds.split_first_mut().unwrap();
        let (near, far) = (&mut first[0].1, &mut rest[0][0].1);
        assert!(!is_shared(near.as_ref()) && !is_shared(far.as_ref()));
        send(near.as_mut(), b"as before", Some(LONG)).unwrap();
        let mut message = Vec::new();
        recv(far.as_mut(), &mut message, Some(LONG)).unwrap();
        assert_eq!(message, b"as before");
    }
}
