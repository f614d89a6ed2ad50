//! Replicas whose ranks compute with MLX, as people start them: however a model is shared out and whoever sums, the answer
//! is that of one rank, beside CPU ranks too; and a rank that is lost ends the replica in good order, also one that hangs
//! in the middle of MLX's own collectives, which would wait for it for ever.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, thread};

use base::DType;
use common::{PATIENCE, Running, SECRET, Server, Waiting, exchange, gguf, open, other_host, rank, uneven};
use serde_json::json;
use weights::synthetic::{Arch, Quant, Recipe};

/// Largest difference of a log-probability where all compute in 32 bits and only the order of additions differs; 1.1e-5 was
/// seen.
const MAX_DELTA: f64 = 1e-3;
/// The same beside CPU ranks, whose KV cache has 16 bits; 4.8e-3 was seen.
const MAX_DELTA_MIXED: f64 = 2e-2;
const N_TOKENS: usize = 24;
const PROMPTS: [&str; 4] = [
    "The ranks share every layer",
    "a",
    "What one machine cannot hold, several can, if each takes a part of every layer and all add up what they found.",
    "1, 2, 3",
];
/// Of all tokens, how many must be compared before near ties part the answers: three in four.
const MIN_COMPARED: usize = PROMPTS.len() * N_TOKENS * 3 / 4;

#[test]
fn sums_over_onefold_change_nothing() {
    sums_change_nothing("onefold");
}

#[test]
fn sums_over_mlx_ring_change_nothing() {
    sums_change_nothing("mlx-ring");
}

fn sums_change_nothing(collectives: &str) {
    let other = |arch, dtype| Recipe { arch, quant: Quant::Uniform(dtype), ..uneven() };
    for (recipe, placements) in [
        (uneven(), &[("--tp 2", 2), ("--tp 3", 3), ("--tp 2 --pp 2", 4)][..]),
        (other(Arch::Qwen3, DType::Q4_0), &[("--tp 2", 2)]),
        (other(Arch::Qwen2, DType::Q8_0), &[("--tp 2 --split 1,2", 2)]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let model = gguf(&recipe, dir.path(), "model.gguf");
        let alone = answers_alone(&model);
        for (placement, n_ranks) in placements {
            let placement = format!("{placement} --backend mlx --collectives {collectives}");
            let server = serve(&model, &placement, *n_ranks);
            let is_ring = server.process.said.contains("mlx-ring sums inside a layer");
            assert_eq!(is_ring, collectives == "mlx-ring", "{}", server.process.said);
            compare(&format!("{:?} {placement}", recipe.arch), MAX_DELTA, &alone, &ask_all(&server));
        }
    }
}

#[test]
fn pipelines_mix_backends() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let alone = answers_alone(&model);
    for (placement, n_mlx, max_delta) in [
        ("--backend mlx", 1, MAX_DELTA),
        ("--pp 2 --backend mlx,mlx", 2, MAX_DELTA),
        ("--pp 2 --backend cpu,mlx", 1, MAX_DELTA_MIXED),
        ("--pp 2 --backend mlx,cpu", 1, MAX_DELTA_MIXED),
        ("--tp 2 --pp 2 --backend mlx,mlx,cpu,cpu", 2, MAX_DELTA_MIXED),
    ] {
        compare(placement, max_delta, &alone, &ask_all(&serve(&model, placement, n_mlx)));
    }
}

#[test]
fn ranks_join_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let copy = gguf(&uneven(), dir.path(), "copy.gguf");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let alone = answers_alone(&model);
    for (placement, max_delta) in [
        ("--pp 2 --backend cpu,mlx", MAX_DELTA_MIXED),
        ("--tp 2 --backend mlx --collectives onefold", MAX_DELTA),
        ("--tp 2 --backend mlx --collectives mlx-ring", MAX_DELTA),
    ] {
        let args: Vec<&str> = placement.split(' ').collect();
        let Waiting { process, door } = Waiting::start(&model, &args, other_host(), &secret);
        let mut remote = Running::start(&mut rank(door, 1, &secret, &copy));
        let server = Server::ready(process);
        compare(&format!("by hand {placement}"), max_delta, &alone, &ask_all(&server));
        drop(server);
        remote.wait(PATIENCE);
    }
}

/// The scores of a token that was taken and of its likeliest rivals.
struct Scored {
    token: String,
    top: BTreeMap<String, f64>,
}

type Answer = Vec<Scored>;

/// A server `n_mlx` of whose ranks compute with MLX.
fn serve(model: &Path, args: &str, n_mlx: usize) -> Server {
    let server = Server::start(model, &args.split(' ').collect::<Vec<_>>());
    assert_eq!(server.process.said.matches(" mlx ").count(), n_mlx, "{}", server.process.said);
    server
}

/// What one rank with MLX answers, asked one thing after the other.
fn answers_alone(model: &Path) -> Vec<Answer> {
    let server = serve(model, "--backend mlx", 1);
    PROMPTS.iter().map(|prompt| ask(server.address, prompt)).collect()
}

