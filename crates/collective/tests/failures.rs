//! What a broken, silent or late rank does to the others: an error that names it, on all of them, in bounded time.
#![allow(clippy::unwrap_used)] // a check fails by panicking

mod conformance;
mod worlds;

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use base::RankId;
use collective::{CollectiveError, Group, Mesh, SLICES_FROM_BYTES, World};
use conformance::on_every_rank;
use transport::{LinkError, Medium};
use worlds::{media, memory, memory_controls, memory_controls_within, memory_within, mixed, shm, tcp, verbs};

#[test]
fn a_cut_link_is_an_error_on_every_rank() {
    for n_floats in [3, SLICES_FROM_BYTES] {
        let (worlds, controls) = memory_controls(4);
        let started = Instant::now();
        on_every_rank(worlds, |world| {
            let me = world.me();
            let mut group = Mesh::whole(world.shared()).unwrap();
            let mut x = vec![1.0_f32; n_floats];
            // The cut may lose what rank 1's last messages carried, so the others' first round may fail too.
            let error = (0..4).find_map(|round| {
                if round == 1 && me == RankId(1) {
                    controls[1][2].cut();
                }
                group.all_reduce((&mut x[..]).into()).err()
            });
            let error = error.unwrap();
            match &error {
                CollectiveError::Link { rank, peer, .. } => assert!(*rank == me && *peer != me, "{error}"),
                // one end of the cut link says it of the other
                CollectiveError::Told { rank, culprit, .. } => {
                    assert!(*rank == me && [1, 2].contains(&culprit.0), "{error}");
                }
                _ => panic!("{error}"),
            }
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
        let mut x = vec![1.0_f32; 500];
        assert!((0..3).any(|_| group.all_reduce((&mut x[..]).into()).is_err()));
    });
}

#[test]
fn a_silent_rank_ends_at_the_deadline() {
    let mut worlds = worlds::memory_within(2, Duration::from_millis(30));
    let _silent = worlds.pop();
    let mut group = Mesh::whole(worlds.remove(0).shared()).unwrap();
    match group.all_reduce((&mut [1.0_f32][..]).into()).unwrap_err() {
        CollectiveError::Link { peer: RankId(1), source: LinkError::TimedOut { .. }, .. } => {}
        e => panic!("{e}"),
    }
}

#[test]
fn another_length_at_a_peer_is_an_error() {
    on_every_rank(memory(2), |world| {
        let mut x = vec![0.0_f32; 4 + world.me().index()];
        let mut group = Mesh::whole(world.shared()).unwrap();
        let e = group.all_reduce((&mut x[..]).into()).and_then(|()| group.barrier()).unwrap_err();
        assert!(matches!(e, CollectiveError::Link { .. } | CollectiveError::Told { .. }), "{e}");
    });
}

/// The rank that an error names.
fn culprit(error: &CollectiveError) -> RankId {
    match error {
        CollectiveError::Link { peer, .. } => *peer,
        CollectiveError::Told { culprit, .. } => *culprit,
        e => panic!("{e}"),
    }
}

/// It dies in the middle of work, large or small; whoever is left names it, over any link.
#[test]
fn a_killed_rank_is_named_by_all_others() {
    for len in [1, 577, SLICES_FROM_BYTES] {
        for worlds in [memory(4), shm(3), tcp(4), verbs(3), mixed(5)] {
            let started = Instant::now();
            on_every_rank(worlds, |world| {
                let me = world.me();
                let mut group = Mesh::whole(world.shared()).unwrap();
                let mut x = vec![1.0_f32; len];
                for round in 0.. {
                    if round == 3 && me == RankId(2) {
                        return; // all of its links end with it
                    }
                    if let Err(error) = group.all_reduce((&mut x[..]).into()) {
                        assert_eq!(culprit(&error), RankId(2), "on {me}: {error}");
                        return;
                    }
                }
            });
            assert!(started.elapsed() < worlds::DEADLINE, "waited for the deadline");
        }
    }
}

/// Ranks that only know each other through a third one hear of a failure from it.
#[test]
fn a_failure_is_told_along_a_chain() {
    for worlds in [memory(4), shm(4), tcp(4)] {
        on_every_rank(worlds, |world| {
            let me = world.me().index();
            let mut group = Mesh::whole(world.shared()).unwrap();
            // each waits for the next one, and the last for nobody: it dies
            let Some(next) = Some(me + 1).filter(|next| *next < 4) else { return };
            let error = group.recv(next, (&mut [0.0_f32; 9][..]).into()).unwrap_err();
            assert_eq!(culprit(&error), RankId(3), "on {me}: {error}");
            if me == 0 {
                assert_eq!(error.to_string(), "recv on rank 0 failed at rank 3, says rank 1");
            }
        });
    }
}

/// One rank waits for the silent one and runs out of time; who waits for that one, with more time, learns it from there.
#[test]
fn a_silent_rank_is_named_by_who_waits_for_others() {
    let over = Barrier::new(3);
    on_every_rank(memory_within(3, Duration::from_millis(50)), |mut world| {
        let me = world.me().index();
        if me == 0 {
            let error = world.recv_within(RankId(1), &mut Vec::new(), None).unwrap_err();
            assert_eq!(error.to_string(), "recv on rank 0 failed at rank 2, says rank 1");
        } else if me == 1 {
            let error = world.recv(RankId(2), &mut Vec::new()).unwrap_err();
            let timed_out = |e| {
                matches!(e, CollectiveError::Link { peer: RankId(2), source: LinkError::TimedOut { .. }, .. })
            };
            assert!(timed_out(error));
        }
        // silent, and there, until it is given up
        over.wait();
    });
}

/// Slow is not broken.
#[test]
fn a_slow_rank_is_waited_for() {
    let (worlds, controls) = memory_controls(3);
    controls[1].iter().for_each(|control| control.delay(Duration::from_millis(3)));
    on_every_rank(worlds, |world| {
        let mut group = Mesh::whole(world.shared()).unwrap();
        for len in [1, 4_000, SLICES_FROM_BYTES] {
            let mut x = vec![1.0_f32; len];
            group.all_reduce((&mut x[..]).into()).unwrap();
            assert!(x.iter().all(|x| *x == 3.0));
        }
    });
}

/// Whatever the links are like: every rank has the sum.
#[test]
fn links_of_the_whole_catalogue_carry_sums() {
    for medium in Medium::CATALOGUE {
        on_every_rank(media(3, medium), |world| {
            let mut group = Mesh::whole(world.shared()).unwrap();
            for len in [1, 4_000, SLICES_FROM_BYTES] {
                let mut x = vec![1.0_f32; len];
                group.all_reduce((&mut x[..]).into()).unwrap();
                assert!(x.iter().all(|x| *x == 3.0), "{}", medium.name);
            }
        });
    }
}

/// A link that stops and goes on, as a cable that is pulled and plugged in again within the patience of TCP.
#[test]
fn a_flapping_link_is_waited_for() {
    let (worlds, controls) = memory_controls(3);
    let is_over = AtomicBool::new(false);
    thread::scope(|s| {
        s.spawn(|| {
            for i in 0..20_000 {
                controls[i % 3][(i + 1) % 3].hold(i % 2 == 0);
                controls[(i + 1) % 3][i % 3].hold(i % 4 < 2);
                thread::sleep(Duration::from_micros(200));
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                controls.iter().flatten().for_each(|control| control.hold(false));
            }
            controls.iter().flatten().for_each(|control| control.hold(false));
        });
        on_every_rank(worlds, |world| {
            let mut group = Mesh::whole(world.shared()).unwrap();
            for len in [1, 577, SLICES_FROM_BYTES].repeat(10) {
                let mut x = vec![1.0_f32; len];
                group.all_reduce((&mut x[..]).into()).unwrap();
                assert!(x.iter().all(|x| *x == 3.0));
            }
        });
        is_over.store(true, Ordering::Relaxed);
    });
}

/// One direction is dead and nobody says so: the deadline does, and everybody hears whose link it is.
#[test]
fn a_half_open_link_ends_at_the_deadline_on_every_rank() {
    let (worlds, controls) = memory_controls_within(3, Duration::from_millis(100));
    controls[1][2].hold(true);
    on_every_rank(worlds, |world| {
        let me = world.me();
        let mut group = Mesh::whole(world.shared()).unwrap();
        let error = (0..3).find_map(|_| group.all_reduce((&mut [1.0_f32; 5][..]).into()).err()).unwrap();
        assert!([1, 2].contains(&culprit(&error).0), "on {me}: {error}");
    });
}

#[test]
fn lost_and_overtaken_messages_are_errors_on_every_rank() {
    for is_lost in [true, false] {
        let (worlds, controls) = memory_controls(3);
        match is_lost {
            true => controls[0][1].lose(0.2, 1),
            false => controls[0][1].reorder(0.2, 1),
        }
        on_every_rank(worlds, |world| {
            let mut group = Mesh::whole(world.shared()).unwrap();
            let mut sum = || {
                let mut x = [1.0_f32; 9];
                let done = group.all_reduce((&mut x[..]).into());
                assert!(done.is_err() || x == [3.0; 9], "a wrong sum");
                done.err()
            };
            let error = (0..100).find_map(|_| sum()).unwrap();
            assert!([0, 1].contains(&culprit(&error).0), "{error}");
        });
    }
}

#[test]
fn a_late_message_is_refused() {
    for worlds in [memory(2), shm(2), tcp(2), verbs(2)] {
        let met = Barrier::new(2);
        on_every_rank(worlds, |world| {
            let (me, met) = (world.me(), &met);
            let world = world.with_incarnation(7 - me.0);
            assert_eq!(world.incarnation(), 7 - me.0);
            let mut group = Mesh::whole(world.shared()).unwrap();
            if me == RankId(1) {
                // what it has to say is of incarnation 6, and on its way before the other looks
                group.send(0, (&[1.0_f32; 5][..]).into()).unwrap();
                met.wait();
                return;
            }
            met.wait();
            let mut x = [2.0_f32; 5];
            let error = group.recv(1, (&mut x[..]).into()).unwrap_err();
            assert!(matches!(error, CollectiveError::Incarnation { expected: 7, found: 6, .. }));
            let told = "recv on rank 0: refused a message of rank 1: expected incarnation 7, found 6";
            assert_eq!(error.to_string(), told);
            assert_eq!(x, [2.0; 5], "some of it was taken");
        });
    }
}

/// The world's own messages are refused alike.
#[test]
fn a_message_of_an_incarnation_to_come_is_refused() {
    on_every_rank(memory(2), |world| {
        let mut world = if world.me() == RankId(0) { world } else { world.with_incarnation(1) };
        if world.me() == RankId(1) {
            world.send(RankId(0), b"a step").unwrap();
            let _ = world.recv(RankId(0), &mut Vec::new());
            return;
        }
        let error = world.recv(RankId(1), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, CollectiveError::Incarnation { expected: 0, found: 1, .. }), "{error}");
    });
}

