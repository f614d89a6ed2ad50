//! Once warm, a group takes no memory: neither for small vectors nor for large ones, awake or asleep. What a rank's own
//! thread allocates is counted, over the links that ranks of a machine and of a network have.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use std::time::Duration;

use allocation_counter::measure;
use collective::{Group, Mesh, World};
use conformance::on_every_rank;
use worlds::{shm, tcp};

fn use_all(group: &mut Mesh, lens: &[usize], x: &mut [f32], all: &mut [f32]) {
    let own = lens[group.rank()];
    for len in [1, 2_048, x.len()] {
        group.all_reduce((&mut x[..len]).into()).unwrap();
    }
    group.all_gather((&x[..own]).into(), lens, (&mut *all).into()).unwrap();
    group.gather(0, (&x[..own]).into(), lens, (&mut *all).into()).unwrap();
    group.reduce_scatter((&*all).into(), lens, (&mut x[..own]).into()).unwrap();
    group.broadcast(1, (&mut *x).into()).unwrap();
    if group.rank() == 0 {
        group.send(1, (&*x).into()).unwrap();
    } else if group.rank() == 1 {
        group.recv(0, (&mut *x).into()).unwrap();
    }
    group.barrier().unwrap();
}

#[test]
fn a_warm_group_allocates_nothing() {
    let all: Vec<Vec<World>> = vec![shm(2), tcp(2), shm(3), tcp(3)];
    for (worlds, spin) in all.into_iter().zip([0, 5, 5, 0]) {
        on_every_rank(worlds, |mut world| {
            // with none, every wait is a sleep in the kernel
            world.set_spin(Duration::from_micros(spin));
            let mut group = Mesh::whole(world.shared()).unwrap();
            let lens: Vec<usize> = (0..group.size()).map(|rank| 1_000 * (rank + 1)).collect();
            let (mut x, mut all) = (vec![1.0_f32; 400_000], vec![0.0; lens.iter().sum()]);
            let first = measure(|| use_all(&mut group, &lens, &mut x, &mut all)).count_total;
            assert!(first > 0, "nothing is counted");
            for round in 0..20 {
                let later = measure(|| use_all(&mut group, &lens, &mut x, &mut all)).count_total;
                assert_eq!(later, 0, "round {round}");
            }
        });
    }
}
