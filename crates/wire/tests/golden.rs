//! The bytes of every message. A change here breaks every running version: raise `WIRE_VERSION` with it.
#![allow(clippy::unwrap_used)] // a check fails by panicking

#[allow(dead_code)] // its generators serve another test
mod samples;

use std::fmt::Debug;

use base::{Bytes, NodeId, RankId, RequestId};
use plan::{BackendKind, Node};
use wire::{
    FromRank, Message, ToRank, decode, encode,
    handshake::{Challenge, Hello, Party, Role, Secret, prove},
};

/// Header and body in hex, spaces ignored.
fn golden<M: Message + PartialEq + Debug>(message: &M, hex: &str) {
    let frame = encode(message).unwrap();
    let found: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, hex.replace([' ', '\n'], ""), "{message:?}");
    assert_eq!(&decode::<M>(&frame).unwrap(), message);
}

#[test]
fn to_rank() {
    golden(
        &ToRank::Init(Box::new(samples::init())),
        "31667772 0400 0100 cb000000
         0040080408800180028004012004e807d00f10e807d00f10e807d00f10e807d00f10804000013001030562c3bc726f80
         80808004080200010104000300000002000200400080010100000100d83780c001010300010002020440800180018002
         0101000100d83780c001020301000204000200400080010102000001d83780c001030301010204020440800180018002
         0103000001d83780c0014008000101092f6d2f612e676775660200007f000001a01f0201000000000000000000000000
         000000010500e0d403ac02",
    );
    golden(
        &ToRank::Init(Box::new(samples::ring_init())),
        "31667772 0400 0100 e6000000
         0040080408800180028004012004e807d00f10e807d00f10e807d00f10e807d00f10804000013001030562c3bc726f80
         80808004080200010104000300000002000200400080010100010100d83780c001010300010002020440800180018002
         0101010100d83780c001020301000204000200400080010102010001d83780c001030301010204020440800180018002
         0103010001d83780c0014008010101092f6d2f612e676775660200007f000001a01f0201000000000000000000000000
         0000000105010002007f0000018420010000000000000000000000000000000106e0d403ac02",
    );
    golden(
        &ToRank::Init(Box::new(samples::jaccl_init())),
        "31667772 0400 0100 f9000000
         0040080408800180028004012004e807d00f10e807d00f10e807d00f10e807d00f10804000013001030562c3bc726f80
         80808004080200010104000300000002000200400080010100010100d83780c001010300010002020440800180018002
         0101010100d83780c001020301000204000200400080010102010001d83780c001030301010204020440800180018002
         0103010001d83780c0014008020101092f6d2f612e676775660200007f000001a01f0201000000000000000000000000
         00000001050101255b5b6e756c6c2c2272646d615f656e35225d2c5b2272646d615f656e33222c6e756c6c5d5d007f00
         00018420e0d403ac02",
    );
    golden(
        &ToRank::Submit(samples::request()),
        "31667772 0400 0100 2f000000
         01090301c801ffff024001020000003f01280000803f000000000000803f00000000000000000105000080bfac0200",
    );
    golden(
        &ToRank::Cancel(RequestId(300)),
        "31667772 0400 0100 03000000
         02ac02",
    );
    golden(
        &ToRank::Shutdown,
        "31667772 0400 0100 01000000
         03",
    );
}

#[test]
fn from_rank() {
    golden(
        &FromRank::Listening {
            addr: "127.0.0.1:8080".parse().unwrap(),
            mlx_addr: Some("127.0.0.1:8081".parse().unwrap()),
            node: Node {
                id: NodeId(0),
                name: "mini".into(),
                memory: Bytes(300),
                n_cores: 2,
                backends: vec![BackendKind::Mlx, BackendKind::Cpu],
                is_mac: true,
            },
        },
        "31667772 0400 0200 1d000000
         00007f000001903f01007f000001913f00046d696e69ac020202010001",
    );
    golden(
        &FromRank::Ready {
            weights: Bytes(98_362_432),
            load_ms: 250,
            links: vec![(RankId(1), "shm".into()), (RankId(300), "verbs rxe0".into())],
        },
        "31667772 0400 0200 1a000000
         01c0c8f32efa01 02 01 03 73686d ac02 0a 76657262732072786530",
    );
    golden(
        &FromRank::Outputs(samples::outputs()),
        "31667772 0400 0200 21000000
         020300092a01000080be022a000080be07000000c00109010300c8010201026e6f",
    );
    golden(
        &FromRank::Failed { message: "out of memory".into() },
        "31667772 0400 0200 0f000000
         030d6f7574206f66206d656d6f7279",
    );
    golden(
        &FromRank::Stats(samples::stats()),
        "31667772 0400 0200 0f000000
         040102030405060708090a0b0c0d0e",
    );
    golden(
        &FromRank::Beat { busy_ms: Some(300) },
        "31667772 0400 0200 04000000
         05 01 ac02",
    );
}

#[test]
fn step_and_sampled() {
    golden(
        &samples::step(),
        "31667772 0400 0300 38000000
         030b0c0d02010114010207ac02020202000207ac02010000803f000000803f000000000000803f000000000000000000
         0000140101010402",
    );
    golden(
        &vec![samples::sampled()],
        "31667772 0400 0400 12000000
         012a01000080be022a000080be07000000c0",
    );
}

#[test]
fn handshake() {
    let hello = Hello { party: Party::Rank(RankId(2)), nonce: [0xab; 32] };
    golden(
        &hello,
        "31667772 0400 0500 25000000
         0102000000abababababababababababababababababababababababababababababababab",
    );
    let acceptor = Hello { party: Party::Node, nonce: [0xcd; 32] };
    let challenge = Challenge { connector: hello, acceptor };
    let proof = encode(&prove(&Secret::new([1; 32]), Role::Acceptor, &challenge)).unwrap();
    let found: String = proof.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        found,
        "31667772040006002000000037480329b9b5e20f9650a2d9a27408903af3d957c7f09610bb5ff9dddad74be8"
    );
}
