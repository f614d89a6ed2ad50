//! Credits: no packet is sent for which the peer has no receive posted, since the device would drop it and say nothing.
//! A receiver posts a packet's receive again when its bytes were read, and tells so with the next packet it sends; if it has
//! nothing to send, with a packet of its own once a quarter of its receives are due. One receive of each end is kept for
//! those, so that two ends which only send still hear of each other. Knows counts, not packets.

/// Receives that only packets of credit may use.
const N_RESERVED: u32 = 1;

/// Receives that are told of together, at least. One by one, each packet of credit would be answered by another.
const MIN_TOGETHER: u32 = 2;

/// One end's account. All counts are modulo 2^32.
#[derive(Debug)]
pub(super) struct Credits {
    /// Receives that this end keeps posted.
    n_receives: u32,
    /// Receives that the peer keeps posted.
    n_peer_receives: u32,
    /// Packets sent.
    n_sent: u32,
    /// Receives that the peer posted again, as far as it said.
    n_granted: u32,
    /// Receives that this end posted again.
    n_reposted: u32,
    /// Those of them that the peer was told of.
    n_announced: u32,
}

impl Credits {
    /// The account of two ends that have posted all their receives.
    pub(super) fn new(n_receives: u32, n_peer_receives: u32) -> Credits {
        Credits { n_receives, n_peer_receives, n_sent: 0, n_granted: 0, n_reposted: 0, n_announced: 0 }
    }

    /// Packets sent so far.
    pub(super) fn n_sent(&self) -> u32 {
        self.n_sent
    }

    /// Packets that the peer may not have read yet.
    pub(super) fn n_in_flight(&self) -> u32 {
        self.n_sent.wrapping_sub(self.n_granted)
    }

    /// Whether a packet of a message may go.
    pub(super) fn has_data_credit(&self) -> bool {
        self.n_in_flight() + N_RESERVED < self.n_peer_receives
    }

    /// Whether a packet of credit is due and may go.
    pub(super) fn owes_credit(&self) -> bool {
        let n_unsaid = self.n_reposted.wrapping_sub(self.n_announced);
        n_unsaid >= (self.n_receives / 4).max(MIN_TOGETHER) && self.n_in_flight() < self.n_peer_receives
    }

    /// A packet goes: its number, and the count to put into it.
    pub(super) fn sent(&mut self) -> (u32, u32) {
        let sequence = self.n_sent;
        self.n_sent = self.n_sent.wrapping_add(1);
        self.n_announced = self.n_reposted;
        (sequence, self.n_reposted)
    }

    /// A receive was posted again.
    pub(super) fn reposted(&mut self) {
        self.n_reposted = self.n_reposted.wrapping_add(1);
    }

    /// The peer says how many receives it posted again so far. More than it was sent, or fewer than before, is a lie:
    /// then the largest number that would be none is returned.
    pub(super) fn granted(&mut self, n_reposted: u32) -> Result<(), u32> {
        match n_reposted.wrapping_sub(self.n_granted) <= self.n_in_flight() {
            true => {
                self.n_granted = n_reposted;
                Ok(())
            }
            false => Err(self.n_sent),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// One end of a simulated link: how much it has to send, what lies in its receives, what is on its way to it.
    struct End {
        credits: Credits,
        n_to_send: u32,
        n_unread: u32,
        wire: VecDeque<(bool, u32)>,
    }

    impl End {
        fn new(n_receives: u32, n_peer_receives: u32, n_to_send: u32) -> End {
            let mut credits = Credits::new(n_receives, n_peer_receives);
            // near the end of the numbers
            for n in [
                &mut credits.n_sent,
                &mut credits.n_granted,
                &mut credits.n_reposted,
                &mut credits.n_announced,
            ] {
                *n = u32::MAX - 20;
            }
            End { credits, n_to_send, n_unread: 0, wire: VecDeque::new() }
        }

        /// Takes what arrived.
        fn arrive(&mut self) -> bool {
            let Some((is_data, n_reposted)) = self.wire.pop_front() else { return false };
            self.credits.granted(n_reposted).unwrap();
            if is_data {
                self.n_unread += 1;
            } else {
                self.credits.reposted();
            }
            true
        }

        fn read(&mut self) -> bool {
            let can = self.n_unread > 0;
            if can {
                self.n_unread -= 1;
                self.credits.reposted();
            }
            can
        }

        fn send(&mut self, peer: &mut End) -> bool {
            let is_data = self.n_to_send > 0 && self.credits.has_data_credit();
            if !is_data && !self.credits.owes_credit() {
                return false;
            }
            self.n_to_send -= u32::from(is_data);
            peer.wire.push_back((is_data, self.credits.sent().1));
            // what the device would drop
            let n_taken = peer.wire.len() as u32 + peer.n_unread;
            assert!(
                n_taken <= peer.credits.n_receives,
                "{n_taken} packets for {} receives",
                peer.credits.n_receives
            );
            true
        }
    }

    proptest! {
        /// In whatever order the two ends act, no packet is sent without a receive, and everything gets through.
        #[test]
        fn nothing_is_dropped_and_nothing_stalls(
            receives in (4..40u32, 4..40u32), to_send in (0..300u32, 0..300u32),
            acts in prop::collection::vec(0..6u8, 0..400),
        ) {
            let mut a = End::new(receives.0, receives.1, to_send.0);
            let mut b = End::new(receives.1, receives.0, to_send.1);
            let act = |act: u8, a: &mut End, b: &mut End| match act {
                0 => a.send(b),
                1 => b.send(a),
                2 => a.arrive(),
                3 => b.arrive(),
                4 => a.read(),
                _ => b.read(),
            };
            for random in acts {
                act(random, &mut a, &mut b);
            }
            // then everybody does what can be done, until nobody can
            while (0..6).fold(false, |moved, all| act(all, &mut a, &mut b) | moved) {}
            prop_assert_eq!((a.n_to_send, b.n_to_send, a.n_unread, b.n_unread), (0, 0, 0, 0));
        }
    }

    #[test]
    fn a_lie_is_noticed() {
        let mut credits = Credits::new(8, 8);
        credits.sent();
        credits.sent();
        assert_eq!(credits.granted(3), Err(2));
        assert_eq!(credits.granted(1), Ok(()));
        assert_eq!(credits.granted(0), Err(2));
        assert_eq!(credits.granted(u32::MAX), Err(2));
        assert_eq!(credits.n_in_flight(), 1);
    }
}
