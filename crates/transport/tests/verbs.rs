//! The verbs link on real kernel code: the conformance suite, and what only this link can suffer. It needs devices that are
//! joined by cables, as `cargo xtask rdma-guest` makes them: rxeaN and rxebN at the ends aN and bN of cable N.

#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;

use std::{
    env,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use conformance::{Pair, link_conformance};
use transport::{
    Lane, Link, LinkError, Pending, exchange, recv, send,
    verbs::{
        Device, DeviceReport, Limits, MAX_ATTEMPTS, PortState, Upgrade, Verbs, VerbsError, VerbsLink, upgrade,
    },
};

const N_CABLES: usize = 3;
const LONG: Option<Duration> = Some(Duration::from_secs(60));
const STEP: Duration = Duration::from_secs(20);
/// Runs this program as the other end of a link, in a process that can be killed.
const PEER: &str = "VERBS_TEST_PEER";

link_conformance!(
    #[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
    over_verbs,
    next_pair
);

/// A link over one cable after the other.
fn next_pair() -> Pair {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let (a, b) = pair(1 + NEXT.fetch_add(1, Ordering::Relaxed) % N_CABLES);
    (a, b)
}

fn pair(cable: usize) -> (Box<VerbsLink>, Box<VerbsLink>) {
    let (a, b) = both(&device("rxea", cable), &device("rxeb", cable), Limits::APPLE);
    (a.unwrap_or_else(|why| panic!("{why}")), b.unwrap_or_else(|why| panic!("{why}")))
}

fn device(end: &str, cable: usize) -> Arc<Device> {
    Verbs::load().unwrap().open(&format!("{end}{cable}")).unwrap()
}

type Linked = Result<Box<VerbsLink>, VerbsError>;

/// Both ends of a link, or why each has none.
fn both(a: &Arc<Device>, b: &Arc<Device>, limits: Limits) -> (Linked, Linked) {
    let (near, far) = streams();
    let linked = |upgraded| match upgraded {
        Ok(Upgrade::Verbs(link)) => Ok(link),
        Ok(Upgrade::Tcp(_, why)) | Err(why) => Err(why),
    };
    thread::scope(|s| {
        let a = s.spawn(move || linked(upgrade(near, "verbs peer b", Ok(a.clone()), limits, STEP)));
        let b = linked(upgrade(far, "verbs peer a", Ok(b.clone()), limits, STEP));
        (a.join().unwrap(), b)
    })
}

fn streams() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

/// Runs a command of the system's that changes a network interface, and its opposite when dropped.
struct Change(&'static str);

impl Change {
    fn new(make: &str, undo: &'static str) -> Change {
        run(make);
        Change(undo)
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        run(self.0);
    }
}

fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Cable 2, pulled until this is dropped.
struct Pulled(Option<Change>);

impl Pulled {
    fn new() -> Pulled {
        let change = Change::new("ip link set a2 down", "ip link set a2 up");
        wait_for_ports(PortState::Down);
        Pulled(Some(change))
    }
}

impl Drop for Pulled {
    fn drop(&mut self) {
        self.0.take();
        wait_for_ports(PortState::Active);
    }
}

/// The kernel tells a port's device of its cable a moment later.
fn wait_for_ports(state: PortState) {
    let verbs = Verbs::load().unwrap();
    let is_there = |report: &DeviceReport| {
        !report.name.ends_with('2') || report.ports.as_ref().unwrap().iter().all(|port| port.state == state)
    };
    let deadline = Instant::now() + STEP;
    while !verbs.probe().iter().all(is_there) {
        assert!(Instant::now() < deadline, "the ports of cable 2 are not {state}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn ports_are_reported() {
    let reports = Verbs::load().unwrap().probe();
    assert_eq!(reports.len(), 2 * N_CABLES);
    let find = |name: &str| {
        let ports = reports.iter().find(|r| r.name == name).unwrap().ports.as_ref().unwrap();
        ports.first().unwrap().clone()
    };
    let port = find("rxeb2");
    assert_eq!((port.state, port.mtu_bytes), (PortState::Active, Some(4096)));
    assert_eq!(port.ipv4().unwrap().1.octets(), [10, 80, 2, 2]);
    assert!(port.speed_gbps.unwrap() > 0.0 && port.check().is_ok());
    let devices = Verbs::load().unwrap().open_all();
    let with = |ip: [u8; 4]| -> Vec<&str> {
        devices.iter().filter(|device| device.has_address(ip.into())).map(|device| device.name()).collect()
    };
    assert_eq!((with([10, 80, 2, 2]), with([10, 80, 9, 1])), (vec!["rxeb2"], vec![]));
    let e = Verbs::load().unwrap().open("rdma_en9").err().unwrap().to_string();
    assert!(e.contains("expected an RDMA device rdma_en9, found rxea1, ") && e.contains("hint: "), "{e}");
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_device_bears_so_many_links_and_takes_others_when_they_end() {
    let (a, b) = (device("rxea", 1), device("rxeb", 1));
    let limits = Limits { n_queue_pairs: 2, ..Limits::APPLE };
    let mut links: Vec<(Linked, Linked)> = (0..2).map(|_| both(&a, &b, limits)).collect();
    assert!(links.iter().all(|(a, b)| a.is_ok() && b.is_ok()));
    let (Err(VerbsError::Full { limit: 2, .. }), Err(VerbsError::Full { .. })) = both(&a, &b, limits) else {
        panic!("a third link");
    };
    links.pop();
    assert!(both(&a, &b, limits).0.is_ok());
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn links_come_and_go_and_leave_nothing() {
    let (a, b) = (device("rxea", 3), device("rxeb", 3));
    let n_held = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let mut after_first = None;
    for round in 0..20 {
        let (mut near, mut far) = match both(&a, &b, Limits::APPLE) {
            (Ok(near), Ok(far)) => (near, far),
            (near, far) => panic!("round {round}: {:?} {:?}", near.err(), far.err()),
        };
        send(near.as_mut(), b"hello", LONG).unwrap();
        recv(far.as_mut(), &mut Vec::new(), LONG).unwrap();
        drop((near, far));
        after_first.get_or_insert_with(n_held);
    }
    assert!(n_held() <= after_first.unwrap() + 4, "{} mappings, then {}", after_first.unwrap(), n_held());
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_cable_to_another_place_is_noticed_and_both_keep_the_stream() {
    // Both devices are up, but joined with others.
    let (a, b) = both(&device("rxea", 1), &device("rxeb", 3), Limits::APPLE);
    for end in [a, b] {
        let why = end.err().unwrap();
        assert!(matches!(why, VerbsError::GaveUp { n_attempts: MAX_ATTEMPTS, .. }), "{why}");
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn an_end_without_a_device_leaves_both_with_the_stream() {
    let (near, far) = streams();
    let other = thread::spawn(move || {
        let none = Verbs::load().unwrap().open("rdma_en9").err().unwrap();
        upgrade(far, "a", Err(none), Limits::APPLE, STEP)
    });
    let Ok(Upgrade::Tcp(mut near, why)) = upgrade(near, "b", Ok(device("rxea", 1)), Limits::APPLE, STEP)
    else {
        panic!("a link with one device");
    };
    assert!(why.to_string().starts_with("b cannot use verbs: expected an RDMA device rdma_en9"), "{why}");
    let Ok(Upgrade::Tcp(far, _)) = other.join().unwrap() else { panic!("a link without a device") };
    near.write_all(b"as before\n").unwrap();
    let mut line = String::new();
    BufReader::new(far).read_line(&mut line).unwrap();
    assert_eq!(line, "as before\n");
}

/// Sends messages until one is an error; every packet has a chance of one half.
#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn loss_is_an_error_that_names_link_and_peer() {
    let (mut a, mut b) = pair(2);
    send(a.as_mut(), &[1; 100_000], LONG).unwrap();
    recv(b.as_mut(), &mut Vec::new(), LONG).unwrap();
    let _lossy = Change::new("tc qdisc add dev a2 root netem loss 50%", "tc qdisc del dev a2 root");
    let sender = thread::spawn(move || while send(a.as_mut(), &[1; 5000], LONG).is_ok() {});
    let mut message = Vec::new();
    let e = loop {
        match recv(b.as_mut(), &mut message, LONG) {
            Ok(()) => assert_eq!(message, [1; 5000]),
            Err(e) => break e,
        }
    };
    assert!(matches!(e, LinkError::Lost { .. }), "{e}");
    assert!(e.to_string().starts_with("verbs peer a: packets were lost on rxeb2: it sent "), "{e}");
    drop(b);
    sender.join().unwrap();
}

/// The last packet is lost, so that no later one can tell: the sender's word beside the link does.
#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_lost_last_packet_wakes_a_receiver_that_waits_for_ever() {
    let (mut a, mut b) = pair(2);
    let _dead = Change::new("tc qdisc add dev a2 root netem loss 100%", "tc qdisc del dev a2 root");
    send(a.as_mut(), b"into the void", LONG).unwrap();
    // as a peer that waits for the answer
    let sender = thread::spawn(move || recv(a.as_mut(), &mut Vec::new(), None).unwrap_err());
    let e = recv(b.as_mut(), &mut Vec::new(), None).unwrap_err();
    assert!(matches!(e, LinkError::Lost { n_sent: 1, n_arrived: 0, .. }), "{e}");
    drop(b);
    let e = sender.join().unwrap();
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn reordered_packets_are_an_error_and_no_message() {
    let (mut a, mut b) = pair(2);
    let _late =
        Change::new("tc qdisc add dev a2 root netem delay 20ms reorder 50%", "tc qdisc del dev a2 root");
    let sender = thread::spawn(move || while send(a.as_mut(), &[3; 9000], LONG).is_ok() {});
    let mut message = Vec::new();
    let e = loop {
        match recv(b.as_mut(), &mut message, LONG) {
            Ok(()) => assert_eq!(message, [3; 9000]),
            Err(e) => break e,
        }
    };
    assert!(matches!(e, LinkError::Lost { .. } | LinkError::Sequence { .. }), "{e}");
    drop(b);
    sender.join().unwrap();
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_pulled_cable_wakes_both_ends() {
    let (mut a, mut b) = pair(2);
    let sleeper = thread::spawn(move || recv(a.as_mut(), &mut Vec::new(), None).unwrap_err());
    let _pulled = Pulled::new();
    let e = recv(b.as_mut(), &mut Vec::new(), None).unwrap_err();
    let is_named =
        matches!(e, LinkError::PortDown { pending: Pending::Message, .. } | LinkError::Closed { .. });
    assert!(is_named, "{e}");
    let other = sleeper.join().unwrap();
    assert!([e, other].iter().any(|e| matches!(e, LinkError::PortDown { .. })));
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_pulled_cable_ends_a_transfer() {
    let (mut a, mut b) = pair(2);
    let sender = thread::spawn(move || {
        let message = vec![7; 1 << 20];
        loop {
            if let Err(e) = send(a.as_mut(), &message, LONG) {
                return e;
            }
        }
    });
    recv(b.as_mut(), &mut Vec::new(), LONG).unwrap();
    let _pulled = Pulled::new();
    let mut message = Vec::new();
    let e = loop {
        if let Err(e) = recv(b.as_mut(), &mut message, LONG) {
            break e;
        }
    };
    for e in [e, sender.join().unwrap()] {
        assert!(!matches!(e, LinkError::TimedOut { .. }), "{e}");
        assert!(e.to_string().starts_with("verbs peer "), "{e}");
    }
}

#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_port_that_is_down_carries_no_link() {
    let _pulled = Pulled::new();
    let (a, b) = both(&device("rxea", 2), &device("rxeb", 2), Limits::APPLE);
    for end in [a, b] {
        let why = end.err().unwrap();
        assert!(matches!(why, VerbsError::Port { .. }), "{why}");
        assert!(why.to_string().contains("expected an active port, found down\nhint: "), "{why}");
    }
}

/// The other end is a process, which says when it is linked and then sends until it is killed.
#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn a_killed_peer_is_an_error() {
    if let Ok(address) = env::var(PEER) {
        let stream = TcpStream::connect(address).unwrap();
        let Ok(Upgrade::Verbs(mut link)) =
            upgrade(stream, "the test", Ok(device("rxeb", 1)), Limits::APPLE, STEP)
        else {
            panic!("no link in the other process");
        };
        while send(link.as_mut(), &[9; 30_000], LONG).is_ok() {}
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut other = spawn_peer("a_killed_peer_is_an_error", &listener);
    let stream = listener.accept().unwrap().0;
    let Ok(Upgrade::Verbs(mut link)) = upgrade(stream, "rank 1", Ok(device("rxea", 1)), Limits::APPLE, STEP)
    else {
        panic!("no link to the other process");
    };
    let mut message = Vec::new();
    recv(link.as_mut(), &mut message, LONG).unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    let e = loop {
        if let Err(e) = recv(link.as_mut(), &mut message, None) {
            break e;
        }
    };
    assert!(matches!(e, LinkError::Closed { .. }), "{e}");
    assert!(e.to_string().starts_with("rank 1 closed the link while "), "{e}");
    assert!(matches!(send(link.as_mut(), b"?", LONG), Err(LinkError::Closed { .. })));
    // what the dead process held does not stand in the way of the next link
    let (a, b) = pair(1);
    drop((a, b));
}

fn spawn_peer(test: &str, listener: &TcpListener) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--include-ignored", "--exact", test])
        .env(PEER, listener.local_addr().unwrap().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// Sizes that no pattern of packets or credits divides, both ways at once, every byte checked.
#[test]
#[ignore = "needs RDMA devices: cargo xtask rdma-guest"]
fn many_messages_of_all_sizes_arrive_with_few_receives() {
    let limits = Limits { n_receives: 4, n_sends: 2, ..Limits::APPLE };
    let (a, b) = both(&device("rxea", 3), &device("rxeb", 3), limits);
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.device(), b.peer()), ("rxea3", "verbs peer a"));
    let size = |side: usize, i: usize| (i * 7919 + side * 104_729) % 20_000;
    let talk = |link: Box<dyn Link>, side: usize| {
        let (mut links, mut into) = ([link], vec![0; 20_000]);
        for i in 0..300 {
            let (mine, theirs) = (size(side, i), size(1 - side, i));
            let mut lanes = [Lane::new(0, Some(0..mine), Some(0..theirs))];
            exchange(&mut links, &mut lanes, &vec![mine as u8; mine], &mut into, LONG).unwrap();
            assert!(into[..theirs].iter().all(|byte| *byte == theirs as u8), "message {i}");
        }
    };
    thread::scope(|s| {
        s.spawn(|| talk(a, 0));
        s.spawn(|| talk(b, 1));
    });
}
