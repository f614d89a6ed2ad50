//! What a rank makes of any offer of shared memory: an error that names the peer and can be shown to people.

use std::time::Duration;

use transport::{
    HEADER_BYTES,
    shm::{self, HandoverError, TOKEN_BYTES},
};

use super::tape;

/// The bytes are what the offering end says, as messages.
pub(crate) fn run(data: &[u8]) {
    let mut link = tape::link(data, HEADER_BYTES);
    let e = shm::accept(&mut link, Duration::from_secs(10)).err().expect("nobody gave any memory");
    assert!(e.to_string().contains("tape"), "{e}");
    if let HandoverError::Declined { why, .. } = &e {
        assert!(why.len() < 2000, "{} bytes", why.len());
        assert!(!why.contains(char::is_control), "{why:?}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let offer = [&[7; TOKEN_BYTES][..], b"/tmp/1f-nobody/link"].concat();
    [
        tape::framed(&[b"", &offer, b"", b""]),
        tape::framed(&[b"No such \x1b[31mfile"]),
        tape::framed(&[b"", &offer[..9], b""]),
        tape::framed(&[b"", &[offer.clone(), vec![0; 9]].concat(), b"", b""]),
        tape::framed(&[b"", &[&[1; TOKEN_BYTES][..], b"/dev/null"].concat(), b"", b""]),
    ]
    .to_vec()
}
