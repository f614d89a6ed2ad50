//! What a verbs link makes of packets that its peer never sent: messages only where they are in order, whole and undamaged;
//! else an error that names the peer. No answer of its own breaks a rule of the device.

use std::{
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use transport::{
    Medium, recv,
    verbs::{Limits, PACKET_HEADER_BYTES, Rules, Upgrade, VerbsLink, twin, upgrade},
};

/// Fewer packets than there are receives: one more would have been sent without a credit.
const MAX_PACKETS: usize = 30;
const STEP: Duration = Duration::from_secs(20);
/// Nothing else is on its way, so there is nothing to wait for.
const NO_TIME: Option<Duration> = Some(Duration::from_millis(1));

/// A packet is a byte that says whether its checksum is put right and how much longer it is than its header, then its bytes.
pub(crate) fn run(mut data: &[u8]) {
    let ((_peer, mut link), cable) = linked();
    let mut n_bytes = 0;
    for _ in 0..MAX_PACKETS {
        let Some((first, rest)) = data.split_first() else { break };
        let len = rest.len().min(PACKET_HEADER_BYTES + usize::from(first >> 1));
        let (packet, rest) = rest.split_at(len);
        let mut packet = packet.to_vec();
        if first & 1 == 1 {
            put_right(&mut packet);
        }
        n_bytes += packet.len();
        cable.forge(0, &packet);
        data = rest;
    }
    let (mut message, mut n_received) = (Vec::new(), 0);
    let e = loop {
        match recv(link.as_mut(), &mut message, NO_TIME) {
            Ok(()) => n_received += message.len(),
            Err(e) => break e,
        }
    };
    assert!(n_received <= n_bytes, "{n_received} bytes of messages in {n_bytes}");
    assert!(e.to_string().contains("verbs peer"), "{e}");
    drop(link);
    assert_eq!(cable.take_violations(), [""; 0]);
}

fn put_right(packet: &mut [u8]) {
    if packet.len() >= PACKET_HEADER_BYTES {
        let n_bytes = (packet.len() - PACKET_HEADER_BYTES) as u16;
        packet[16..18].copy_from_slice(&n_bytes.to_le_bytes());
        let sum = rapidhash::v3::rapidhash_v3(&packet[4..]) as u32;
        packet[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

type Ends = (Box<VerbsLink>, Box<VerbsLink>);

fn linked() -> (Ends, twin::Cable) {
    let ([a, b], cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    let link = |upgraded| match upgraded {
        Ok(Upgrade::Verbs(link)) => link,
        _ => panic!("no link"),
    };
    let ends = thread::scope(|s| {
        let a = s.spawn(move || link(upgrade(near, "verbs peer b", Ok(a), Limits::APPLE, STEP)));
        let b = link(upgrade(far, "verbs peer a", Ok(b), Limits::APPLE, STEP));
        (a.join().unwrap(), b)
    });
    (ends, cable)
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // number, receives posted again, length of the message, kind (1 begins a message, 2 goes on with one)
    let packet = |sequence: u32, n_reposted: u32, message_len: u32, kind: u16, body: &[u8]| {
        let head =
            [&[0; 4][..], &sequence.to_le_bytes(), &n_reposted.to_le_bytes(), &message_len.to_le_bytes()];
        let head = [&head.concat()[..], &[0; 2], &kind.to_le_bytes()].concat();
        [&[1 | (body.len() as u8) << 1][..], &head, body].concat()
    };
    vec![
        packet(0, 0, 3, 1, b"abc"),
        [packet(0, 0, 0, 0, b""), packet(1, 0, 0, 1, b""), packet(2, 0, 9, 1, b"123456789")].concat(),
        [packet(0, 0, 100, 1, b"abc"), packet(1, 0, 0, 2, b"abc")].concat(),
        packet(0, 40, 0, 0, b""),
        packet(7, 0, 0, 0, b""),
    ]
}
