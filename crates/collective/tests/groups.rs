//! The conformance suite over every kind of group, sums against the naive ones, and what a broken link does.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use base::RankId;
use collective::{CollectiveError, Group, Mesh, SLICES_FROM_BYTES, Solo, World};
use conformance::{group_conformance, in_rank_order, on_every_rank, sample};
use proptest::prelude::*;
use worlds::{memory, memory_controls, mixed, shm, tcp, verbs};

fn meshes(worlds: Vec<World>) -> Vec<Box<dyn Group>> {
    worlds.into_iter().map(|world| Box::new(mesh(world)) as Box<dyn Group>).collect()
}

fn mesh(world: World) -> Mesh {
    Mesh::whole(world.shared()).unwrap()
}

/// Groups that send slices from `n_bytes` on.
fn meshes_with_slices_from(n_bytes: usize, worlds: Vec<World>) -> Vec<Box<dyn Group>> {
    let mesh = |world| {
        let mut mesh = mesh(world);
        mesh.set_slices_from_bytes(n_bytes);
        Box::new(mesh) as Box<dyn Group>
    };
    worlds.into_iter().map(mesh).collect()
}

group_conformance!(solo, vec![Box::new(Solo) as Box<dyn Group>]);
group_conformance!(mesh_of_1, meshes(memory(1)));
group_conformance!(mesh_of_2_over_memory, meshes(memory(2)));
group_conformance!(mesh_of_2_over_shm, meshes(shm(2)));
group_conformance!(mesh_of_2_over_tcp, meshes(tcp(2)));
group_conformance!(mesh_of_3_over_shm, meshes(shm(3)));
group_conformance!(mesh_of_3_over_verbs, meshes(verbs(3)));
group_conformance!(mesh_of_4_over_memory, meshes(memory(4)));
group_conformance!(mesh_of_4_over_tcp, meshes(tcp(4)));
group_conformance!(mesh_of_5_over_all, meshes(mixed(5)));
group_conformance!(slices_only, meshes_with_slices_from(0, mixed(3)));
group_conformance!(whole_vectors_only, meshes_with_slices_from(usize::MAX, mixed(3)));

/// Both ways, so that each is taken whatever the length.
#[test]
fn worlds_of_1_to_16_ranks_sum_alike() {
    for n in 1..=16 {
        let naive: Vec<Vec<f32>> = [0, 1, 15, 40_003].map(|len| in_rank_order(n, len, 3)).into();
        for slices_from in [0, usize::MAX] {
            on_every_rank(meshes_with_slices_from(slices_from, memory(n)), |mut group| {
                for naive in &naive {
                    let mut x: Vec<f32> = sample(group.rank(), naive.len(), 3);
                    group.all_reduce((&mut x[..]).into()).unwrap();
                    assert!(x == *naive, "{n} ranks, {} numbers", naive.len());
                }
            });
        }
    }
}

#[test]
fn a_world_of_16_does_all_over_any_link() {
    for worlds in [mixed(16), tcp(16), shm(16)] {
        let ranks: Vec<_> = meshes(worlds);
        conformance::reduce_scatter_is_a_part_of_all_reduce::<half::f16>(ranks);
    }
    conformance::gather_and_broadcast_have_a_root::<half::bf16>(meshes(mixed(16)));
    conformance::two_ranks_send_and_receive::<f32>(meshes(mixed(13)));
}

/// Rank 0 decides, so all ranks go the same way; whichever it is, sums stay the same.
#[test]
fn what_is_measured_holds_on_all_ranks() {
    for worlds in [memory(3), shm(2), tcp(2), memory(1)] {
        let found = std::sync::Mutex::new(Vec::new());
        on_every_rank(worlds, |world| {
            let mut mesh = mesh(world);
            let n_bytes = mesh.measure().unwrap();
            assert_eq!(n_bytes, mesh.slices_from_bytes());
            found.lock().unwrap().push(n_bytes);
            mesh.barrier().unwrap();
        });
        let found = found.into_inner().unwrap();
        assert!(found.iter().all(|n_bytes| *n_bytes == found[0] && *n_bytes > 0), "{found:?}");
    }
}

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
            row.all_reduce((&mut x[..]).into()).unwrap();
            assert_eq!(x, [(me / 2 * 4 + 1) as f32, 2.0]);
            column.all_reduce((&mut x[..]).into()).unwrap();
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
        group.all_gather((&[me][..]).into(), &[1, 1], (&mut out[..]).into()).unwrap();
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

/// The bytes a rank sends for a large vector do not grow with the number of ranks.
#[test]
fn large_sums_send_less_than_the_vector_twice() {
    for n in [3, 4, 6] {
        let (worlds, controls) = memory_controls(n);
        let len = SLICES_FROM_BYTES;
        on_every_rank(worlds, |world| {
            Mesh::whole(world.shared()).unwrap().all_reduce((&mut vec![1.0_f32; len][..]).into()).unwrap();
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
    fn sums_are_the_naive_ones_bit_for_bit(
        n in 1..8usize, len in 0..40_000usize, seed: u32, slices_from in 0..200_000usize,
    ) {
        fn check<T: conformance::Number>(n: usize, len: usize, seed: u32, slices_from: usize) {
            let naive: Vec<T> = in_rank_order(n, len, seed);
            on_every_rank(meshes_with_slices_from(slices_from, memory(n)), |mut group| {
                let mut x: Vec<T> = sample(group.rank(), len, seed);
                group.all_reduce((&mut x[..]).into()).unwrap();
                assert!(x.iter().zip(&naive).all(|(a, b)| a.wide().to_bits() == b.wide().to_bits()));
            });
        }
        check::<f32>(n, len, seed, slices_from);
        check::<half::f16>(n, len, seed, slices_from);
        check::<half::bf16>(n, len, seed, slices_from);
    }
}