#[test]
fn another_call_or_element_at_a_peer_is_an_error() {
    on_every_rank(memory(2), |world| {
        let me = world.me();
        let mut group = Mesh::whole(world.shared()).unwrap();
        let done = match me {
            RankId(0) => group.all_reduce((&mut [0.0_f32; 4][..]).into()),
            _ => group.broadcast(1, (&mut [half::f16::ZERO; 8][..]).into()).and_then(|()| group.barrier()),
        };
        match done.unwrap_err() {
            CollectiveError::OutOfStep { expected, found, .. } if me == RankId(0) => {
                assert!(expected.starts_with("all_reduce of f32 in group "), "{expected}");
                assert!(found.starts_with("broadcast of f16 in group "), "{found}");
            }
            CollectiveError::OutOfStep { .. } | CollectiveError::Told { .. } => {}
            CollectiveError::Link { source: LinkError::Closed { .. }, .. } => {}
            e => panic!("{e}"),
        }
    });
}

/// Bytes that are no message of a group.
#[test]
fn hostile_messages_are_errors() {
    for bytes in [&[][..], &[0; 5], &[0; 12], &[9; 12], &[0xff; 40]] {
        let (mut stranger, link) = worlds::memory_pair();
        transport::send(stranger.as_mut(), bytes, None).unwrap();
        let world = World::new(RankId(0), vec![(RankId(1), link)], worlds::DEADLINE).unwrap();
        let mut group = Mesh::whole(world.shared()).unwrap();
        assert!(group.all_reduce((&mut [1.0_f32; 7][..]).into()).is_err(), "{bytes:02x?}");
    }
}
