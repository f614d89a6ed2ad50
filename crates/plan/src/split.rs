//! Sharing out by weights: units over ranks, layers over stages. Numbers in, numbers out; it knows no model.

use std::ops::Range;

/// Shares out `n` units by `weights`, at least one to each: rounded down, leftovers to the largest remainders
/// (the first of equals). `None` if there are fewer units than weights or all weights are zero.
pub(crate) fn apportion(n: u64, weights: &[u64]) -> Option<Vec<u64>> {
    let total: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    if n < weights.len() as u64 || total == 0 {
        return None;
    }
    let exact = |w: u64| u128::from(n) * u128::from(w);
    let mut sizes: Vec<u64> = weights.iter().map(|&w| (exact(w) / total) as u64).collect();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(exact(weights[i]) % total)); // stable: the first of equals stays first
    let n_left = n - sizes.iter().sum::<u64>();
    for &i in &order[..n_left as usize] {
        sizes[i] += 1;
    }
    while let Some(empty) = sizes.iter().position(|&s| s == 0) {
        let largest = (0..sizes.len()).rev().max_by_key(|&i| sizes[i])?; // the first of equals gives
        sizes[largest] -= 1;
        sizes[empty] = 1;
    }
    Some(sizes)
}

/// Cuts `0..n` at multiples of `unit` into runs of `sizes` units; the last run takes the rest.
pub(crate) fn runs(n: u32, unit: u32, sizes: &[u64]) -> Vec<Range<u32>> {
    let mut start = 0;
    let mut n_units = 0;
    let cut = |size: &u64| {
        n_units += size;
        let end = (n_units * u64::from(unit)).min(u64::from(n)) as u32;
        let run = start..end;
        start = end;
        run
    };
    sizes.iter().map(cut).collect()
}

/// Cuts layers into one contiguous run per weight, none empty, so that the largest bytes per weight are as small
/// as possible, and then the sum of their squares. `first` and `last` are added to the outer runs.
pub(crate) fn cut_layers(layers: &[u64], first: u64, last: u64, weights: &[u32]) -> Vec<Range<u32>> {
    let (n_layers, n_stages) = (layers.len(), weights.len());
    let mut upto = vec![0.0; n_layers + 1]; // bytes of the layers before each cut
    for (i, &bytes) in layers.iter().enumerate() {
        upto[i + 1] = upto[i] + bytes as f64;
    }
    let load = |stage: usize, start: usize, end: usize| {
        let first = if stage == 0 { first as f64 } else { 0.0 };
        let last = if stage + 1 == n_stages { last as f64 } else { 0.0 };
        (first + upto[end] - upto[start] + last) / f64::from(weights[stage])
    };
    // best[end]: (largest, squares) of the stages so far when they end before layer `end`
    const UNREACHED: (f64, f64) = (f64::INFINITY, f64::INFINITY);
    let mut best = vec![UNREACHED; n_layers + 1];
    best[0] = (0.0, 0.0);
    let mut starts = Vec::with_capacity(n_stages); // starts[stage][end]: where that stage begins then
    for stage in 0..n_stages {
        let mut next = vec![UNREACHED; n_layers + 1];
        let mut from = vec![0; n_layers + 1];
        for end in stage + 1..=n_layers + stage + 1 - n_stages {
            for (start, &(largest, squares)) in best.iter().enumerate().take(end).skip(stage) {
                let own = load(stage, start, end);
                let sum = (largest.max(own), squares + own * own);
                if sum < next[end] {
                    (next[end], from[end]) = (sum, start);
                }
            }
        }
        best = next;
        starts.push(from);
    }
    follow(&starts, n_layers)
}

/// The runs, read backwards from the last layer.
fn follow(starts: &[Vec<usize>], n_layers: usize) -> Vec<Range<u32>> {
    let mut end = n_layers;
    let run = |from: &Vec<usize>| {
        let run = from[end] as u32..end as u32;
        end = from[end];
        run
    };
    let mut cuts: Vec<Range<u32>> = starts.iter().rev().map(run).collect();
    cuts.reverse();
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_to_the_first_and_nobody_is_left_out() {
        assert_eq!(apportion(3, &[1, 1]), Some(vec![2, 1]));
        assert_eq!(apportion(3, &[3, 1]), Some(vec![2, 1]));
        assert_eq!(apportion(3, &[100, 1]), Some(vec![2, 1]));
        assert_eq!(apportion(8, &[3, 1]), Some(vec![6, 2]));
        assert_eq!(apportion(4, &[0, 1, 0]), Some(vec![1, 2, 1]));
        assert_eq!(apportion(2, &[1, 1, 1]), None);
        assert_eq!(apportion(2, &[0, 0]), None);
    }

    #[test]
    fn the_last_run_takes_the_rest() {
        assert_eq!(runs(50, 16, &[2, 2]), [0..32, 32..50]);
        assert_eq!(runs(u32::MAX, 16, &[1 << 27, 1 << 27]), [0..1 << 31, 1 << 31..u32::MAX]);
    }

    #[test]
    fn layers_are_cut_by_bytes_and_weights() {
        assert_eq!(cut_layers(&[1; 30], 0, 0, &[1, 1, 1, 1]).iter().map(Range::len).max(), Some(8));
        assert_eq!(cut_layers(&[1; 8], 0, 0, &[3, 1]), [0..6, 6..8]);
        assert_eq!(cut_layers(&[1; 8], 4, 0, &[1, 1]), [0..2, 2..8], "the embedding counts");
        assert_eq!(cut_layers(&[1; 8], 0, 4, &[1, 1]), [0..6, 6..8], "the head counts");
        assert_eq!(cut_layers(&[1; 2], 100, 0, &[1, 1]), [0..1, 1..2], "no stage is empty");
        assert_eq!(cut_layers(&[0; 3], 0, 0, &[1, 1, 1]), [0..1, 1..2, 2..3]);
    }
}