/// Everything asked at once, so that the prompts share steps.
fn ask_all(server: &Server) -> Vec<Answer> {
    let address = server.address;
    let asked = PROMPTS.map(|prompt| thread::spawn(move || ask(address, prompt)));
    let answers = asked.map(|answer| answer.join().unwrap()).into();
    let (n_steps, n_tokens) = (server.metric("onefold_steps"), server.metric("onefold_decode_tokens"));
    assert!(n_tokens > n_steps, "{n_tokens} tokens were decoded in {n_steps} steps");
    answers
}

/// The tokens that would end the answer are out of reach.
fn ask(address: SocketAddr, prompt: &str) -> Answer {
    let body = json!({
        "model": "model", "prompt": prompt, "max_tokens": N_TOKENS, "temperature": 0, "logprobs": 5,
        "logit_bias": {"317": -100, "318": -100, "319": -100},
    });
    let (status, answer) = exchange(open(address, "POST", "/v1/completions", &body.to_string()));
    assert_eq!(status, 200, "{answer}");
    let scores = &answer["choices"][0]["logprobs"];
    let tokens: Vec<String> = serde_json::from_value(scores["tokens"].clone()).unwrap();
    let top: Vec<BTreeMap<String, f64>> = serde_json::from_value(scores["top_logprobs"].clone()).unwrap();
    assert_eq!((tokens.len(), top.len()), (N_TOKENS, N_TOKENS), "{answer}");
    tokens.into_iter().zip(top).map(|(token, top)| Scored { token, top }).collect()
}

/// Tokens and log-probabilities are the expected ones. Where `max_delta` cannot tell which of two tokens is likelier, either may be
/// taken; an answer is compared as far as that.
fn compare(what: &str, max_delta: f64, expected: &[Answer], found: &[Answer]) {
    let (mut n_compared, mut largest) = (0, 0f64);
    for (expected, found) in expected.iter().zip(found) {
        for (position, (expected, found)) in expected.iter().zip(found).enumerate() {
            let shared = expected.top.iter().filter_map(|(token, lp)| Some((lp, found.top.get(token)?)));
            let deltas: Vec<f64> = shared.map(|(expected, found)| (expected - found).abs()).collect();
            assert!(deltas.len() > 1, "{what}, position {position}: {:?} {:?}", expected.top, found.top);
            n_compared += 1;
            largest = deltas.into_iter().fold(largest, f64::max);
            if expected.token != found.token {
                let score = |token| expected.top.get(token).copied().unwrap_or(f64::MIN);
                let gap = score(&expected.token) - score(&found.token);
                let (expected, found) = (&expected.token, &found.token);
                assert!(gap < 2.0 * max_delta, "{what}, position {position}: {expected:?} {found:?} {gap}");
                break;
            }
        }
    }
    println!("{what}: {n_compared} tokens, max |Δ log-probability| {largest:.1e}");
    assert!(largest < max_delta, "{what}: {largest}");
    assert!(n_compared >= MIN_COMPARED, "{what}: only {n_compared} tokens before answers part");
}

#[cfg(target_os = "linux")]
mod losses {
    use rustix::process::Signal;

    use super::common::busy::{busy, kill_a_rank, kill_the_server, start, stop_a_rank, stops};

    const ONEFOLD: [&str; 6] = ["--tp", "2", "--backend", "mlx", "--collectives", "onefold"];
    const MLX_RING: [&str; 6] = ["--tp", "2", "--backend", "mlx", "--collectives", "mlx-ring"];

    #[test]
    fn a_killed_first_rank_ends_sums_of_onefold() {
        kill_a_rank(&ONEFOLD, 0);
    }

    #[test]
    fn a_killed_second_rank_ends_sums_of_onefold() {
        kill_a_rank(&ONEFOLD, 1);
    }

    #[test]
    fn a_killed_first_rank_ends_sums_of_mlx_ring() {
        kill_a_rank(&MLX_RING, 0);
    }

    #[test]
    fn a_killed_second_rank_ends_sums_of_mlx_ring() {
        kill_a_rank(&MLX_RING, 1);
    }

    #[test]
    fn a_killed_last_stage_ends_a_mixed_pipeline() {
        kill_a_rank(&["--pp", "2", "--backend", "cpu,mlx"], 1);
    }

    #[test]
    fn a_killed_server_takes_its_ranks_along() {
        kill_the_server(&ONEFOLD, 2);
        kill_the_server(&MLX_RING, 2);
    }

    #[test]
    fn an_interrupted_server_ends_in_good_order() {
        for placement in [ONEFOLD, MLX_RING] {
            let (server, _dir) = start(&placement);
            let _open = busy(server.address);
            stops(server, Signal::INT);
        }
    }

    #[test]
    fn a_stopped_rank_is_found_in_sums_of_onefold() {
        stop_a_rank(&ONEFOLD, 1, "rank 1 was lost: expected a sign of life");
    }

    #[test]
    fn a_stopped_rank_is_found_in_sums_of_mlx_ring() {
        stop_a_rank(&MLX_RING, 1, "rank 1 was lost: expected a sign of life");
    }

    #[test]
    fn a_step_without_end_is_found_in_sums_of_mlx_ring() {
        let placement = [&MLX_RING[..], &["--step-deadline", "2"]].concat();
        stop_a_rank(&placement, 1, "rank 0 was lost: expected its step");
    }
}
