//! Messages as packets: what stands in front of each, and the check that the packets which arrive are the ones that were sent,
//! whole and in order. Knows no device.

/// Bytes of a packet with its header. Thunderbolt counts in pieces of this size, and a receive takes one.
pub const PACKET_BYTES: usize = 4096;

/// Bytes in front of every packet's part of a message.
pub const PACKET_HEADER_BYTES: usize = 20;

/// Bytes of a message in one packet.
pub(super) const PART_BYTES: usize = PACKET_BYTES - PACKET_HEADER_BYTES;

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only tells of receives that were posted again.
    Credit,
    /// Begins a message of so many bytes.
    First(u32),
    /// Goes on with a message.
    Next,
}

/// What stands in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Packets before this one, modulo 2^32.
    pub(super) sequence: u32,
    /// Receives that the sender posted again so far, modulo 2^32.
    pub(super) n_reposted: u32,
    pub(super) kind: Kind,
    /// Bytes of the message in this packet.
    pub(super) n_bytes: usize,
}

/// Why a packet is none of those that were due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It is shorter than it says, or its checksum is another: expected and found.
    Damaged { expected: u32, found: u32 },
    /// Packets before it did not arrive.
    Lost { n_sent: u32 },
    /// It came before, or is from elsewhere.
    Repeated { found: u32 },
    /// Its length is none that the message has at this place.
    Length { expected: usize, found: usize },
}

/// The incoming side: which packet is next, and how much of the current message is still to come.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    n_arrived: u32,
    n_due: usize,
}

impl Header {
    /// Writes it in front of the `n_bytes` that are in the packet already, and returns the length of both.
    pub(super) fn write(&self, packet: &mut [u8]) -> usize {
        let (tag, message_len) = match self.kind {
            Kind::Credit => (0u16, 0),
            Kind::First(len) => (1, len),
            Kind::Next => (2, 0),
        };
        packet[4..8].copy_from_slice(&self.sequence.to_le_bytes());
        packet[8..12].copy_from_slice(&self.n_reposted.to_le_bytes());
        packet[12..16].copy_from_slice(&message_len.to_le_bytes());
        packet[16..18].copy_from_slice(&(self.n_bytes as u16).to_le_bytes());
        packet[18..20].copy_from_slice(&tag.to_le_bytes());
        let len = PACKET_HEADER_BYTES + self.n_bytes;
        let sum = checksum(&packet[4..len]);
        packet[..4].copy_from_slice(&sum.to_le_bytes());
        len
    }

    /// Reads the header of a packet that arrived with so many bytes.
    fn read(packet: &[u8]) -> Result<Header, Wrong> {
        let Some((head, _)) = packet.split_first_chunk::<PACKET_HEADER_BYTES>() else {
            return Err(Wrong::Length { expected: PACKET_HEADER_BYTES, found: packet.len() });
        };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (expected, found) = (word(0), checksum(&packet[4..]));
        let kind = match u16::from_le_bytes([head[18], head[19]]) {
            0 => Some(Kind::Credit),
            1 => Some(Kind::First(word(12))),
            2 => Some(Kind::Next),
            _ => None,
        };
        let n_bytes = usize::from(u16::from_le_bytes([head[16], head[17]]));
        match kind {
            Some(kind) if expected == found && packet.len() == PACKET_HEADER_BYTES + n_bytes => {
                Ok(Header { sequence: word(4), n_reposted: word(8), kind, n_bytes })
            }
            _ => Err(Wrong::Damaged { expected, found }),
        }
    }
}

impl Incoming {
    /// Packets that arrived so far, modulo 2^32.
    pub(super) fn n_arrived(&self) -> u32 {
        self.n_arrived
    }

    /// Takes the next packet, which arrived with so many bytes.
    pub(super) fn take(&mut self, packet: &[u8]) -> Result<Header, Wrong> {
        let header = Header::read(packet)?;
        match header.sequence.wrapping_sub(self.n_arrived).cast_signed() {
            0 => {}
            1.. => return Err(Wrong::Lost { n_sent: header.sequence }),
            _ => return Err(Wrong::Repeated { found: header.sequence }),
        }
        // Every packet of a message but the last is full, and no message begins inside another.
        let n_due = match (header.kind, self.n_due) {
            (Kind::Credit, n_due) => n_due,
            (Kind::First(len), 0) => len as usize,
            (Kind::First(_), n_due) => return Err(Wrong::Length { expected: n_due, found: 0 }),
            (Kind::Next, n_due) => n_due,
        };
        let expected = if header.kind == Kind::Credit { 0 } else { n_due.min(PART_BYTES) };
        let is_nothing = header.kind == Kind::Next && n_due == 0;
        if header.n_bytes != expected || is_nothing {
            return Err(Wrong::Length { expected, found: header.n_bytes });
        }
        self.n_due = n_due - header.n_bytes;
        self.n_arrived = self.n_arrived.wrapping_add(1);
        Ok(header)
    }
}

