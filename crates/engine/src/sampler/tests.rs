//! Distributions against hand-computed ones, orders of operations, hostile rows and parameters.

use base::SamplingParams;
use proptest::prelude::*;

use super::*;

fn spec(params: SamplingParams) -> SampleSpec {
    SampleSpec { params, ..SampleSpec::default() }
}

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

/// Logits of a distribution.
fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() + 3.0).collect()
}

/// Draws at many positions and compares with the expected distribution by Pearson's chi-square test.
fn assert_distribution(probabilities: &[f32], params: &SamplingParams, expected: &[f64]) {
    const N_DRAWS: u32 = 20_000;
    let row = logits(probabilities);
    let mut counts = vec![0.0; row.len()];
    let mut spec = spec(params.clone());
    for position in 0..N_DRAWS {
        spec.position = position;
        counts[sample(&row, &spec).token.0 as usize] += 1.0;
    }
    let mut chi_square = 0.0;
    for (count, p) in counts.iter().zip(expected) {
        let mean = p * f64::from(N_DRAWS);
        if mean == 0.0 {
            assert_eq!(*count, 0.0, "filtered tokens are never drawn: {counts:?}");
        } else {
            chi_square += (count - mean) * (count - mean) / mean;
        }
    }
    // The 99.9 % quantile for 4 degrees of freedom; no test here has more.
    assert!(chi_square < 18.47, "chi-square {chi_square}, counts {counts:?}, expected {expected:?}");
}

#[test]
fn greedy_takes_the_first_of_the_likeliest() {
    assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &spec(greedy())).token, TokenId(1));
    let mut wide = vec![0.0; 1000];
    wide[998] = 1.0;
    wide[997] = 1.0;
    assert_eq!(sample(&wide, &spec(greedy())).token, TokenId(997));
    let not_a_number = SamplingParams { temperature: f32::NAN, ..greedy() };
    assert_eq!(sample(&[1.0, 3.0], &spec(not_a_number)).token, TokenId(1));
}

#[test]
fn broken_rows_have_a_defined_token() {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for params in [greedy(), SamplingParams { top_p: 0.5, ..SamplingParams::default() }] {
        let params = SamplingParams { n_logprobs: Some(2), ..params };
        let token = |row: &[f32]| sample(row, &spec(params.clone())).token.0;
        assert_eq!(token(&[nan, 1.0, nan]), 1);
        assert_eq!(token(&[5.0, inf, 3.0]), 1);
        assert_eq!(token(&[-inf, -inf, 3.0]), 2);
        assert_eq!(token(&[nan, nan]), 0);
        assert_eq!(token(&[-inf, -inf]), 0);
        assert_eq!(token(&[]), 0);
    }
    let broken = sample(&[nan, nan], &spec(SamplingParams { n_logprobs: Some(1), ..greedy() }));
    assert_eq!((broken.logprob, broken.top), (Some(MIN_LOGPROB), vec![(TokenId(0), MIN_LOGPROB)]));
}

#[test]
fn bias_and_penalties_by_hand() {
    let params = SamplingParams {
        logit_bias: vec![(TokenId(0), 1.5), (TokenId(3), f32::NEG_INFINITY), (TokenId(99), 5.0)],
        repetition_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        ..SamplingParams::default()
    };
    let spec = SampleSpec {
        prompt_tokens: vec![TokenId(0), TokenId(1), TokenId(88)],
        answer_counts: vec![(TokenId(1), 1), (TokenId(2), 3), (TokenId(77), 1)],
        ..spec(params)
    };
    // 0: (-0.5 + 1.5) / 2; 1: -1 * 2 once, - 0.25 - 0.5; 2: 4 / 2 - 0.25 - 1.5; 3: banned; 4: untouched
    let expected = [0.5, -2.75, 0.25, f32::NEG_INFINITY, 0.75];
    assert_eq!(*adjust(&[-0.5, -1.0, 4.0, 9.0, 0.75], &spec), expected);
}

#[test]
fn penalties_move_greedy() {
    let params = SamplingParams { presence_penalty: 1.0, ..greedy() };
    let spec = SampleSpec { answer_counts: vec![(TokenId(1), 1)], ..spec(params) };
    assert_eq!(sample(&[1.0, 1.5], &spec).token, TokenId(0));
}

#[test]
fn plain_sampling_follows_the_distribution() {
    let p = [0.5, 0.3, 0.15, 0.05];
    let expected: Vec<f64> = p.iter().map(|p| f64::from(*p)).collect();
    for seed in 0..5 {
        assert_distribution(&p, &SamplingParams { seed, ..SamplingParams::default() }, &expected);
    }
}

