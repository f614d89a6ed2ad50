//! What callers of a group must get right, told before anything is sent; and where parts of a concatenation lie.

use std::ops::Range;

use crate::{CollectiveError, ElementKind, Numbers, NumbersMut};

/// The bytes of rank `rank`'s part of a concatenation.
pub(crate) fn place(kind: ElementKind, lens: &[usize], rank: usize) -> Range<usize> {
    let start: usize = lens[..rank].iter().sum();
    start * kind.n_bytes()..(start + lens[rank]) * kind.n_bytes()
}

pub(crate) fn check_len(
    op: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), CollectiveError> {
    match expected == found {
        true => Ok(()),
        false => Err(CollectiveError::Shape { op, what, expected, found }),
    }
}

pub(crate) fn check_kinds(
    op: &'static str,
    expected: ElementKind,
    found: ElementKind,
) -> Result<(), CollectiveError> {
    match expected == found {
        true => Ok(()),
        false => Err(CollectiveError::Element { op, expected, found }),
    }
}

pub(crate) fn check_lens(
    op: &'static str,
    me: usize,
    size: usize,
    mine: Numbers<'_>,
    lens: &[usize],
    out: Option<&NumbersMut<'_>>,
) -> Result<(), CollectiveError> {
    check_len(op, "entries of lens", size, lens.len())?;
    check_len(op, "length of this rank's part", lens[me], mine.len())?;
    let Some(out) = out.map(NumbersMut::as_ref) else { return Ok(()) };
    check_len(op, "length of out", lens.iter().sum(), out.len())?;
    check_kinds(op, mine.kind(), out.kind())
}

pub(crate) fn check_root(op: &'static str, root: usize, size: usize) -> Result<(), CollectiveError> {
    match root < size {
        true => Ok(()),
        false => Err(CollectiveError::Shape { op, what: "root below", expected: size, found: root }),
    }
}

pub(crate) fn check_peer(
    op: &'static str,
    peer: usize,
    me: usize,
    size: usize,
) -> Result<(), CollectiveError> {
    match peer < size && peer != me {
        true => Ok(()),
        false => Err(CollectiveError::Shape { op, what: "another rank below", expected: size, found: peer }),
    }
}
