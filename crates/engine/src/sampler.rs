//! One token from one row of logits. No state: the same logits and the same [`SampleSpec`] give the same token.
//! It does not know what the tokens mean.
//!
//! Order: logit_bias; repetition, then presence and frequency penalties; temperature; top_k; top_p; min_p; draw.
//! Log-probabilities are those of the model's own distribution, before all of that. Between equals the lowest
//! id comes first.
//!
//! Broken rows: NaN counts as -inf and +inf as the largest number, so one bad row cannot stop the requests
//! beside it. If no logit is left, the token is 0.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base::{SampleSpec, Sampled, TokenId};

/// The least log-probability that is reported, in nats: stands for -inf, which JSON cannot say.
pub const MIN_LOGPROB: f32 = -9999.0;

/// Candidates that are sorted first to find the likeliest for top_p; few distributions need more.
const NUCLEUS_START: usize = 256;
const NUCLEUS_GROWTH: usize = 8;

/// A token and its logit or weight.
type Candidate = (TokenId, f32);

/// Samples the token at `spec.position`. `logits: [vocab]`.
pub fn sample(logits: &[f32], spec: &SampleSpec) -> Sampled {
    let raw = defined(logits);
    let params = &spec.params;
    let adjusted = adjust(&raw, spec);
    // Also a NaN temperature is greedy.
    let token = if params.temperature > 0.0 { draw(&adjusted, spec) } else { argmax(&adjusted) };
    match params.n_logprobs {
        Some(n_top) => with_logprobs(&raw, token, n_top as usize),
        None => Sampled { token, logprob: None, top: Vec::new() },
    }
}

/// A logit that can be compared: never NaN nor +inf.
fn defined_logit(x: f32) -> f32 {
    if x.is_nan() { f32::NEG_INFINITY } else { x.min(f32::MAX) }
}

/// The row with every logit defined; copied only if it is broken.
fn defined(logits: &[f32]) -> Cow<'_, [f32]> {
    // One flag without early exit, so that the scan is vectorised.
    let is_broken = logits.iter().fold(false, |bad, x| bad | x.is_nan() | (*x > f32::MAX));
    if !is_broken {
        return Cow::Borrowed(logits);
    }
    Cow::Owned(logits.iter().map(|x| defined_logit(*x)).collect())
}

/// The row after bias and penalties; copied only if there are any. Tokens outside the row are skipped.
fn adjust<'a>(raw: &'a [f32], spec: &SampleSpec) -> Cow<'a, [f32]> {
    let params = &spec.params;
    let mut row = Cow::Borrowed(raw);
    if params.logit_bias.is_empty() && !params.has_penalties() {
        return row;
    }
    let logits = row.to_mut();
    let mut change = |token: TokenId, f: &dyn Fn(f32) -> f32| {
        if let Some(x) = logits.get_mut(token.0 as usize) {
            *x = defined_logit(f(*x));
        }
    };
    for (token, bias) in &params.logit_bias {
        change(*token, &|x| x + bias);
    }
    if params.repetition_penalty != 1.0 {
        let penalty = params.repetition_penalty;
        let in_answer = spec.answer_counts.iter().map(|(t, _)| *t);
        let seen: BTreeSet<TokenId> = spec.prompt_tokens.iter().copied().chain(in_answer).collect();
        for token in seen {
            change(token, &|x| if x > 0.0 { x / penalty } else { x * penalty });
        }
    }
    for (token, n) in &spec.answer_counts {
        change(*token, &|x| x - params.presence_penalty - params.frequency_penalty * *n as f32);
    }
    row
}

/// The largest logit; -inf if there is none.
fn max(logits: &[f32]) -> f32 {
    // Independent lanes, so that the comparisons are vectorised.
    const N_LANES: usize = 16;
    let mut lanes = [f32::NEG_INFINITY; N_LANES];
    let (chunks, rest) = logits.as_chunks::<N_LANES>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, x| if *x > m { *x } else { m })
}

/// The first token with the largest logit.
fn argmax(logits: &[f32]) -> TokenId {
    let max = max(logits);
    TokenId(logits.iter().position(|x| *x == max).unwrap_or(0) as u32)
}