/// Half of a hash. The device has a checksum of its own for the cable's errors; this one is for packets that are not what
/// their header says.
fn checksum(bytes: &[u8]) -> u32 {
    rapidhash::v3::rapidhash_v3(bytes) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(sequence: u32, kind: Kind, part: &[u8]) -> Vec<u8> {
        let mut packet = vec![0; PACKET_BYTES];
        packet[PACKET_HEADER_BYTES..PACKET_HEADER_BYTES + part.len()].copy_from_slice(part);
        let len = Header { sequence, n_reposted: 5, kind, n_bytes: part.len() }.write(&mut packet);
        packet.truncate(len);
        packet
    }

    #[test]
    fn a_packet_is_golden() {
        let packet = packet(7, Kind::First(2), b"ab");
        assert_eq!(packet[4..], *b"\x07\0\0\0\x05\0\0\0\x02\0\0\0\x02\0\x01\0ab");
        assert_eq!(packet[..4], [50, 213, 179, 244]);
        let header = Header { sequence: 7, n_reposted: 5, kind: Kind::First(2), n_bytes: 2 };
        assert_eq!(Header::read(&packet), Ok(header));
    }

    #[test]
    fn lost_and_repeated_packets_are_told_apart() {
        let mut incoming = Incoming { n_arrived: u32::MAX, n_due: 0 };
        assert_eq!(incoming.take(&packet(1, Kind::Credit, b"")), Err(Wrong::Lost { n_sent: 1 }));
        assert_eq!(incoming.take(&packet(9, Kind::Credit, b"")), Err(Wrong::Lost { n_sent: 9 }));
        incoming.take(&packet(u32::MAX, Kind::Credit, b"")).unwrap();
        assert_eq!(
            incoming.take(&packet(u32::MAX, Kind::Credit, b"")),
            Err(Wrong::Repeated { found: u32::MAX })
        );
        assert_eq!(incoming.n_arrived(), 0);
    }

    #[test]
    fn lengths_that_no_message_has_are_refused() {
        let take = |kind, part: &[u8], n_due| Incoming { n_arrived: 3, n_due }.take(&packet(3, kind, part));
        let full = [1; PART_BYTES];
        assert!(take(Kind::First(0), b"", 0).is_ok());
        assert!(take(Kind::First(u32::MAX), &full, 0).is_ok());
        assert!(take(Kind::Next, b"abc", 3).is_ok());
        assert!(take(Kind::Credit, b"", 3).is_ok());
        for (kind, part, n_due) in [
            (Kind::First(4), &b"abc"[..], 0),
            (Kind::First(2), b"abc", 0),
            (Kind::First(3), b"abc", 3),
            (Kind::Next, b"", 0),
            (Kind::Next, b"abc", 0),
            (Kind::Next, b"abc", 2),
            (Kind::Next, b"abc", 4),
            (Kind::Next, b"", 4),
            (Kind::Credit, b"abc", 3),
        ] {
            let wrong = take(kind, part, n_due);
            assert!(matches!(wrong, Err(Wrong::Length { .. })), "{kind:?} {n_due}: {wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_damage_is_seen(part in prop::collection::vec(any::<u8>(), 0..100), at: prop::sample::Index, bit in 0..8u8) {
            let good = packet(0, Kind::First(part.len() as u32), &part);
            let mut bad = good.clone();
            bad[at.index(good.len())] ^= 1 << bit;
            prop_assert!(Incoming::default().take(&good).is_ok());
            let wrong = Incoming::default().take(&bad);
            prop_assert!(matches!(wrong, Err(Wrong::Damaged { .. })), "{:?}", wrong);
            prop_assert!(Incoming::default().take(&good[..at.index(good.len())]).is_err());
        }

        #[test]
        fn noise_is_an_error(noise in prop::collection::vec(any::<u8>(), 0..PACKET_BYTES)) {
            prop_assert!(Incoming::default().take(&noise).is_err());
        }
    }
}
