//! A replica's state in the words of `/health` and `/metrics`.

use api::{Gauge, Status};

use super::supervise::Shared;

/// How the replica is now.
pub(super) fn of(shared: &Shared) -> Status {
    let s = shared.stats();
    let gauges = [
        ("onefold_sequences_running", "Sequences that hold KV blocks.", f64::from(s.n_running)),
        ("onefold_sequences_waiting", "Sequences that wait to be admitted.", f64::from(s.n_waiting)),
        ("onefold_kv_blocks_used", "KV blocks in use.", f64::from(s.n_blocks_used)),
        ("onefold_kv_blocks", "KV blocks of the cache.", f64::from(s.n_blocks)),
        ("onefold_preemptions", "Sequences sent back to the queue, since the start.", s.n_preemptions as f64),
        (
            "onefold_prefix_hit_tokens",
            "Prompt tokens found in the prefix cache, since the start.",
            s.n_prefix_hit_tokens as f64,
        ),
        ("onefold_steps", "Steps, since the start.", s.n_steps as f64),
        ("onefold_prefill_tokens", "Tokens computed in prefill, since the start.", s.n_prefill_tokens as f64),
        (
            "onefold_prefill_seconds",
            "Time of steps with prefill, since the start.",
            s.prefill_us as f64 / 1e6,
        ),
        ("onefold_decode_tokens", "Tokens computed in decode, since the start.", s.n_decode_tokens as f64),
        (
            "onefold_decode_seconds",
            "Time of steps without prefill, since the start.",
            s.decode_us as f64 / 1e6,
        ),
    ];
    let gauge = |(name, help, value): (&str, &str, f64)| Gauge {
        name: name.to_owned(),
        help: help.to_owned(),
        value,
    };
    Status { down: shared.why_down(), gauges: gauges.into_iter().map(gauge).collect() }
}