#[test]
fn temperature_raises_to_a_power() {
    // p^2, normalised: 0.64, 0.16, 0.16, 0.04 of 1 for 4 : 2 : 2 : 1 parts.
    let half = SamplingParams { temperature: 0.5, ..SamplingParams::default() };
    let expected = [16.0 / 25.0, 4.0 / 25.0, 4.0 / 25.0, 1.0 / 25.0];
    assert_distribution(&[4.0 / 9.0, 2.0 / 9.0, 2.0 / 9.0, 1.0 / 9.0], &half, &expected);
    let infinite = SamplingParams { temperature: f32::INFINITY, ..SamplingParams::default() };
    assert_distribution(&[0.9, 0.05, 0.05, 0.0], &infinite, &[1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 0.0]);
    let tiny = SamplingParams { temperature: 1e-45, ..SamplingParams::default() };
    assert_distribution(&[0.3, 0.4, 0.3], &tiny, &[0.0, 1.0, 0.0]);
}

#[test]
fn each_filter_keeps_what_it_says() {
    let p = [0.15, 0.5, 0.05, 0.3];
    let all = SamplingParams::default();
    let top_k = SamplingParams { top_k: Some(2), ..all.clone() };
    assert_distribution(&p, &top_k, &[0.0, 0.625, 0.0, 0.375]);
    let top_p = SamplingParams { top_p: 0.75, ..all.clone() };
    assert_distribution(&p, &top_p, &[0.0, 0.625, 0.0, 0.375]);
    let min_p = SamplingParams { min_p: 0.2, ..all.clone() };
    assert_distribution(&p, &min_p, &[0.15 / 0.95, 0.5 / 0.95, 0.0, 0.3 / 0.95]);
    for one in [
        SamplingParams { top_k: Some(0), ..all.clone() },
        SamplingParams { top_k: Some(1), ..all.clone() },
        SamplingParams { top_p: 0.0, ..all.clone() },
        SamplingParams { min_p: 2.0, ..all },
    ] {
        assert_distribution(&p, &one, &[0.0, 1.0, 0.0, 0.0]);
    }
}

#[test]
fn filters_apply_in_order() {
    // top_k leaves 4/7 and 3/7, so top_p 0.5 is reached by the first alone; of the whole it would not be.
    let p = [0.4, 0.3, 0.2, 0.1];
    let both = SamplingParams { top_k: Some(2), top_p: 0.5, ..SamplingParams::default() };
    assert_distribution(&p, &both, &[1.0, 0.0, 0.0, 0.0]);
    // Temperature 1/2 makes it 16 : 9 : 4 : 1 of 30, so top_p 0.5 is reached by the first alone.
    let warm = SamplingParams { temperature: 0.5, top_p: 0.5, ..SamplingParams::default() };
    assert_distribution(&p, &warm, &[1.0, 0.0, 0.0, 0.0]);
    // Without them it takes two.
    let top_p = SamplingParams { top_p: 0.5, ..SamplingParams::default() };
    assert_distribution(&p, &top_p, &[4.0 / 7.0, 3.0 / 7.0, 0.0, 0.0]);
}

#[test]
fn logprobs_are_of_the_raw_distribution() {
    let params = SamplingParams {
        temperature: 0.1,
        logit_bias: vec![(TokenId(2), 100.0)],
        n_logprobs: Some(2),
        ..SamplingParams::default()
    };
    let sampled = sample(&logits(&[0.25, 0.5, 0.125, 0.125]), &spec(params.clone()));
    assert_eq!(sampled.token, TokenId(2));
    let close = |a: f32, p: f32| assert!((a - p.ln()).abs() < 1e-6, "{a} is not ln {p}");
    close(sampled.logprob.unwrap(), 0.125);
    assert_eq!(sampled.top.iter().map(|(t, _)| t.0).collect::<Vec<_>>(), [1, 0]);
    close(sampled.top[0].1, 0.5);
    close(sampled.top[1].1, 0.25);
    let none = sample(&[0.0, 0.0], &spec(SamplingParams { n_logprobs: Some(0), ..params.clone() }));
    assert!(none.logprob.is_some() && none.top.is_empty());
    let all = sample(&[0.0, -1.0], &spec(SamplingParams { n_logprobs: Some(u32::MAX), ..params.clone() }));
    assert_eq!(all.top.len(), 2);
    let off = sample(&[0.0, 0.0], &spec(SamplingParams { n_logprobs: None, ..params }));
    assert_eq!((off.logprob, off.top.len()), (None, 0));
}

#[test]
fn random_numbers_are_the_same_everywhere() {
    // From an independent implementation.
    assert_eq!(scramble(0x9e37_79b9_7f4a_7c15), 0xe220_a839_7b1d_cdaf);
    let expected = [
        (0, 0, 0.6524484863740322),
        (0, 1, 0.7012121095215252),
        (1, 0, 0.3662420901697574),
        (42, 1000, 0.6952598398323256),
        (u64::MAX, u32::MAX, 0.11171797963394603),
    ];
    for (seed, position, u) in expected {
        assert_eq!(uniform(seed, position), u, "seed {seed}, position {position}");
    }
}

