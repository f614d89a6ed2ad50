//! A plan for programs. What is unknown is null.

use ::plan::cost::{Breakdown, Prediction, Speed};
use ::plan::search::{Candidate, Rejected};
use serde_json::{Value, json};

use super::{Report, SpeedRow};

pub(super) fn report(report: &Report) -> Value {
    let cost = &report.subject.cost;
    let costs = report.costs();
    json!({
        "model": {
            "name": report.subject.name,
            "source": report.subject.source,
            "bytes": cost.weights().0,
            "parameters": cost.n_params(),
            "active_parameters": cost.n_active_params(),
            "is_runnable": cost.is_runnable,
        },
        "on": report.place,
        "context": report.ask.load.context_len,
        "requests": report.ask.load.n_sequences,
        "is_exact": report.choice.is_exact,
        "plan": candidate(report, &report.choice.best),
        "speeds": report.speeds.iter().map(speeds).collect::<Vec<_>>(),
        "joules_per_token": costs.joules_per_token,
        "machines_usd": costs.machines_usd,
        "energy_usd_per_million_tokens": costs.energy_usd_per_million,
        "machines_usd_per_million_tokens": costs.machines_usd_per_million,
        "rejected": report.choice.rejected.iter().map(rejected).collect::<Vec<_>>(),
    })
}

fn candidate(report: &Report, candidate: &Candidate) -> Value {
    let mut memory = candidate.prediction.memory.iter();
    let mut ranks = Vec::new();
    for (i, stage) in candidate.layout.stages.iter().enumerate() {
        for (member, held) in stage.members.iter().zip(&mut memory) {
            let range = |r: &std::ops::Range<u32>| json!([r.start, r.end]);
            ranks.push(json!({
                "machine": report.machine(member.machine).node.name,
                "stage": i,
                "layers": range(&stage.layers),
                "kv_heads": range(&member.shard.kv_heads),
                "ffn_columns": range(&member.shard.ffn),
                "vocabulary": range(&member.shard.vocab),
                "weights": held.weights.0,
                "kv": held.kv.0,
                "activations": held.activations.0,
                "memory": held.memory.0,
            }));
        }
    }
    json!({
        "tp": candidate.layout.tp(),
        "pp": candidate.layout.pp(),
        "ranks": ranks,
        "prediction": prediction(&candidate.prediction),
    })
}

pub(super) fn prediction(p: &Prediction) -> Value {
    json!({
        "decode": p.decode.as_ref().map(speed),
        "prefill": p.prefill.as_ref().map(speed),
        "ttft_s": p.ttft_s,
        "watts": p.watts,
        "stages_s": p.stages_s,
    })
}

fn speed(speed: &Speed) -> Value {
    json!({ "tok_s": speed.tokens_per_s, "band": speed.band, "step_s": step(&speed.step) })
}

fn step(step: &Breakdown) -> Value {
    let terms = step.terms().into_iter().map(|(name, s)| (name.replace(' ', "_").to_lowercase(), json!(s)));
    Value::Object(terms.collect())
}

fn speeds(row: &SpeedRow) -> Value {
    json!({
        "context": row.load.context_len,
        "requests": row.load.n_sequences,
        "fits": row.fits,
        "prediction": prediction(&row.prediction),
    })
}

fn rejected(rejected: &Rejected) -> Value {
    json!({
        "what": rejected.what,
        "why": rejected.why,
        "prediction": rejected.candidate.as_ref().map(|c| prediction(&c.prediction)),
    })
}
