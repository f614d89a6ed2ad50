//! Replicas whose ranks compute with MLX, as people start them: however a model is shared out and whoever sums, the answer
//! is that of one rank, beside CPU ranks too; and a rank that is lost or hangs ends the replica in good order, also in the
//! middle of MLX's own collectives, which would wait for ever.
#![allow(clippy::unwrap_used)] // all of it is tests

mod common;

use std::{collections::BTreeMap, net::SocketAddr, path::Path, thread};

use base::DType;
use common::{PATIENCE, Running, SECRET, Server, Waiting, exchange, gguf, open, other_host, rank, uneven};
use serde_json::{Value, json};
use weights::synthetic::{Arch, Quant, Recipe};

/// Largest difference of a log-probability where all compute in 32 bits and only the order of additions differs.
const MAX_DELTA: f64 = 1e-3;
/// The same beside CPU ranks, whose KV cache has 16 bits.
const MAX_DELTA_MIXED: f64 = 2e-2;
const N_TOKENS: usize = 24;
const PROMPTS: [&str; 4] = [
    "The ranks share every layer",
    "a",
    "What one machine cannot hold, several can, if each takes a part of every layer and all add up what they found.",
    "1, 2, 3",
];

/// The likeliest tokens at each position, with log-probabilities; the first of the pair was taken.
type Answer = Vec<(String, BTreeMap<String, f64>)>;

fn ask(address: SocketAddr, prompt: &str) -> Answer {
    let body = json!({
        "model": "model", "prompt": prompt, "max_tokens": N_TOKENS, "temperature": 0, "logprobs": 5,
    });
    let (status, answer) = exchange(open(address, "POST", "/v1/completions", &body.to_string()));
    assert_eq!(status, 200, "{answer}");
    let scores: &Value = &answer["choices"][0]["logprobs"];
    let tokens: Vec<String> = serde_json::from_value(scores["tokens"].clone()).unwrap();
    let top: Vec<BTreeMap<String, f64>> = serde_json::from_value(scores["top_logprobs"].clone()).unwrap();
    assert_eq!(tokens.len(), top.len(), "{answer}");
    tokens.into_iter().zip(top).collect()
}

/// All prompts at once, so that they share steps.
fn ask_all(server: &Server) -> Vec<Answer> {
    let address = server.address;
    let answers = thread::scope(|scope| {
        let asked: Vec<_> = PROMPTS.iter().map(|prompt| scope.spawn(move || ask(address, prompt))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    let (n_steps, n_tokens) = (server.metric("onefold_steps"), server.metric("onefold_decode_tokens"));
    println!("{n_tokens} tokens decoded in {n_steps} steps");
    answers
}

/// One prompt after the other.
fn ask_each(server: &Server) -> Vec<Answer> {
    PROMPTS.iter().map(|prompt| ask(server.address, prompt)).collect()
}

/// Largest difference of a log-probability; the tokens must be the same.
fn max_delta(expected: &[Answer], found: &[Answer]) -> f64 {
    let mut max = 0f64;
    let mut min_gap = f64::MAX;
    for (expected, found) in expected.iter().zip(found) {
        assert_eq!(expected.len(), found.len());
        for (position, ((a, top_a), (b, top_b))) in expected.iter().zip(found).enumerate() {
            assert_eq!(a, b, "position {position}: {top_a:?} {top_b:?}");
            for (token, lp) in top_a {
                if token != a {
                    min_gap = min_gap.min(top_a[a] - lp);
                }
            }
            let both = top_a.iter().filter_map(|(token, lp)| Some((lp - top_b.get(token)?).abs()));
            max = both.fold(max, f64::max);
        }
    }
    println!("delta {max} gap {min_gap}");
    max
}

fn serve(model: &Path, args: &str) -> Server {
    Server::start(model, &args.split(' ').collect::<Vec<_>>())
}

#[test]
fn sums_over_onefold() {
    sums_over("onefold");
}

#[test]
fn sums_over_mlx_ring() {
    sums_over("mlx-ring");
}

fn sums_over(collectives: &str) {
    let dir = tempfile::tempdir().unwrap();
    let models = [
        (uneven(), &["--tp 2", "--tp 3", "--tp 2 --pp 2"][..]),
        (Recipe { arch: Arch::Qwen3, quant: Quant::Uniform(DType::Q4_0), ..uneven() }, &["--tp 2"]),
        (Recipe { arch: Arch::Qwen2, quant: Quant::Uniform(DType::Q8_0), ..uneven() }, &["--tp 3"]),
    ];
    for (recipe, placements) in models {
        let model = gguf(&recipe, dir.path(), "model.gguf");
        let alone = ask_each(&serve(&model, "--backend mlx"));
        for placement in placements {
            let server = serve(&model, &format!("{placement} --backend mlx --collectives {collectives}"));
            println!("{:?} {placement} {collectives}", recipe.arch);
            assert!(max_delta(&alone, &ask_all(&server)) < MAX_DELTA);
        }
    }
}

#[test]
fn pipelines_mix_backends() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let alone = ask_each(&serve(&model, "--backend mlx"));
    for (placement, max) in [
        ("--backend mlx", MAX_DELTA),
        ("--pp 2 --backend mlx", MAX_DELTA),
        ("--pp 2 --backend mlx,cpu", MAX_DELTA_MIXED),
        ("--pp 2 --backend cpu,mlx", MAX_DELTA_MIXED),
        ("--backend cpu", MAX_DELTA_MIXED),
    ] {
        println!("{placement}");
        assert!(max_delta(&alone, &ask_all(&serve(&model, placement))) < max);
    }
}

#[test]
fn a_rank_with_mlx_joins_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let model = gguf(&uneven(), dir.path(), "model.gguf");
    let copy = gguf(&uneven(), dir.path(), "copy.gguf");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let alone = ask_each(&serve(&model, "--backend mlx"));
    for (placement, max) in [
        (&["--pp", "2", "--backend", "cpu,mlx"][..], MAX_DELTA_MIXED),
        (&["--tp", "2", "--backend", "mlx", "--collectives", "mlx-ring"], MAX_DELTA),
    ] {
        let Waiting { process, door } = Waiting::start(&model, placement, other_host(), &secret);
        let mut remote = Running::start(&mut rank(door, 1, &secret, &copy));
        let server = Server::ready(process);
        assert!(max_delta(&alone, &ask_all(&server)) < max);
        drop(server);
        remote.wait(PATIENCE);
    }
}

#[cfg(target_os = "linux")]
mod losses {
    use super::common::busy::{kill_a_rank, stop_a_rank};

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