#[test]
fn random_numbers_are_uniform_and_unrelated() {
    const N: u32 = 40_000;
    // Pairs of neighbours along positions and along seeds fall evenly into 8 × 8 cells.
    let streams: [&dyn Fn(u32) -> f64; 2] = [&|i| uniform(7, i), &|i| uniform(u64::from(i), 7)];
    for stream in streams {
        let mut cells = [0.0; 64];
        for i in 0..N {
            let (a, b) = (stream(i), stream(i + 1));
            assert!((0.0..1.0).contains(&a));
            cells[(a * 8.0) as usize * 8 + (b * 8.0) as usize] += 1.0;
        }
        let mean = f64::from(N) / 64.0;
        let chi_square: f64 = cells.iter().map(|n| (n - mean) * (n - mean) / mean).sum();
        assert!((30.0..104.0).contains(&chi_square), "63 degrees of freedom: {chi_square}");
    }
}

/// Any bits at all.
fn any_f32() -> impl Strategy<Value = f32> {
    prop_oneof![any::<u32>().prop_map(f32::from_bits), -10.0f32..10.0, Just(0.0), Just(1.0)]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let filters = (any_f32(), proptest::option::of(0u32..20), any_f32(), any_f32());
    let penalties = (any_f32(), any_f32(), any_f32());
    let bias = proptest::collection::vec((0u32..50, any_f32()), 0..5);
    (filters, penalties, bias, any::<u64>(), proptest::option::of(0u32..60)).prop_map(
        |((temperature, top_k, top_p, min_p), (repetition, presence, frequency), bias, seed, n_logprobs)| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: repetition,
                presence_penalty: presence,
                frequency_penalty: frequency,
                logit_bias: bias.into_iter().map(|(t, b)| (TokenId(t), b)).collect(),
                seed,
                n_logprobs,
            }
        },
    )
}

/// The k likeliest by a full sort.
fn sorted(row: &[f32], k: usize) -> Vec<Candidate> {
    let mut all: Vec<Candidate> = candidates(row).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k.max(1));
    all
}

proptest! {
    #[test]
    fn anything_gives_a_token_of_the_row(
        row in proptest::collection::vec(any_f32(), 1..40),
        params in any_params(),
        seen in proptest::collection::vec((0u32..50, any::<u32>()), 0..5),
        position in any::<u32>(),
    ) {
        let spec = SampleSpec {
            prompt_tokens: seen.iter().map(|(t, _)| TokenId(*t)).collect(),
            answer_counts: seen.iter().map(|(t, n)| (TokenId(*t), *n)).collect(),
            position,
            params,
        };
        let sampled = sample(&row, &spec);
        prop_assert!((sampled.token.0 as usize) < row.len());
        prop_assert_eq!(&sampled, &sample(&row, &spec));
        let n_top = spec.params.n_logprobs.map_or(0, |n| row.len().min(n as usize));
        prop_assert_eq!(sampled.top.len(), n_top);
        prop_assert!(sampled.top.iter().all(|(_, p)| (MIN_LOGPROB..=1e-6).contains(p)));
        prop_assert!(sampled.top.is_sorted_by(|a, b| a.1 >= b.1));
    }

    /// Many equal values, sizes around the buffer's.
    #[test]
    fn likeliest_is_the_head_of_a_sort(
        row in proptest::collection::vec((-9i8..9).prop_map(f32::from), 1..400),
        k in 0usize..90,
    ) {
        prop_assert_eq!(likeliest(candidates(&row), k), sorted(&row, k));
    }

    #[test]
    fn nucleus_is_the_shortest_head_that_reaches_its_share(
        row in proptest::collection::vec(0.0f32..1.0, 1..3000),
        top_p in 0.0f32..1.0,
    ) {
        let all = sorted(&row, usize::MAX);
        let kept = nucleus(candidates(&row).collect(), top_p);
        prop_assert_eq!(&kept[..], &all[..kept.len()]);
        let goal = f64::from(top_p) * total(&all);
        prop_assert!(total(&kept) >= goal * (1.0 - 1e-12));
        prop_assert!(kept.len() == 1 || total(&kept[..kept.len() - 1]) < goal * (1.0 + 1e-12));
    }

    #[test]
    fn narrow_filters_are_greedy(row in proptest::collection::vec(-9.0f32..9.0, 1..200), seed in any::<u64>()) {
        let best = sample(&row, &spec(greedy())).token;
        let all = SamplingParams { seed, ..SamplingParams::default() };
        let narrow = [
            SamplingParams { top_k: Some(1), ..all.clone() },
            SamplingParams { top_p: 0.0, ..all.clone() },
            SamplingParams { temperature: f32::MIN_POSITIVE, ..all },
        ];
        for params in narrow {
            prop_assert_eq!(sample(&row, &spec(params)).token, best);
        }
    }
}
