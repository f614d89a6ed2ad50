//! Every message survives the trip; nothing else gets through.
#![allow(clippy::unwrap_used)] // a check fails by panicking

#[allow(dead_code)] // some samples serve another test
mod samples;

use std::io::{self, Read};

use base::{RankId, Sampled, SeqSlice, Step};
use proptest::{collection::vec, prelude::*};
use samples::{
    any_from_rank, any_request, any_sampled, any_step, any_to_rank, init, jaccl_init, request, ring_init,
    step,
};
use wire::{
    FromRank, HEADER_BYTES, Init, MAX_FRAME_BYTES, Message, MlxPeers, ToRank, WIRE_VERSION, WireError,
    decode, decode_sampled, decode_step, encode, encode_sampled, encode_step,
    handshake::{Hello, Proof},
    read_frame, write_frame,
};

proptest! {
    #[test]
    fn messages_survive(a in any_to_rank(), b in any_from_rank(), step in any_step(), sampled in vec(any_sampled(), 0..5)) {
        let mut stream = Vec::new();
        write_frame(&mut stream, &a).unwrap();
        write_frame(&mut stream, &b).unwrap();
        let mut stream = &stream[..];
        prop_assert_eq!(read_frame::<ToRank>(&mut stream).unwrap(), a);
        prop_assert_eq!(read_frame::<FromRank>(&mut stream).unwrap(), b);
        prop_assert!(matches!(read_frame::<FromRank>(&mut stream), Err(WireError::Closed)));
        prop_assert_eq!(decode_step(&encode_step(&step).unwrap()).unwrap(), step);
        prop_assert_eq!(decode_sampled(&encode_sampled(&sampled).unwrap()).unwrap(), sampled);
    }

    #[test]
    fn noise_in_a_good_frame_never_panics(noise in vec(any::<u8>(), 0..400)) {
        all_kinds(&noise);
    }

    #[test]
    fn a_damaged_message_never_panics(message in any_to_rank(), step in any_step(), at: prop::sample::Index, byte: u8) {
        let damaged = |mut frame: Vec<u8>| {
            let at = at.index(frame.len());
            frame[at] = byte;
            frame
        };
        let _ = decode::<ToRank>(&damaged(encode(&message).unwrap()));
        // Whatever still decodes can be counted without a panic.
        if let Ok(step) = decode_step(&damaged(encode_step(&step).unwrap())) {
            prop_assert_eq!(step.batch.positions().count(), step.batch.n_rows());
            prop_assert_eq!(step.batch.logit_rows().len(), step.samples.len());
        }
    }

    #[test]
    fn a_cut_message_is_an_error(request in any_request(), cut: prop::sample::Index) {
        let frame = encode(&ToRank::Submit(request)).unwrap();
        let part = &frame[..cut.index(frame.len())];
        let decoded = decode::<ToRank>(part).unwrap_err();
        prop_assert!(matches!(decoded, WireError::Truncated { .. }), "{}", decoded);
        let read = read_frame::<ToRank>(&mut &part[..]).unwrap_err();
        let closed = matches!(read, WireError::Closed);
        prop_assert!(closed == part.is_empty() && (closed || matches!(read, WireError::Truncated { .. })), "{}", read);
    }
}

fn all_kinds(body: &[u8]) {
    let _ = decode::<ToRank>(&frame_of(1, body));
    let _ = decode::<FromRank>(&frame_of(2, body));
    let _ = decode::<Step>(&frame_of(3, body));
    let _ = decode::<Vec<Sampled>>(&frame_of(4, body));
    let _ = decode::<Hello>(&frame_of(5, body));
    let _ = decode::<Proof>(&frame_of(6, body));
}

fn frame_of(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = body.len() as u32;
    [b"1fwr", &WIRE_VERSION.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes(), body].concat()
}

fn error<M: Message>(frame: &[u8]) -> WireError {
    decode::<M>(frame).err().unwrap()
}

#[test]
fn a_header_says_what_is_wrong() {
    let good = encode(&ToRank::Shutdown).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut frame = good.clone();
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        error::<ToRank>(&frame)
    };
    assert!(matches!(with(0, b"HTTP"), WireError::Foreign { found: [b'H', b'T', b'T', b'P'], .. }));
    let other = with(4, &[9, 2]).to_string();
    assert!(other.contains(&format!("expected {WIRE_VERSION}, found 521")), "{other}");
    assert!(matches!(with(6, &[2, 0]), WireError::Kind { expected: 1, found: 2 }));
    let long = with(8, &(MAX_FRAME_BYTES as u32 + 1).to_le_bytes());
    assert!(matches!(long, WireError::TooLong { n_bytes, .. } if n_bytes == MAX_FRAME_BYTES + 1), "{long}");
    let longer = [&good[..], &[0]].concat();
    assert!(matches!(error::<ToRank>(&longer), WireError::Trailing { n_bytes: 1, .. }));
    let padded = frame_of(1, &[3, 0]);
    assert!(matches!(error::<ToRank>(&padded), WireError::Trailing { n_bytes: 1, .. }));
}

