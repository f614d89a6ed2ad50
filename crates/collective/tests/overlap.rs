//! A bulk transfer in one world does not delay a small one in the world beside it; and both fall together.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use std::{sync::Barrier, thread};

use base::RankId;
use collective::{CollectiveError, Group, Mesh, World};
use conformance::on_every_rank;
use transport::Link;
use worlds::{Pair, memory_pair, shm_pair, tcp_pair};

type Links = Vec<(RankId, Box<dyn Link>)>;

/// Two worlds of each of two ranks.
fn two_worlds(pair: fn() -> Pair) -> Vec<(World, World)> {
    let (small, bulk) = (pair(), pair());
    let world = |me: u32, small, bulk| {
        let to_peer = |link| -> Links { vec![(RankId(1 - me), link)] };
        let small = World::new(RankId(me), to_peer(small), worlds::DEADLINE).unwrap();
        let bulk = small.beside(to_peer(bulk)).unwrap();
        (small, bulk)
    };
    vec![world(0, small.0, bulk.0), world(1, small.1, bulk.1)]
}

fn mesh(world: World) -> Mesh {
    Mesh::whole(world.shared()).unwrap()
}

/// Rank 0 is in the middle of its bulk transfer, and rank 1 does not go on with it, until a hundred small ones are done.
#[test]
fn small_transfers_pass_a_bulk_transfer() {
    for pair in [memory_pair, shm_pair, tcp_pair] {
        let bulk_may_end = Barrier::new(2);
        on_every_rank(two_worlds(pair), |(small, bulk)| {
            let (is_first, bulk_may_end) = (small.me() == RankId(0), &bulk_may_end);
            let (mut small, mut bulk) = (mesh(small), mesh(bulk));
            thread::scope(|s| {
                s.spawn(move || {
                    let mut x = vec![1.0_f32; 4 << 20];
                    if !is_first {
                        bulk_may_end.wait();
                    }
                    bulk.all_reduce((&mut x[..]).into()).unwrap();
                    assert!(x.iter().all(|x| *x == 2.0));
                });
                for _ in 0..100 {
                    let mut x = [1.0_f32; 16];
                    small.all_reduce((&mut x[..]).into()).unwrap();
                    assert_eq!(x, [2.0; 16]);
                }
                if is_first {
                    bulk_may_end.wait();
                }
            });
        });
    }
}

#[test]
fn worlds_of_a_rank_fall_together() {
    on_every_rank(two_worlds(memory_pair), |(small, bulk)| {
        let is_first = small.me() == RankId(0);
        let (mut small, mut bulk) = (mesh(small), mesh(bulk));
        if is_first {
            return; // gone
        }
        assert!(matches!(bulk.barrier(), Err(CollectiveError::Link { peer: RankId(0), .. })));
        let error = small.barrier().unwrap_err();
        assert!(error.to_string().contains("broken since barrier on rank 1 failed at rank 0"), "{error}");
    });
}
