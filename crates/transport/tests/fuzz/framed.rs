//! What a link's reader makes of any bytes: the messages that are in them, then an error that names the peer.

use transport::{HEADER_BYTES, LinkError, recv};

use super::tape;

/// The first byte says in which pieces the rest comes.
pub(crate) fn run(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let mut link = tape::link(bytes, usize::from(*piece));
    let (mut message, mut n_bytes) = (Vec::new(), 0);
    let e = loop {
        match recv(&mut link, &mut message, None) {
            Ok(()) => n_bytes += HEADER_BYTES + message.len(),
            Err(e) => break e,
        }
    };
    assert!(n_bytes <= bytes.len(), "{n_bytes} bytes of messages in {}", bytes.len());
    assert!(message.capacity() <= (4 << 20) + 4 * bytes.len(), "{} bytes of room", message.capacity());
    assert!(e.to_string().contains("tape"), "{e}");
    let is_named = matches!(
        e,
        LinkError::Closed { .. }
            | LinkError::Foreign { .. }
            | LinkError::Sequence { .. }
            | LinkError::TooLong { .. }
    );
    assert!(is_named, "{e}");
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let messages: [&[&[u8]]; 3] = [&[b""], &[b"abc", b"", &[7; 300]], &[b"message".as_slice(); 9]];
    [1_u8, 13, 255]
        .iter()
        .flat_map(|piece| messages.map(|m| [&[*piece][..], &tape::framed(m)].concat()))
        .collect()
}