/// A random token under temperature and filters.
fn draw(logits: &[f32], spec: &SampleSpec) -> TokenId {
    let params = &spec.params;
    let max = max(logits);
    if max == f32::NEG_INFINITY {
        return TokenId(0);
    }
    // Weights relative to the likeliest token, which has 1; any positive temperature keeps them in 0..=1.
    let temperature = params.temperature.min(f32::MAX);
    let weight = |(token, x): Candidate| (token, ((x - max) / temperature).exp());
    let mut kept: Vec<Candidate> = match params.top_k {
        Some(k) => likeliest(candidates(logits), k as usize).into_iter().map(weight).collect(),
        None => candidates(logits).map(weight).collect(),
    };
    if params.top_p < 1.0 {
        kept = nucleus(kept, params.top_p);
    }
    if params.min_p > 0.0 {
        let least = params.min_p.min(1.0);
        kept.retain(|(_, weight)| *weight >= least);
    }
    pick(&kept, uniform(params.seed, spec.position))
}

fn candidates(logits: &[f32]) -> impl Iterator<Item = Candidate> + '_ {
    // Adding 0 turns -0 into 0: equals must also be equal in the total order.
    logits.iter().enumerate().map(|(i, x)| (TokenId(i as u32), *x + 0.0))
}

/// The `k` candidates with the largest values (at least one), largest first. Candidates come by rising id.
/// Keeps at most about twice `k` of them at a time and looks at most of them only once.
fn likeliest(candidates: impl Iterator<Item = Candidate>, k: usize) -> Vec<Candidate> {
    let k = k.max(1);
    let full = k.saturating_mul(2).saturating_add(64);
    let by_rank = |a: &Candidate, b: &Candidate| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    let mut kept: Vec<Candidate> = Vec::new();
    // Among equals the earlier id wins, so only a larger value can displace one of the k.
    let mut floor = None;
    for candidate in candidates {
        if floor.is_some_and(|floor| candidate.1 <= floor) {
            continue;
        }
        kept.push(candidate);
        if kept.len() == full {
            kept.select_nth_unstable_by(k - 1, by_rank);
            kept.truncate(k);
            floor = Some(kept[k - 1].1);
        }
    }
    kept.sort_unstable_by(by_rank);
    kept.truncate(k);
    kept
}

/// The likeliest candidates whose share of the total weight reaches `top_p`, likeliest first.
fn nucleus(kept: Vec<Candidate>, top_p: f32) -> Vec<Candidate> {
    let goal = f64::from(top_p) * total(&kept);
    let mut k = NUCLEUS_START;
    loop {
        let mut likely = likeliest(kept.iter().copied(), k);
        let mut sum = 0.0;
        let last = likely.iter().position(|(_, weight)| {
            sum += f64::from(*weight);
            sum >= goal
        });
        if let Some(last) = last {
            likely.truncate(last + 1);
            return likely;
        }
        if k >= kept.len() {
            return likely;
        }
        k *= NUCLEUS_GROWTH;
    }
}

fn total(kept: &[Candidate]) -> f64 {
    kept.iter().map(|(_, weight)| f64::from(*weight)).sum()
}

/// The candidate at the point `u` (0 up to 1) of the total weight.
fn pick(kept: &[Candidate], u: f64) -> TokenId {
    let mut rest = u * total(kept);
    let mut token = TokenId(0);
    for (candidate, weight) in kept.iter().filter(|(_, weight)| *weight > 0.0) {
        token = *candidate;
        rest -= f64::from(*weight);
        if rest < 0.0 {
            break;
        }
    }
    token
}

/// A number from 0 up to 1 that depends on seed and position alone: the position'th output of SplitMix64
/// (Steele, Lea, Flood 2014), started at a scrambled seed so that neighbouring seeds share no stream.
fn uniform(seed: u64, position: u32) -> f64 {
    const STRIDE: u64 = 0x9e37_79b9_7f4a_7c15;
    let bits = scramble(scramble(seed ^ STRIDE).wrapping_add(STRIDE.wrapping_mul(u64::from(position) + 1)));
    // The upper 53 bits fill the mantissa.
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Log-softmax of the raw row for the token and for the `n_top` likeliest ones.
fn with_logprobs(raw: &[f32], token: TokenId, n_top: usize) -> Sampled {
    let max = max(raw);
    let sum: f64 = raw.iter().map(|x| f64::from((x - max).exp())).sum();
    let log_sum = f64::from(max) + sum.ln();
    // NaN (no logit is left) becomes the least.
    let logprob = |x: f32| ((f64::from(x) - log_sum) as f32).max(MIN_LOGPROB);
    let top = if n_top == 0 { Vec::new() } else { likeliest(candidates(raw), n_top) };
    Sampled {
        token,
        logprob: Some(raw.get(token.0 as usize).map_or(MIN_LOGPROB, |x| logprob(*x))),
        top: top.into_iter().map(|(t, x)| (t, logprob(x))).collect(),
    }
}

#[cfg(test)]
mod tests;
