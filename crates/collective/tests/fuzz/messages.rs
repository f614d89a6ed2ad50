//! What a rank makes of any messages of another: those that are right, then an error that names a rank; whichever call it
//! is in.

use std::time::Duration;

use base::RankId;
use collective::{CollectiveError, Group, Mesh, World};
use transport::{HEADER_BYTES, Link, MemoryLink, Progress};

const DEADLINE: Duration = Duration::from_secs(10);
/// More than fits between two ends of a link would wait for the deadline.
const MAX_BYTES: usize = 4 << 10;

/// The first byte is the call that the rank is in; then messages, each behind a byte with its length.
pub(crate) fn run(data: &[u8]) {
    let Some((call, messages)) = data[..data.len().min(MAX_BYTES)].split_first() else { return };
    let (mut hostile, link) = MemoryLink::pair();
    let messages = split(messages);
    // it ends behind the last message, and goes on listening
    let n_bytes = messages.iter().map(|message| HEADER_BYTES + message.len()).sum();
    hostile.control().truncate_after(n_bytes);
    for message in &messages {
        assert_eq!(hostile.poll_send(message).unwrap(), Progress::Done);
    }
    if messages.is_empty() {
        hostile.close();
    }
    let mut world = World::new(RankId(0), vec![(RankId(1), Box::new(link))], DEADLINE).unwrap();
    let error = match call {
        0 => loop {
            if let Err(error) = world.recv(RankId(1), &mut Vec::new()) {
                break error;
            }
        },
        call => in_group(Mesh::whole(world.shared()).unwrap(), *call),
    };
    let is_named = matches!(
        error,
        CollectiveError::Link { peer: RankId(1), .. }
            | CollectiveError::Told { by: RankId(1), .. }
            | CollectiveError::Incarnation { peer: RankId(1), .. }
            | CollectiveError::OutOfStep { peer: RankId(1), .. }
    );
    assert!(is_named, "{error}");
}

/// Messages, each behind a byte with its length.
fn split(mut data: &[u8]) -> Vec<&[u8]> {
    let mut messages = Vec::new();
    while let Some((len, rest)) = data.split_first() {
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        messages.push(message);
        data = rest;
    }
    messages
}

fn in_group(mut group: Mesh, call: u8) -> CollectiveError {
    let mut x = [1.0_f32; 3];
    loop {
        let done = match call {
            1 => group.all_reduce((&mut x[..]).into()),
            2 => group.all_gather((&x[..1]).into(), &[1, 2], (&mut [0.0; 3][..]).into()),
            3 => group.broadcast(1, (&mut x[..]).into()),
            4 => group.barrier(),
            _ => group.recv(1, (&mut x[..]).into()),
        };
        if let Err(error) = done {
            return error;
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // incarnation 0, a group's number, the call, the element, a culprit
    let group = 0x6d0c_c24e_u32.to_le_bytes();
    let message = |group: [u8; 4], call: u8, element: u8, culprit: u8, body: &[u8]| {
        let head = [&[0; 4][..], &group, &[call, element, culprit, 0]].concat();
        [&[(head.len() + body.len()) as u8][..], &head, body].concat()
    };
    vec![
        [vec![0], message([0; 4], 8, 0, 0, b"a step"), message([0; 4], 9, 0, 1, b"")].concat(),
        [vec![1], message(group, 1, 1, 0, &[0; 12]), message(group, 1, 1, 0, &[0; 12])].concat(),
        [vec![2], message(group, 2, 1, 0, &[0; 8])].concat(),
        [vec![3], message(group, 5, 1, 0, &[0; 12])].concat(),
        [vec![4], message(group, 6, 0, 0, b"")].concat(),
        [vec![5], message(group, 7, 1, 0, &[0; 12])].concat(),
    ]
}
