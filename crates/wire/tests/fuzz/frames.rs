//! What a process makes of any bytes where a frame is due: the message that is in them, which survives another trip, or an
//! error; the same from memory and from a stream.

use base::{Sampled, Step};
use wire::{
    FromRank, Message, ToRank, decode, encode,
    handshake::{Hello, Proof},
    read_frame,
};

pub(crate) fn run(data: &[u8]) {
    check::<ToRank>(data);
    check::<FromRank>(data);
    check::<Step>(data);
    check::<Vec<Sampled>>(data);
    check::<Hello>(data);
    check::<Proof>(data);
}

fn check<M: Message>(data: &[u8]) {
    let (decoded, mut stream) = (decode::<M>(data), data);
    let read = read_frame::<M>(&mut stream);
    // from a stream, other bytes may follow
    assert!(read.is_ok() || decoded.is_err());
    assert!(stream.is_empty() || read.is_err() || decoded.is_err());
    if let Ok(message) = decoded {
        let frame = encode(&message).expect("what was decoded can be encoded");
        let again: M = decode(&frame).expect("what was encoded can be decoded");
        assert_eq!(encode(&again).expect("as before"), frame);
    }
}
