//! The conformance suite over every kind of group, sums against the naive ones, and what a broken link does.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use std::time::{Duration, Instant};

use base::RankId;
use collective::{CollectiveError, Group, Mesh, REDUCE_SCATTER_MIN_BYTES, Solo, World};
use conformance::{group_conformance, in_rank_order, on_every_rank, sample};
use proptest::prelude::*;
use transport::LinkError;
use worlds::{memory, memory_controls, tcp};

fn meshes(worlds: Vec<World>) -> Vec<Box<dyn Group>> {
    worlds.into_iter().map(|world| Box::new(Mesh::whole(world.shared()).unwrap()) as Box<dyn Group>).collect()
}

group_conformance!(solo, vec![Box::new(Solo) as Box<dyn Group>]);
group_conformance!(mesh_of_1, meshes(memory(1)));
group_conformance!(mesh_of_2_over_memory, meshes(memory(2)));
group_conformance!(mesh_of_3_over_memory, meshes(memory(3)));
group_conformance!(mesh_of_4_over_memory, meshes(memory(4)));
group_conformance!(mesh_of_2_over_tcp, meshes(tcp(2)));
group_conformance!(mesh_of_3_over_tcp, meshes(tcp(3)));
group_conformance!(mesh_of_4_over_tcp, meshes(tcp(4)));

/// Rows and columns of a 2 × 2 grid share each rank's world, as tensor groups and stages do.
#[test]
fn groups_share_a_world() {
    on_every_rank(memory(4), |world| {
        let (me, world) = (world.me().0, world.shared());
        let row = vec![RankId(me / 2 * 2), RankId(me / 2 * 2 + 1)];
        let column = vec![RankId(me % 2), RankId(me % 2 + 2)];
        let mut row = Mesh::new(world.clone(), row).unwrap();
        let mut column = Mesh::new(world.clone(), column).unwrap();
        for _ in 0..20 {
            let mut x = [me as f32, 1.0];
            row.all_reduce(&mut x).unwrap();
            assert_eq!(x, [(me / 2 * 4 + 1) as f32, 2.0]);
            column.all_reduce(&mut x).unwrap();
            assert_eq!(x, [6.0, 4.0]);
        }
    });
}

#[test]
fn members_are_different_ranks_with_this_one() {
    let world = memory(3).swap_remove(1).shared();
    for found in [vec![], vec![0, 2], vec![1, 1], vec![1, 3]] {
        let found: Vec<RankId> = found.into_iter().map(RankId).collect();
        assert!(matches!(Mesh::new(world.clone(), found), Err(CollectiveError::Members { .. })));
    }
}

#[test]
fn the_order_of_members_is_the_order_of_the_group() {
    on_every_rank(memory(2), |world| {
        let me = world.me().0 as f32;
        let mut group = Mesh::new(world.shared(), vec![RankId(1), RankId(0)]).unwrap();
        let mut out = [0.0; 2];
        group.all_gather(&[me], &[1, 1], &mut out).unwrap();
        assert_eq!(out, [1.0, 0.0]);
    });
}

#[test]
fn a_world_sends_to_one_and_to_all() {
    on_every_rank(tcp(3), |mut world| {
        let mut message = Vec::new();
        if world.me() == RankId(0) {
            world.send_all(b"a step").unwrap();
            world.recv(RankId(2), &mut message).unwrap();
            assert_eq!(message, [7; 100_000]);
        } else {
            world.recv_within(RankId(0), &mut message, None).unwrap();
            assert_eq!(message, b"a step");
            if world.me() == RankId(2) {
                world.send(RankId(0), &[7; 100_000]).unwrap();
            }
        }
    });
}

#[test]
fn a_cut_link_is_an_error_on_every_rank() {
    for n_floats in [3, REDUCE_SCATTER_MIN_BYTES] {
        let (worlds, controls) = memory_controls(4);
        let started = Instant::now();
        on_every_rank(worlds, |world| {
            let me = world.me();
            let mut group = Mesh::whole(world.shared()).unwrap();
            let mut x = vec![1.0; n_floats];
            // The cut may lose what rank 1's last messages carried, so the others' first round may fail too.
            let error = (0..4).find_map(|round| {
                if round == 1 && me == RankId(1) {
                    controls[1][2].cut();
                }
                group.all_reduce(&mut x).err()
            });
            let error = error.unwrap();
            assert!(matches!(&error, CollectiveError::Link { rank, peer, .. } if *rank == me && *peer != me));
            assert!(error.to_string().starts_with(&format!("all_reduce on {me} failed at rank ")), "{error}");
            let error = group.barrier().unwrap_err();
            assert!(matches!(error, CollectiveError::Broken { .. }), "{error}");
        });
        assert!(started.elapsed() < worlds::DEADLINE, "waited for the deadline");
    }
}

#[test]
fn half_a_message_is_an_error_on_every_rank() {
    let (worlds, controls) = memory_controls(3);
    controls[0][2].truncate_after(1000);
    on_every_rank(worlds, |world| {
        let mut group = Mesh::whole(world.shared()).unwrap();
        let mut x = vec![1.0; 500];
        assert!((0..3).any(|_| group.all_reduce(&mut x).is_err()));
    });
}

#[test]
fn a_silent_rank_ends_at_the_deadline() {
    let mut worlds = worlds::memory_within(2, Duration::from_millis(30));
    let _silent = worlds.pop();
    let mut group = Mesh::whole(worlds.remove(0).shared()).unwrap();
    match group.all_reduce(&mut [1.0]).unwrap_err() {
        CollectiveError::Link { peer: RankId(1), source: LinkError::TimedOut { .. }, .. } => {}
        e => panic!("{e}"),
    }
}

#[test]
fn another_length_at_a_peer_is_an_error() {
    on_every_rank(memory(2), |world| {
        let mut x = vec![0.0; 4 + world.me().index()];
        let mut group = Mesh::whole(world.shared()).unwrap();
        let e = group.all_reduce(&mut x).and_then(|()| group.barrier()).unwrap_err();
        assert!(matches!(e, CollectiveError::Link { .. }), "{e}");
    });
}

/// The bytes a rank sends for a large vector do not grow with the number of ranks.
#[test]
fn large_sums_send_less_than_the_vector_twice() {
    for n in [3, 4, 6] {
        let (worlds, controls) = memory_controls(n);
        let len = REDUCE_SCATTER_MIN_BYTES;
        on_every_rank(worlds, |world| {
            Mesh::whole(world.shared()).unwrap().all_reduce(&mut vec![1.0; len]).unwrap();
        });
        for row in &controls {
            let n_bytes: u64 = row.iter().map(|control| control.n_bytes_sent()).sum();
            assert!(n_bytes < 2 * 4 * len as u64, "{n} ranks: {n_bytes}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn sums_are_the_naive_ones_bit_for_bit(n in 1..5usize, len in 0..40_000usize, seed: u32) {
        let naive = in_rank_order(n, len, seed);
        on_every_rank(meshes(memory(n)), |mut group| {
            let mut x = sample(group.rank(), len, seed);
            group.all_reduce(&mut x).unwrap();
            assert!(x.iter().zip(&naive).all(|(a, b)| a.to_bits() == b.to_bits()));
        });
    }
}
