//! Bytes for the bodies of fuzz targets in ordinary tests: any, and valid ones with a few changes. Knows no format.

use proptest::{collection::vec, prelude::*, sample::Index};

/// A change of some bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(u8),
    Remove,
    Insert(u8),
    Cut,
    Repeat,
}

/// Any bytes, or one of `seeds` with up to eight changes.
pub(crate) fn hostile(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = prop_oneof![
        4 => any::<u8>().prop_map(Change::Set),
        1 => Just(Change::Remove),
        1 => any::<u8>().prop_map(Change::Insert),
        1 => Just(Change::Cut),
        1 => Just(Change::Repeat),
    ];
    let mutated = (any::<Index>(), vec((any::<Index>(), change), 0..8)).prop_map(move |(seed, changes)| {
        changes.into_iter().fold(seed.get(&seeds).clone(), |bytes, (at, change)| changed(bytes, at, change))
    });
    prop_oneof![1 => vec(any::<u8>(), 0..300), 3 => mutated]
}

fn changed(mut bytes: Vec<u8>, at: Index, change: Change) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let at = at.index(bytes.len());
    match change {
        Change::Set(byte) => bytes[at] = byte,
        Change::Remove => drop(bytes.remove(at)),
        Change::Insert(byte) => bytes.insert(at, byte),
        Change::Cut => bytes.truncate(at),
        Change::Repeat => bytes.extend_from_within(at..),
    }
    bytes
}
