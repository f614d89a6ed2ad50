//! Who sends what when: parts that only move, and sums in slices, in which adding one piece overlaps with moving the
//! next. Knows places in buffers and the order of messages, not how they travel.

use std::ops::Range;

use crate::{
    ElementKind,
    drive::{Next, Script},
    element::sum_in_rank_order,
};

/// Longest body of a message, in bytes; what is longer goes in several.
const MESSAGE_BYTES: usize = 4 << 20;
/// Bytes of a rank's slice of a piece: small enough for the caches, large enough that its head does not count.
pub(crate) const SLICE_BYTES: usize = 256 << 10;
/// Pieces that may be on their way to a rank before it has summed the first of them.
pub(crate) const N_SLOTS: usize = 8;
/// Pieces whose parts a rank sends before the sums of the first.
const N_AHEAD: usize = 4;

/// Which bytes a peer gets or gives, if any.
pub(crate) type Part<'a> = &'a dyn Fn(usize) -> Option<Range<usize>>;

/// Each peer gets its part of one buffer and fills its part of another.
pub(crate) struct Moves<'a> {
    pub(crate) out: &'a [u8],
    pub(crate) send: Part<'a>,
    pub(crate) into: &'a mut [u8],
    pub(crate) recv: Part<'a>,
}

impl Script for Moves<'_> {
    fn outgoing(&self, peer: usize, i: usize) -> Next<&[u8]> {
        match message_of((self.send)(peer), i) {
            Some(range) => Next::Message(&self.out[range]),
            None => Next::End,
        }
    }

    fn incoming(&mut self, peer: usize, i: usize) -> Next<&mut [u8]> {
        match message_of((self.recv)(peer), i) {
            Some(range) => Next::Message(&mut self.into[range]),
            None => Next::End,
        }
    }
}

/// The `i`-th message of a part. An empty part is one message too: it says that the sender is there.
fn message_of(part: Option<Range<usize>>, i: usize) -> Option<Range<usize>> {
    let part = part?;
    let start = part.start + i * MESSAGE_BYTES;
    (i == 0 || start < part.end).then(|| start..part.end.min(start + MESSAGE_BYTES))
}

/// The sum of a large vector. It is cut into pieces and each piece into one slice a rank; a rank gets its slice of a
/// piece from all, sums it in rank order, and sends the sum to all.
pub(crate) struct Slices<'a> {
    kind: ElementKind,
    n: usize,
    me: usize,
    x: &'a mut [u8],
    /// `[N_SLOTS, n, SLICE_BYTES]`
    scratch: &'a mut [u8],
    n_pieces: usize,
    /// Parts that are here of the pieces in the slots.
    n_parts: [usize; N_SLOTS],
    n_summed: usize,
}

/// What a message carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cargo {
    /// The sender's part of the receiver's slice of a piece.
    Part(usize),
    /// The sum of the sender's slice of a piece.
    Sum(usize),
}

impl<'a> Slices<'a> {
    /// `scratch` is `[N_SLOTS, n, SLICE_BYTES]`.
    pub(crate) fn new(
        kind: ElementKind,
        n: usize,
        me: usize,
        x: &'a mut [u8],
        scratch: &'a mut [u8],
    ) -> Slices<'a> {
        let n_pieces = x.len().div_ceil(n * SLICE_BYTES).max(1);
        Slices { kind, n, me, x, scratch, n_pieces, n_parts: [0; N_SLOTS], n_summed: 0 }
    }

    /// The bytes of a rank's slice of a piece. Pieces are alike, up to an element, so that none is small.
    fn slice(&self, piece: usize, rank: usize) -> Range<usize> {
        let (unit, n_slices) = (self.kind.n_bytes(), self.n_pieces * self.n);
        let at = |slice: usize| self.x.len() / unit * slice / n_slices * unit;
        let slice = piece * self.n + rank;
        at(slice)..at(slice + 1)
    }

    /// Where a peer's part of this rank's slice of a piece goes.
    fn slot(&self, piece: usize, peer: usize) -> Range<usize> {
        let start = (piece % N_SLOTS * self.n + peer) * SLICE_BYTES;
        start..start + self.slice(piece, self.me).len()
    }

    fn sum(&mut self, piece: usize) {
        let own = self.slice(piece, self.me);
        let slots: [usize; 2] = [self.slot(piece, 0).start, own.len()];
        let scratch = &*self.scratch;
        let part = |peer: usize| {
            let start = slots[0] + peer * SLICE_BYTES;
            &scratch[start..start + slots[1]]
        };
        sum_in_rank_order(self.kind, &mut self.x[own], self.me, self.n, part);
    }
}

