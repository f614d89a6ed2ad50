//! What every group promises, as checks that run on all its ranks at once, for every kind of element. A new kind of
//! group joins by one line of `group_conformance!`.
#![allow(dead_code, unused_imports, unused_macros)] // every test uses some of them

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use collective::{CollectiveError, Element, Group};
use half::{bf16, f16};

pub(crate) type Ranks = Vec<Box<dyn Group>>;

/// Sizes around which something changes: nothing, one, odd, a block of adding, a message.
pub(crate) const LENS: [usize; 7] = [1, 0, 577, 16_384, 100_003, 32_767, 2];

/// Runs `check` with every rank's value, each on its own thread.
pub(crate) fn on_every_rank<T: Send>(ranks: Vec<T>, check: impl Fn(T) + Sync) {
    thread::scope(|s| {
        for rank in ranks {
            s.spawn(|| check(rank));
        }
    });
}

/// A number as tests make and compare it.
pub(crate) trait Number: Element + Send + Sync + PartialEq + std::fmt::Debug {
    fn of(x: f32) -> Self;
    fn wide(self) -> f32;
}

macro_rules! number {
    ($type:ty, $of:expr, $wide:expr) => {
        impl Number for $type {
            fn of(x: f32) -> $type {
                $of(x)
            }
            fn wide(self) -> f32 {
                $wide(self)
            }
        }
    };
}
number!(f32, std::convert::identity, std::convert::identity);
number!(f16, f16::from_f32, f16::to_f32);
number!(bf16, bf16::from_f32, bf16::to_f32);

/// Rank `rank`'s vector: numbers of very different sizes, so that another order of adding shows.
pub(crate) fn sample<T: Number>(rank: usize, len: usize, seed: u32) -> Vec<T> {
    let mut state = seed ^ (rank as u32 + 1).wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    (0..len).map(|_| T::of((next() as f32 - 8e6) * 10f32.powi((next() % 9) as i32 - 11))).collect()
}

/// The sum of all ranks' samples, formed in `f32` in rank order and rounded once.
pub(crate) fn in_rank_order<T: Number>(n_ranks: usize, len: usize, seed: u32) -> Vec<T> {
    let parts: Vec<Vec<T>> = (0..n_ranks).map(|rank| sample(rank, len, seed)).collect();
    let sum = |i: usize| parts[1..].iter().fold(parts[0][i].wide(), |sum, part| sum + part[i].wide());
    (0..len).map(|i| T::of(sum(i))).collect()
}

pub(crate) fn all_reduce_sums_in_rank_order<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    let naive: Vec<Vec<T>> = LENS.iter().map(|len| in_rank_order(n, *len, *len as u32)).collect();
    on_every_rank(ranks, |mut group| {
        for (&len, naive) in LENS.iter().zip(&naive) {
            let mut x: Vec<T> = sample(group.rank(), len, len as u32);
            group.all_reduce((&mut x[..]).into()).unwrap();
            assert!(x == *naive, "{len} numbers");
        }
    });
}

pub(crate) fn reduce_scatter_is_a_part_of_all_reduce<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        for unit in [1, 0, 301, 9_000] {
            // The first rank gets nothing.
            let lens: Vec<usize> = (0..n).map(|rank| rank * unit).collect();
            let (me, len) = (group.rank(), lens.iter().sum());
            let x: Vec<T> = sample(me, len, 5);
            let mut out = vec![T::of(-1.0); lens[me]];
            group.reduce_scatter((&x[..]).into(), &lens, (&mut out[..]).into()).unwrap();
            let start: usize = lens[..me].iter().sum();
            assert!(out == in_rank_order::<T>(n, len, 5)[start..start + lens[me]], "{unit}");
        }
    });
}

pub(crate) fn megabytes_do_not_block<T: Number>(ranks: Ranks) {
    // as many bytes in all, however many ranks
    let (n, len) = (ranks.len() as f32, (4 << 20) / ranks.len());
    on_every_rank(ranks, |mut group| {
        let mut x = vec![T::of(1.5); len];
        group.all_reduce((&mut x[..]).into()).unwrap();
        assert!(x.iter().all(|x| x.wide() == 1.5 * n));
    });
}

pub(crate) fn all_gather_concatenates_uneven_parts<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        for unit in [1, 10_000] {
            // The last rank has nothing to give.
            let lens: Vec<usize> = (0..n).map(|rank| (n - 1 - rank) * unit).collect();
            let mine = vec![T::of(group.rank() as f32); lens[group.rank()]];
            let mut out = vec![T::of(-1.0); lens.iter().sum()];
            group.all_gather((&mine[..]).into(), &lens, (&mut out[..]).into()).unwrap();
            let expected = lens.iter().enumerate().flat_map(|(rank, len)| vec![T::of(rank as f32); *len]);
            assert!(out.iter().copied().eq(expected));
        }
    });
}

