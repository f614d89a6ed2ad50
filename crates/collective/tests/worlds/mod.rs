//! Worlds of several ranks inside one process, over either kind of link.

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

use base::RankId;
use collective::World;
use transport::{Link, MemoryControl, MemoryLink, TcpLink};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

type Pair = (Box<dyn Link>, Box<dyn Link>);

/// Worlds of `n` ranks; `pair(a, b)` links rank `a` with rank `b`.
fn connect(n: u32, deadline: Duration, mut pair: impl FnMut(u32, u32) -> Pair) -> Vec<World> {
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
    connect(n as u32, deadline, |_, _| {
        let (a, b) = MemoryLink::pair();
        (Box::new(a), Box::new(b))
    })
}

/// With a hand on the link from rank `a` to rank `b` at `[a][b]`; `[a][a]` leads nowhere.
pub(crate) fn memory_controls(n: usize) -> (Vec<World>, Vec<Vec<MemoryControl>>) {
    let nowhere = || MemoryLink::pair().0.control();
    let mut controls: Vec<Vec<_>> = (0..n).map(|_| (0..n).map(|_| nowhere()).collect()).collect();
    let worlds = connect(n as u32, DEADLINE, |a, b| {
        let (to_b, to_a) = MemoryLink::pair();
        controls[a as usize][b as usize] = to_b.control();
        controls[b as usize][a as usize] = to_a.control();
        (Box::new(to_b), Box::new(to_a))
    });
    (worlds, controls)
}

pub(crate) fn tcp(n: usize) -> Vec<World> {
    connect(n as u32, DEADLINE, |a, b| {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let to_b = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let to_a = listener.accept().unwrap().0;
        let link = |stream, peer| Box::new(TcpLink::new(stream, format!("tcp rank {peer}")).unwrap());
        (link(to_b, b), link(to_a, a))
    })
}
