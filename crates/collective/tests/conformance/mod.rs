//! What every group promises, as checks that run on all its ranks at once. A new kind of group joins by one line
//! of `group_conformance!`.

use std::thread;

use collective::{CollectiveError, Group, REDUCE_SCATTER_MIN_BYTES};

pub(crate) type Ranks = Vec<Box<dyn Group>>;

/// Runs `check` with every rank's value, each on its own thread.
pub(crate) fn on_every_rank<T: Send>(ranks: Vec<T>, check: impl Fn(T) + Sync) {
    thread::scope(|s| {
        for rank in ranks {
            s.spawn(|| check(rank));
        }
    });
}

/// Rank `rank`'s vector: numbers of very different sizes, so that another order of adding shows.
pub(crate) fn sample(rank: usize, len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed ^ (rank as u32 + 1).wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    (0..len).map(|_| (next() as f32 - 8e6) * 10f32.powi((next() % 9) as i32 - 6)).collect()
}

/// The sum of all ranks' samples, formed in rank order.
pub(crate) fn in_rank_order(n_ranks: usize, len: usize, seed: u32) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = (0..n_ranks).map(|rank| sample(rank, len, seed)).collect();
    (0..len).map(|i| parts[1..].iter().fold(parts[0][i], |sum, part| sum + part[i])).collect()
}

pub(crate) fn all_reduce_sums_in_rank_order(ranks: Ranks) {
    let (n, threshold) = (ranks.len(), REDUCE_SCATTER_MIN_BYTES / 4);
    on_every_rank(ranks, |mut group| {
        for len in [1, 0, 576, threshold - 1, threshold, 3 * threshold + 7, 2] {
            let mut x = sample(group.rank(), len, len as u32);
            group.all_reduce(&mut x).unwrap();
            assert!(x == in_rank_order(n, len, len as u32), "{len} numbers");
        }
    });
}

pub(crate) fn megabytes_do_not_block(ranks: Ranks) {
    let n = ranks.len() as f32;
    on_every_rank(ranks, |mut group| {
        let mut x = vec![1.5; 2 << 20];
        group.all_reduce(&mut x).unwrap();
        assert!(x.iter().all(|x| *x == 1.5 * n));
    });
}

pub(crate) fn all_gather_concatenates_uneven_parts(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        for unit in [1, 50_000] {
            // The last rank has nothing to give.
            let lens: Vec<usize> = (0..n).map(|rank| (n - 1 - rank) * unit).collect();
            let mine = vec![group.rank() as f32; lens[group.rank()]];
            let mut out = vec![-1.0; lens.iter().sum()];
            group.all_gather(&mine, &lens, &mut out).unwrap();
            let expected = lens.iter().enumerate().flat_map(|(rank, len)| vec![rank as f32; *len]);
            assert!(out.iter().copied().eq(expected));
        }
    });
}

pub(crate) fn gather_and_broadcast_have_a_root(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        for root in 0..n {
            let lens: Vec<usize> = (0..n).map(|rank| rank + 1).collect();
            let (me, is_root) = (group.rank(), group.rank() == root);
            let mut out = vec![-1.0; if is_root { lens.iter().sum() } else { 0 }];
            group.gather(root, &vec![me as f32; me + 1], &lens, &mut out).unwrap();
            if is_root {
                assert!(out.iter().copied().eq((0..n).flat_map(|rank| vec![rank as f32; rank + 1])));
            }
            let mut x = [me as f32, -(me as f32)];
            group.broadcast(root, &mut x).unwrap();
            assert_eq!(x, [root as f32, -(root as f32)]);
        }
    });
}

pub(crate) fn nobody_leaves_a_barrier_alone(ranks: Ranks) {
    use std::sync::atomic::{AtomicUsize, Ordering};
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
pub(crate) fn wrong_shapes_are_refused(ranks: Ranks) {
    let n = ranks.len();
    on_every_rank(ranks, |mut group| {
        let lens = vec![2; n];
        let found = [
            group.all_gather(&[0.0; 2], &lens, &mut vec![0.0; 2 * n + 1]),
            group.all_gather(&[0.0; 3], &lens, &mut vec![0.0; 2 * n]),
            group.all_gather(&[0.0; 2], &vec![2; n + 1], &mut vec![0.0; 2 * n]),
            group.gather(n, &[0.0; 2], &lens, &mut vec![0.0; 2 * n]),
            group.broadcast(n, &mut [0.0; 2]),
        ];
        for result in found {
            assert!(matches!(result, Err(CollectiveError::Shape { .. })), "{result:?}");
        }
        group.barrier().unwrap();
    });
}

macro_rules! group_conformance {
    ($kind:ident, $ranks:expr) => {
        group_conformance!(@each $kind, $ranks,
            all_reduce_sums_in_rank_order,
            megabytes_do_not_block,
            all_gather_concatenates_uneven_parts,
            gather_and_broadcast_have_a_root,
            nobody_leaves_a_barrier_alone,
            wrong_shapes_are_refused);
    };
    (@each $kind:ident, $ranks:expr, $($check:ident),*) => {
        mod $kind {
            use super::*;
            $(#[test]
            fn $check() {
                conformance::$check($ranks);
            })*
        }
    };
}
pub(crate) use group_conformance;