pub(crate) fn gather_and_broadcast_have_a_root<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        for root in 0..n {
            let lens: Vec<usize> = (0..n).map(|rank| rank + 1).collect();
            let (me, is_root) = (group.rank(), group.rank() == root);
            let mut out = vec![T::of(-1.0); if is_root { lens.iter().sum() } else { 0 }];
            let mine = vec![T::of(me as f32); me + 1];
            group.gather(root, (&mine[..]).into(), &lens, (&mut out[..]).into()).unwrap();
            if is_root {
                let expected = (0..n).flat_map(|rank| vec![T::of(rank as f32); rank + 1]);
                assert!(out.iter().copied().eq(expected));
            }
            let mut x = [T::of(me as f32), T::of(-(me as f32))];
            group.broadcast(root, (&mut x[..]).into()).unwrap();
            assert_eq!(x, [T::of(root as f32), T::of(-(root as f32))]);
        }
    });
}

/// Every pair, one after the other, while the rest are elsewhere already.
pub(crate) fn two_ranks_send_and_receive<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        let me = group.rank();
        for (from, to) in (0..n).flat_map(|a| (0..n).map(move |b| (a, b))).filter(|(a, b)| a != b) {
            let len = [0, 1, 20_001][(from + to) % 3];
            let sent: Vec<T> = sample(from, len, to as u32);
            if me == from {
                group.send(to, (&sent[..]).into()).unwrap();
            } else if me == to {
                let mut x = vec![T::of(0.0); len];
                group.recv(from, (&mut x[..]).into()).unwrap();
                assert!(x == sent);
            }
        }
    });
}

pub(crate) fn nobody_leaves_a_barrier_alone<T: Number>(ranks: Ranks) {
    let (n, n_here) = (ranks.len(), AtomicUsize::new(0));
    on_every_rank(ranks, |mut group| {
        for round in 1..=20 {
            n_here.fetch_add(1, Ordering::SeqCst);
            group.barrier().unwrap();
            assert!(n_here.load(Ordering::SeqCst) >= round * n);
        }
    });
}

/// A mistake of the caller is told before anything is sent, and breaks nothing.
pub(crate) fn wrong_shapes_are_refused<T: Number>(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        let (lens, me) = (vec![2; n], group.rank());
        let (two, three) = ([T::of(0.0); 2], [T::of(0.0); 3]);
        let (mut all, mut more) = (vec![T::of(0.0); 2 * n], vec![T::of(0.0); 2 * n + 1]);
        let found = [
            group.all_gather((&two[..]).into(), &lens, (&mut more[..]).into()),
            group.all_gather((&three[..]).into(), &lens, (&mut all[..]).into()),
            group.all_gather((&two[..]).into(), &vec![2; n + 1], (&mut all[..]).into()),
            group.gather(n, (&two[..]).into(), &lens, (&mut all[..]).into()),
            group.reduce_scatter((&more[..]).into(), &lens, (&mut all[..2]).into()),
            group.reduce_scatter((&all.clone()[..]).into(), &lens, (&mut more[..3]).into()),
            group.broadcast(n, (&mut more[..]).into()),
            group.send(n, (&two[..]).into()),
            group.recv(me, (&mut all[..]).into()),
        ];
        for result in found {
            assert!(matches!(result, Err(CollectiveError::Shape { .. })), "{result:?}");
        }
        let mut others = vec![0.0_f32; 2 * n];
        let result = group.all_gather((&[f16::ONE; 2][..]).into(), &lens, (&mut others[..]).into());
        assert!(matches!(result, Err(CollectiveError::Element { .. })), "{result:?}");
        group.barrier().unwrap();
    });
}

macro_rules! group_conformance {
    ($kind:ident, $ranks:expr) => {
        mod $kind {
            use super::*;
            group_conformance!(@of f32, f32, $ranks);
            group_conformance!(@of f16, half::f16, $ranks);
            group_conformance!(@of bf16, half::bf16, $ranks);
        }
    };
    (@of $name:ident, $element:ty, $ranks:expr) => {
        mod $name {
            use super::*;
            group_conformance!(@each $element, $ranks,
                all_reduce_sums_in_rank_order,
                reduce_scatter_is_a_part_of_all_reduce,
                megabytes_do_not_block,
                all_gather_concatenates_uneven_parts,
                gather_and_broadcast_have_a_root,
                two_ranks_send_and_receive,
                nobody_leaves_a_barrier_alone,
                wrong_shapes_are_refused);
        }
    };
    (@each $element:ty, $ranks:expr, $($check:ident),*) => {
        $(#[test]
        fn $check() {
            conformance::$check::<$element>($ranks);
        })*
    };
}
pub(crate) use group_conformance;