impl Script for Slices<'_> {
    fn outgoing(&self, peer: usize, i: usize) -> Next<&[u8]> {
        match cargo(self.n_pieces, i) {
            Some(Cargo::Part(piece)) => Next::Message(&self.x[self.slice(piece, peer)]),
            Some(Cargo::Sum(piece)) if piece < self.n_summed => {
                Next::Message(&self.x[self.slice(piece, self.me)])
            }
            Some(Cargo::Sum(_)) => Next::Later,
            None => Next::End,
        }
    }

    fn incoming(&mut self, peer: usize, i: usize) -> Next<&mut [u8]> {
        match cargo(self.n_pieces, i) {
            Some(Cargo::Part(piece)) if piece < self.n_summed + N_SLOTS => {
                let slot = self.slot(piece, peer);
                Next::Message(&mut self.scratch[slot])
            }
            Some(Cargo::Part(_)) => Next::Later,
            Some(Cargo::Sum(piece)) => {
                let slice = self.slice(piece, peer);
                Next::Message(&mut self.x[slice])
            }
            None => Next::End,
        }
    }

    fn arrived(&mut self, _peer: usize, i: usize) {
        let Some(Cargo::Part(piece)) = cargo(self.n_pieces, i) else { return };
        self.n_parts[piece % N_SLOTS] += 1;
        while self.n_parts[self.n_summed % N_SLOTS] == self.n - 1 {
            self.n_parts[self.n_summed % N_SLOTS] = 0;
            self.sum(self.n_summed);
            self.n_summed += 1;
        }
    }
}

/// The order of messages between any two ranks: some parts ahead, then sums and parts in turn, then the last sums.
fn cargo(n_pieces: usize, i: usize) -> Option<Cargo> {
    let n_ahead = N_AHEAD.min(n_pieces);
    let n_turns = n_pieces - n_ahead;
    let Some(turn) = i.checked_sub(n_ahead) else { return Some(Cargo::Part(i)) };
    if turn < 2 * n_turns {
        let piece = turn / 2;
        return Some(if turn % 2 == 0 { Cargo::Sum(piece) } else { Cargo::Part(piece + n_ahead) });
    }
    let piece = turn - n_turns;
    (piece < n_pieces).then_some(Cargo::Sum(piece))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_sent_once_as_part_and_as_sum() {
        for n_pieces in 1..20 {
            let all: Vec<Cargo> = (0..).map_while(|i| cargo(n_pieces, i)).collect();
            assert_eq!(all.len(), 2 * n_pieces);
            for piece in 0..n_pieces {
                let at = |cargo| all.iter().position(|c| *c == cargo).unwrap();
                assert!(at(Cargo::Part(piece)) < at(Cargo::Sum(piece)), "{n_pieces}: {all:?}");
            }
        }
    }

    #[test]
    fn slices_cover_the_vector_and_fit_their_slots() {
        for (n, len) in [(2, 0), (3, 1), (16, 5), (7, 1_000_003), (2, SLICE_BYTES), (16, 5_000_001)] {
            let (mut x, mut scratch) = (vec![0; 2 * len], vec![0; 1]);
            let slices = Slices::new(ElementKind::F16, n, 0, &mut x, &mut scratch);
            let mut end = 0;
            for (piece, rank) in (0..slices.n_pieces).flat_map(|p| (0..n).map(move |rank| (p, rank))) {
                let slice = slices.slice(piece, rank);
                assert!(slice.start == end && slice.len() <= SLICE_BYTES, "{n} {len}: {slice:?}");
                end = slice.end;
            }
            assert_eq!(end, 2 * len);
        }
    }

    #[test]
    fn a_part_goes_in_messages() {
        assert_eq!(message_of(None, 0), None);
        assert_eq!(message_of(Some(7..7), 0), Some(7..7));
        assert_eq!(message_of(Some(7..7), 1), None);
        assert_eq!(message_of(Some(3..MESSAGE_BYTES + 4), 0), Some(3..MESSAGE_BYTES + 3));
        assert_eq!(message_of(Some(3..MESSAGE_BYTES + 4), 1), Some(MESSAGE_BYTES + 3..MESSAGE_BYTES + 4));
        assert_eq!(message_of(Some(3..MESSAGE_BYTES + 3), 1), None);
    }
}