/// Counts of a billion elements in a few bytes.
#[test]
fn a_promised_giant_is_an_error() {
    let mut body = vec![0xff; 4];
    body.push(0x0f);
    for kind in [3, 4] {
        let frame = frame_of(kind, &body);
        let e = if kind == 3 { error::<Step>(&frame) } else { error::<Vec<Sampled>>(&frame) };
        assert!(matches!(e, WireError::Malformed { .. }), "{e}");
    }
}

/// A body that was promised but never comes takes no memory.
#[test]
fn a_body_is_read_as_it_arrives() {
    struct Largest<'a>(&'a [u8], usize);
    impl Read for Largest<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 = self.1.max(out.len());
            self.0.read(out)
        }
    }
    let mut frame = frame_of(1, &[0; 100]);
    frame[8..12].copy_from_slice(&(MAX_FRAME_BYTES as u32).to_le_bytes());
    let mut from = Largest(&frame, 0);
    let e = read_frame::<ToRank>(&mut from).unwrap_err();
    assert!(matches!(e, WireError::Truncated { expected: MAX_FRAME_BYTES, found: 100, .. }), "{e}");
    assert!(from.1 < 1 << 20, "asked for {} bytes at once", from.1);
}

#[test]
fn what_is_too_long_is_not_sent() {
    let e = encode(&FromRank::Failed { message: "x".repeat(MAX_FRAME_BYTES) }).unwrap_err();
    assert!(matches!(e, WireError::TooLong { kind: 2, .. }), "{e}");
}

#[test]
fn a_step_must_add_up() {
    let check = |change: fn(&mut Step), what: &str| {
        let mut step = step();
        change(&mut step);
        let e = decode_step(&encode_step(&step).unwrap()).unwrap_err().to_string();
        assert!(e.starts_with(what), "{e}");
    };
    fn seq(step: &mut Step) -> &mut SeqSlice {
        &mut step.batch.seqs[0]
    }
    check(|step| seq(step).n_rows = 2, "rows of a step's sequences: expected 3, found 4");
    check(|step| seq(step).n_rows = u32::MAX, "rows of a sequence: expected at most its context of 20");
    check(|step| seq(step).n_logits = 2, "logits of a sequence: expected at most its 1 rows, found 2");
    check(|step| seq(step).n_logits = 0, "logits of a step's sequences: expected 1, found 0");
    check(|step| step.batch.tokens.clear(), "rows of a step's sequences: expected 0, found 3");
}

#[test]
fn a_prompt_has_tokens() {
    let mut request = request();
    request.prompt.clear();
    assert!(matches!(error::<ToRank>(&encode(&ToRank::Submit(request)).unwrap()), WireError::Invalid { .. }));
}

#[test]
fn init_names_ranks_of_its_plan_once() {
    let check = |change: fn(&mut Init)| {
        let mut init = init();
        change(&mut init);
        let e = error::<ToRank>(&encode(&ToRank::Init(Box::new(init))).unwrap());
        assert!(matches!(e, WireError::Rank { n_ranks: 4, .. }), "{e}");
    };
    check(|init| init.rank = RankId(4));
    check(|init| init.rank = RankId(2));
    check(|init| init.peers[0].0 = RankId(2));
    check(|init| init.peers[0].0 = RankId(u32::MAX));
}

#[test]
fn init_says_how_to_meet_in_the_plans_collectives() {
    let check = |from: Init, change: fn(&mut Init), says: &str| {
        let mut init = from;
        change(&mut init);
        let e = error::<ToRank>(&encode(&ToRank::Init(Box::new(init))).unwrap()).to_string();
        assert_eq!(e, says);
    };
    fn hosts(init: &mut Init) -> &mut Vec<std::net::SocketAddr> {
        let Some(MlxPeers::Ring { hosts }) = &mut init.mlx else { panic!("a ring") };
        hosts
    }
    let refused = "collectives to meet in: expected";
    check(ring_init(), |init| init.mlx = None, &format!("{refused} mlx-ring, found onefold"));
    check(init(), |init| init.mlx = ring_init().mlx, &format!("{refused} onefold, found mlx-ring"));
    check(jaccl_init(), |init| init.mlx = ring_init().mlx, &format!("{refused} mlx-jaccl, found mlx-ring"));
    check(ring_init(), |init| hosts(init).truncate(1), "hosts of MLX's ring: expected 2, found 1");
}

/// A plan whose parts were changed on the way is none.
#[test]
fn a_plan_is_checked_again() {
    let frame = encode(&ToRank::Init(Box::new(init()))).unwrap();
    let n_refused = (HEADER_BYTES..frame.len()).filter(|&at| {
        let mut frame = frame.clone();
        frame[at] ^= 1;
        matches!(decode::<ToRank>(&frame), Err(WireError::Plan(_)))
    });
    assert!(n_refused.count() > 40);
}
