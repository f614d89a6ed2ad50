//! The verbs link over devices inside the process that obey Apple's rules: the conformance suite, and what befalls packets
//! and cables. What is broken here would be broken on a Mac; what only a kernel can show is in `verbs.rs`.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;

use std::{
    net::{TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use conformance::{Pair, link_conformance};
use proptest::prelude::*;
use transport::{
    Lane, Link, LinkError, Medium, exchange, recv, send,
    verbs::{
        Device, Limits, Rules, Upgrade, VerbsError, VerbsLink,
        twin::{self, Cable},
        upgrade,
    },
};

const LONG: Option<Duration> = Some(Duration::from_secs(60));
const STEP: Duration = Duration::from_secs(20);

type Linked = Result<Box<VerbsLink>, VerbsError>;

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

/// Both ends of a link, or why each has none.
fn both([a, b]: [&Arc<Device>; 2], limits: [Limits; 2]) -> (Linked, Linked) {
    let (near, far) = streams();
    let linked = |upgraded| match upgraded {
        Ok(Upgrade::Verbs(link)) => Ok(link),
        Ok(Upgrade::Tcp(_, why)) | Err(why) => Err(why),
    };
    thread::scope(|s| {
        let a = s.spawn(move || linked(upgrade(near, "verbs peer b", Ok(a.clone()), limits[0], STEP)));
        let b = linked(upgrade(far, "verbs peer a", Ok(b.clone()), limits[1], STEP));
        (a.join().unwrap(), b)
    })
}

fn linked(medium: Medium, limits: [Limits; 2]) -> (Box<VerbsLink>, Box<VerbsLink>, Cable) {
    let (devices, cable) = twin::devices(Rules::APPLE, medium, 1);
    let (a, b) = both(devices.each_ref(), limits);
    (a.unwrap_or_else(|why| panic!("{why}")), b.unwrap_or_else(|why| panic!("{why}")), cable)
}

fn apple() -> (Box<VerbsLink>, Box<VerbsLink>, Cable) {
    linked(Medium::INSTANT, [Limits::APPLE; 2])
}

fn instant() -> Pair {
    let (a, b, _) = apple();
    (a, b)
}

fn thunderbolt() -> Pair {
    let (a, b, _) = linked(Medium::TB5_RDMA, [Limits::APPLE; 2]);
    (a, b)
}

link_conformance!(over_verbs, instant);
link_conformance!(over_slow_verbs, thunderbolt);

#[test]
fn a_device_bears_ten_links_and_not_one_more() {
    let (devices, cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
    let link = || both(devices.each_ref(), [Limits::APPLE; 2]);
    let mut links: Vec<(Linked, Linked)> = (0..10).map(|_| link()).collect();
    assert!(links.iter().all(|(a, b)| a.is_ok() && b.is_ok()));
    assert!(matches!(link(), (Err(VerbsError::Full { limit: 10, .. }), Err(VerbsError::Full { .. }))));
    links.pop();
    assert!(link().0.is_ok());
    assert_eq!(cable.take_violations(), [""; 0]);
}

/// Limits that claim more than the device bears come back as the driver's error, at both ends, in words.
#[test]
fn more_receives_than_apple_bears_make_no_link() {
    let (devices, cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
    let greedy = Limits { n_receives: 64, ..Limits::APPLE };
    let (a, b) = both(devices.each_ref(), [greedy, Limits::APPLE]);
    let (a, b) = (a.err().unwrap().to_string(), b.err().unwrap().to_string());
    assert!(a.starts_with("twin0: ibv_post_recv failed: ") && a.contains("hint: "), "{a}");
    assert!(b.starts_with("verbs peer a cannot use verbs: twin0: ibv_post_recv failed"), "{b}");
    assert_eq!(cable.take_violations(), ["more than 63 receives posted"]);
}

/// Receives until that fails; whatever arrives must be what was sent.
fn drain(link: &mut VerbsLink, sent: &[u8]) -> LinkError {
    let mut message = Vec::new();
    loop {
        match recv(link, &mut message, LONG) {
            Ok(()) => assert_eq!(message, sent),
            Err(e) => return e,
        }
    }
}

/// What one end gets while the other sends without end and something happens to the packets.
fn under(befalls: impl FnOnce(&Cable), seed: usize) -> LinkError {
    let (mut a, mut b, cable) = apple();
    befalls(&cable);
    let sent = vec![seed as u8; 9000];
    let message = sent.clone();
    let sender = thread::spawn(move || while send(a.as_mut(), &message, LONG).is_ok() {});
    let e = drain(&mut b, &sent);
    drop(b);
    sender.join().unwrap();
    assert!(e.to_string().starts_with("verbs peer a"), "{e}");
    e
}

#[test]
fn lost_reordered_and_damaged_packets_are_told_apart() {
    for seed in 1..4 {
        let e = under(|cable| cable.lose(0.1, seed), 1);
        assert!(matches!(e, LinkError::Lost { .. } | LinkError::Closed { .. }), "{e}");
        let e = under(|cable| cable.reorder(0.1, seed), 2);
        assert!(matches!(e, LinkError::Lost { .. } | LinkError::Closed { .. }), "{e}");
        let e = under(|cable| cable.damage(0.1, seed), 3);
        assert!(matches!(e, LinkError::Damaged { .. } | LinkError::Closed { .. }), "{e}");
    }
}

/// The last packet is lost, so that no later one can tell: the sender's word beside the link does.
#[test]
fn a_lost_last_packet_wakes_a_receiver_that_waits_for_ever() {
    let (mut a, mut b, cable) = apple();
    cable.lose(1.0, 1);
    send(a.as_mut(), b"into the void", LONG).unwrap();
    let sender = thread::spawn(move || recv(a.as_mut(), &mut Vec::new(), None).unwrap_err());
    let e = recv(b.as_mut(), &mut Vec::new(), None).unwrap_err();
    assert!(matches!(e, LinkError::Lost { n_sent: 1, n_arrived: 0, .. }), "{e}");
    drop(b);
    assert!(matches!(sender.join().unwrap(), LinkError::Closed { .. }));
}

#[test]
fn a_pulled_cable_ends_waiting_and_sending() {
    let (mut a, mut b, cable) = apple();
    let sender = thread::spawn(move || {
        loop {
            if let Err(e) = send(a.as_mut(), &[7; 100_000], None) {
                break e;
            }
        }
    });
    recv(b.as_mut(), &mut Vec::new(), LONG).unwrap();
    cable.pull();
    let ends = [drain(&mut b, &[7; 100_000]), sender.join().unwrap()];
    assert!(ends.iter().any(|e| matches!(e, LinkError::PortDown { .. })), "{ends:?}");
    drop(b);
    // and no new link before it is plugged in
    let (devices, cable) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
    cable.pull();
    let why = both(devices.each_ref(), [Limits::APPLE; 2]).0.err().unwrap();
    assert!(matches!(why, VerbsError::Port { .. }), "{why}");
    cable.plug_in();
    assert!(both(devices.each_ref(), [Limits::APPLE; 2]).0.is_ok());
}

/// A cable that comes back at once has lost what was on it: that is an error, not a wrong message.
#[test]
fn a_flapping_cable_is_an_error() {
    let slow = Medium { latency: Duration::from_millis(1), ..Medium::TB5_RDMA };
    let (mut a, mut b, cable) = linked(slow, [Limits::APPLE; 2]);
    let sender = thread::spawn(move || while send(a.as_mut(), &[7; 100_000], LONG).is_ok() {});
    let mut message = Vec::new();
    let e = loop {
        if let Err(e) = recv(b.as_mut(), &mut message, LONG) {
            break e;
        }
        assert!(message == [7; 100_000]);
        cable.pull();
        cable.plug_in();
    };
    let is_named =
        matches!(e, LinkError::Lost { .. } | LinkError::PortDown { .. } | LinkError::Closed { .. });
    assert!(is_named, "{e}");
    drop(b);
    sender.join().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever two ends agree on within Apple's limits, and whatever they send: no rule is broken, and every byte arrives.
    #[test]
    fn no_sizes_and_no_limits_break_a_rule(
        receives in (4..33u32, 4..33u32), sends in (1..33u32, 1..33u32), seed in any::<u64>(),
        lens in prop::collection::vec((0..30_000usize, 0..30_000usize), 1..12),
    ) {
        let with = |n_receives, n_sends| Limits { n_receives, n_sends, ..Limits::APPLE };
        let limits = [with(receives.0, sends.0), with(receives.1, sends.1)];
        let medium = Medium { jitter: Duration::from_micros(seed % 50), ..Medium::TB5_RDMA };
        let (a, b, cable) = linked(medium, limits);
        let talk = |link: Box<dyn Link>, lens: Vec<(usize, usize)>| {
            let (mut links, mut into) = ([link], vec![0; 30_000]);
            for (i, (mine, theirs)) in lens.into_iter().enumerate() {
                let mut lanes = [Lane::new(0, Some(0..mine), Some(0..theirs))];
                exchange(&mut links, &mut lanes, &vec![mine as u8; mine], &mut into, LONG).unwrap();
                assert!(into[..theirs].iter().all(|byte| *byte == theirs as u8), "message {i}");
            }
        };
        let swapped = lens.iter().map(|(a, b)| (*b, *a)).collect();
        thread::scope(|s| {
            s.spawn(|| talk(a, lens));
            s.spawn(|| talk(b, swapped));
        });
        prop_assert_eq!(cable.take_violations(), [""; 0]);
    }
}
