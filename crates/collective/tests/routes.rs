//! Worlds whose links do not connect every pair: rings, lines, stars, over any kind of link.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use std::{sync::Mutex, time::Duration};

use base::RankId;
use collective::{CollectiveError, Group, Mesh, World};
use conformance::on_every_rank;
use transport::Link;
use worlds::{DEADLINE, Pair, memory_pair, shm_pair, tcp_pair};

type Links = Vec<(RankId, Box<dyn Link>)>;

fn links(n: usize, pairs: &[(usize, usize)], pair: fn() -> Pair) -> Vec<Links> {
    let mut links: Vec<Links> = (0..n).map(|_| Vec::new()).collect();
    for &(a, b) in pairs {
        let (to_b, to_a) = pair();
        links[a].push((RankId(b as u32), to_b));
        links[b].push((RankId(a as u32), to_a));
    }
    links
}

fn worlds_of(n: usize, pairs: &[(usize, usize)], pair: fn() -> Pair) -> Vec<World> {
    let worlds = Mutex::new(Vec::new());
    on_every_rank(links(n, pairs, pair).into_iter().enumerate().collect(), |(me, links)| {
        let mut world = World::routed(RankId(me as u32), n, links, DEADLINE).unwrap();
        world.set_spin(Duration::from_micros(5));
        worlds.lock().unwrap().push(world);
    });
    let mut worlds = worlds.into_inner().unwrap();
    worlds.sort_by_key(|world| world.me());
    worlds
}

fn ring(n: usize) -> Vec<(usize, usize)> {
    (0..n).map(|rank| (rank, (rank + 1) % n)).collect()
}

fn line(n: usize) -> Vec<(usize, usize)> {
    ring(n)[..n - 1].to_vec()
}

fn star(n: usize) -> Vec<(usize, usize)> {
    (1..n).map(|rank| (0, rank)).collect()
}

fn groups(worlds: Vec<World>) -> Vec<Box<dyn Group>> {
    let mesh = |world: World| Box::new(Mesh::whole(world.shared()).unwrap()) as Box<dyn Group>;
    worlds.into_iter().map(mesh).collect()
}

#[test]
fn partial_meshes_do_all_that_whole_ones_do() {
    for pair in [memory_pair, shm_pair, tcp_pair] {
        for pairs in [ring(4), line(4), star(4)] {
            let groups = || groups(worlds_of(4, &pairs, pair));
            conformance::all_reduce_sums_in_rank_order::<half::bf16>(groups());
            conformance::reduce_scatter_is_a_part_of_all_reduce::<f32>(groups());
            conformance::all_gather_concatenates_uneven_parts::<half::f16>(groups());
            conformance::two_ranks_send_and_receive::<f32>(groups());
            conformance::nobody_leaves_a_barrier_alone::<f32>(groups());
        }
    }
}

#[test]
fn large_vectors_pass_over_neighbours() {
    conformance::megabytes_do_not_block::<f32>(groups(worlds_of(5, &line(5), shm_pair)));
    conformance::megabytes_do_not_block::<f32>(groups(worlds_of(6, &ring(6), tcp_pair)));
}

#[test]
fn a_ring_of_16_sums() {
    conformance::all_reduce_sums_in_rank_order::<f32>(groups(worlds_of(16, &ring(16), memory_pair)));
}

/// A stream that nobody reads does not hold up another over the same link.
#[test]
fn streams_that_stand_still_hold_up_no_others() {
    on_every_rank(worlds_of(3, &line(3), tcp_pair), |mut world| {
        let (large, mut message) = (vec![7; 4 << 20], Vec::new());
        match world.me().0 {
            0 => world.send(RankId(2), &large).unwrap(),
            1 => world.send(RankId(2), b"first").unwrap(),
            _ => {
                world.recv(RankId(1), &mut message).unwrap();
                assert_eq!(message, b"first");
                world.recv(RankId(0), &mut message).unwrap();
                assert_eq!(message, large);
            }
        }
    });
}

#[test]
fn a_rank_out_of_reach_is_named() {
    let all = links(5, &[(0, 1), (1, 2), (3, 4)], memory_pair);
    on_every_rank(all.into_iter().enumerate().collect(), |(me, links)| {
        let error = World::routed(RankId(me as u32), 5, links, DEADLINE).err().unwrap();
        let first = if me < 3 { 3 } else { 0 };
        assert!(matches!(&error, CollectiveError::Unreachable { peer, .. } if peer.0 == first), "{error}");
        assert!(error.to_string().contains(&format!("to rank {first}\nhint: link")), "{error}");
    });
}

/// The rank in the middle dies: both sides name it, not each other.
#[test]
fn a_killed_rank_on_the_way_is_named() {
    let all = links(4, &line(4), tcp_pair);
    on_every_rank(all.into_iter().enumerate().collect(), |(me, links)| {
        let mut group = match me {
            // what it was linked with sees its links end once it has agreed on the ways
            2 => return drop(silent(links)),
            _ => {
                let world = World::routed(RankId(me as u32), 4, links, DEADLINE).unwrap();
                Mesh::whole(world.shared()).unwrap()
            }
        };
        let error = group.all_reduce((&mut [1.0_f32; 5][..]).into()).unwrap_err();
        let named = match &error {
            CollectiveError::Link { peer, .. } => *peer,
            CollectiveError::Told { culprit, .. } => *culprit,
            e => panic!("{e}"),
        };
        assert_eq!(named, RankId(2), "on {me}: {error}");
    });
}

/// Takes part in the agreement by hand, as rank 2 of a line of four, and no further.
fn silent(mut links: Links) -> Links {
    let mut known = [0_u32; collective::MAX_ROUTED_RANKS];
    known[..4].copy_from_slice(&[0b0010, 0b0101, 0b1010, 0b0100]);
    let bytes: Vec<u8> = known.iter().flat_map(|mask| mask.to_le_bytes()).collect();
    for _ in 1..4 {
        for (_, link) in &mut links {
            transport::send(link.as_mut(), &bytes, Some(DEADLINE)).unwrap();
        }
        for (_, link) in &mut links {
            transport::recv(link.as_mut(), &mut Vec::new(), Some(DEADLINE)).unwrap();
        }
    }
    links
}
