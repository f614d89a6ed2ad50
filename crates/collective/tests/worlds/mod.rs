//! Worlds of several ranks inside one process, over every kind of link.

#![allow(dead_code)] // every test uses some of them

use std::{
    env,
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use base::RankId;
use collective::World;
use transport::{
    Link, Medium, MemoryControl, MemoryLink, TcpLink,
    shm::{self, TOKEN_BYTES},
    verbs::{Limits, Rules, Upgrade, twin, upgrade},
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) type Pair = (Box<dyn Link>, Box<dyn Link>);

/// Worlds of `n` ranks; `pair(a, b)` links rank `a` with rank `b`.
pub(crate) fn connect(n: u32, deadline: Duration, mut pair: impl FnMut(u32, u32) -> Pair) -> Vec<World> {
    let mut links: Vec<Vec<(RankId, Box<dyn Link>)>> = (0..n).map(|_| Vec::new()).collect();
    for a in 0..n {
        for b in a + 1..n {
            let (to_b, to_a) = pair(a, b);
            links[a as usize].push((RankId(b), to_b));
            links[b as usize].push((RankId(a), to_a));
        }
    }
    let world = |(me, links)| {
        let mut world = World::new(RankId(me as u32), links, deadline).unwrap();
        // More ranks than cores.
        world.set_spin(Duration::from_micros(5));
        world
    };
    links.into_iter().enumerate().map(world).collect()
}

pub(crate) fn memory(n: usize) -> Vec<World> {
    memory_within(n, DEADLINE)
}

pub(crate) fn memory_within(n: usize, deadline: Duration) -> Vec<World> {
    connect(n as u32, deadline, |_, _| memory_pair())
}

/// With a hand on the link from rank `a` to rank `b` at `[a][b]`; `[a][a]` leads nowhere.
pub(crate) fn memory_controls(n: usize) -> (Vec<World>, Vec<Vec<MemoryControl>>) {
    memory_controls_within(n, DEADLINE)
}

pub(crate) fn memory_controls_within(n: usize, deadline: Duration) -> (Vec<World>, Vec<Vec<MemoryControl>>) {
    let nowhere = || MemoryLink::pair().0.control();
    let mut controls: Vec<Vec<_>> = (0..n).map(|_| (0..n).map(|_| nowhere()).collect()).collect();
    let worlds = connect(n as u32, deadline, |a, b| {
        let (to_b, to_a) = MemoryLink::pair();
        controls[a as usize][b as usize] = to_b.control();
        controls[b as usize][a as usize] = to_a.control();
        (Box::new(to_b), Box::new(to_a))
    });
    (worlds, controls)
}

pub(crate) fn tcp(n: usize) -> Vec<World> {
    connect(n as u32, DEADLINE, |_, _| tcp_pair())
}

pub(crate) fn shm(n: usize) -> Vec<World> {
    connect(n as u32, DEADLINE, |_, _| shm_pair())
}

/// Every pair of ranks has a cable between two devices.
pub(crate) fn verbs(n: usize) -> Vec<World> {
    connect(n as u32, DEADLINE, |_, _| verbs_pair())
}

/// Over memory that is as fast and as steady as that.
pub(crate) fn media(n: usize, medium: Medium) -> Vec<World> {
    connect(n as u32, DEADLINE, |a, b| {
        let (to_b, to_a) = MemoryLink::pair_over(medium, u64::from(a * 16 + b));
        (Box::new(to_b), Box::new(to_a))
    })
}

/// Links of several kinds in one world.
pub(crate) fn mixed(n: usize) -> Vec<World> {
    connect(n as u32, DEADLINE, |a, b| match (a + b) % 3 {
        0 => tcp_pair(),
        1 => shm_pair(),
        _ => memory_pair(),
    })
}

pub(crate) fn memory_pair() -> Pair {
    let (a, b) = MemoryLink::pair();
    (Box::new(a), Box::new(b))
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let a = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (a, listener.accept().unwrap().0)
}

/// Over devices that obey Apple's rules, and panic when they were broken.
pub(crate) fn verbs_pair() -> Pair {
    let ([a, b], _) = twin::devices(Rules::APPLE, Medium::INSTANT, 1);
    let (near, far) = sockets();
    let link = |upgraded| match upgraded {
        Ok(Upgrade::Verbs(link)) => link as Box<dyn Link>,
        Ok(Upgrade::Tcp(_, why)) | Err(why) => panic!("{why}"),
    };
    let other = thread::spawn(move || link(upgrade(far, "verbs peer a", Ok(b), Limits::APPLE, DEADLINE)));
    let one = link(upgrade(near, "verbs peer b", Ok(a), Limits::APPLE, DEADLINE));
    (one, other.join().unwrap())
}

pub(crate) fn tcp_pair() -> Pair {
    let (a, b) = sockets();
    (Box::new(TcpLink::new(a, "tcp peer b").unwrap()), Box::new(TcpLink::new(b, "tcp peer a").unwrap()))
}

pub(crate) fn shm_pair() -> Pair {
    let (mut a, mut b) = memory_pair();
    let guest = thread::spawn(move || shm::accept(b.as_mut(), DEADLINE).unwrap());
    let maker = shm::offer(a.as_mut(), [1; TOKEN_BYTES], &env::temp_dir(), DEADLINE).unwrap();
    (Box::new(maker), Box::new(guest.join().unwrap()))
}
