//! The head of every message between ranks: which incarnation of the group it belongs to and which call. What does
//! not match is refused, so a message that was left over is never taken for another. Knows no links.
//!
//! ```text
//! 0..4   incarnation, little-endian
//! 4..8   group, a hash of its members; 0 where the message is the world's
//! 8      call
//! 9      kind of element, 0 for none
//! 10..12 in a notice the rank that failed, little-endian; 0 else
//! ```

use std::fmt;

use base::RankId;

use crate::ElementKind;

/// Bytes in front of every message's body.
pub(crate) const HEAD_BYTES: usize = 12;

/// What a message is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Call {
    AllReduce = 1,
    AllGather = 2,
    ReduceScatter = 3,
    Gather = 4,
    Broadcast = 5,
    Barrier = 6,
    /// From one rank of a group to another.
    Send = 7,
    /// The world's own messages.
    Message = 8,
    /// A rank failed; the last words of who says so.
    Notice = 9,
}

/// What a message says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) incarnation: u32,
    pub(crate) group: u32,
    pub(crate) call: u8,
    pub(crate) element: u8,
    pub(crate) culprit: u16,
}

impl Head {
    pub(crate) fn new(incarnation: u32, group: u32, call: Call, element: Option<ElementKind>) -> Head {
        let element = element.map_or(0, |element| element as u8);
        Head { incarnation, group, call: call as u8, element, culprit: 0 }
    }

    pub(crate) fn notice(incarnation: u32, culprit: RankId) -> Head {
        let culprit = u16::try_from(culprit.0).unwrap_or(u16::MAX);
        Head { culprit, ..Head::new(incarnation, 0, Call::Notice, None) }
    }

    pub(crate) fn is_notice(&self) -> bool {
        self.call == Call::Notice as u8
    }

    pub(crate) fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&self.incarnation.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.group.to_le_bytes());
        (bytes[8], bytes[9]) = (self.call, self.element);
        bytes[10..].copy_from_slice(&self.culprit.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; HEAD_BYTES]) -> Head {
        let [i0, i1, i2, i3, g0, g1, g2, g3, call, element, c0, c1] = bytes;
        Head {
            incarnation: u32::from_le_bytes([i0, i1, i2, i3]),
            group: u32::from_le_bytes([g0, g1, g2, g3]),
            call,
            element,
            culprit: u16::from_le_bytes([c0, c1]),
        }
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calls = ["all_reduce", "all_gather", "reduce_scatter", "gather", "broadcast", "barrier", "send"];
        let calls = calls.into_iter().chain(["a message", "a notice"]);
        match calls.enumerate().find(|(i, _)| i + 1 == usize::from(self.call)) {
            Some((_, call)) => f.write_str(call)?,
            None => write!(f, "call {}", self.call)?,
        }
        match self.element {
            0 => {}
            1 => f.write_str(" of f32")?,
            2 => f.write_str(" of f16")?,
            3 => f.write_str(" of bf16")?,
            other => write!(f, " of element {other}")?,
        }
        match self.group {
            0 => Ok(()),
            group => write!(f, " in group {group:08x}"),
        }
    }
}

/// What a group goes by in its messages: FNV-1a over its members, never 0.
pub(crate) fn group_number(members: &[RankId]) -> u32 {
    let bytes = members.iter().flat_map(|member| member.0.to_le_bytes());
    bytes.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_golden() {
        let head = Head::new(0x01020304, 0x05060708, Call::AllReduce, Some(ElementKind::Bf16));
        assert_eq!(head.to_bytes(), [4, 3, 2, 1, 8, 7, 6, 5, 1, 3, 0, 0]);
        let notice = Head::notice(7, RankId(0x0a0b));
        assert_eq!(notice.to_bytes(), [7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0x0b, 0x0a]);
        for head in [head, notice] {
            assert_eq!(Head::from_bytes(head.to_bytes()), head);
        }
        assert_eq!(head.to_string(), "all_reduce of bf16 in group 05060708");
    }

    #[test]
    fn members_and_their_order_make_the_number() {
        let number = |members: &[u32]| group_number(&members.iter().map(|m| RankId(*m)).collect::<Vec<_>>());
        assert_ne!(number(&[0, 1]), number(&[1, 0]));
        assert_ne!(number(&[0, 1]), number(&[0, 1, 2]));
    }
}
