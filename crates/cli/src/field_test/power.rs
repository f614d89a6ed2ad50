//! What the machine draws at rest and while it decodes, one rank on the backend it prefers. How power is read is the meter's.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Result, anyhow};
use plan::Fence;
use serde_json::json;

use super::{meter::Meter, outcome::Outcome};
use crate::{
    args::{ComputeArgs, PlacementArgs, STEP_DEADLINE_S},
    bench::{Prompts, decode_rate},
    start,
};

/// How long power is read, in milliseconds.
const READING_MS: u64 = 5_000;
const QUICK_READING_MS: u64 = 200;
/// Tokens of one answer: the load ends soon after the reading.
const N_GENERATE: u32 = 32;

/// Reads at rest, then during decode. Where power cannot be read, nothing is started.
pub(super) fn measure(model: &str, quick: bool) -> Result<Outcome> {
    let meter = Meter::of_this_system();
    let time = Duration::from_millis(if quick { QUICK_READING_MS } else { READING_MS });
    let idle = match meter.read(time) {
        Ok(watts) => watts,
        Err(why) => return Ok(Outcome::skipped(why)),
    };
    let model = start::open_model(model)?;
    let replica = start::replica(&model, &one_rank(), None, start::MAX_LOCAL_REQUESTS)?;
    let mut prompts = Prompts::new(model.description.spec.vocab);
    let is_read = AtomicBool::new(false);
    let (decode, rates) = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rates = Vec::new();
            while !is_read.load(Ordering::Relaxed) {
                rates.push(decode_rate(replica.client(), prompts.next(1), N_GENERATE)?);
            }
            Ok::<_, anyhow::Error>(rates)
        });
        let watts = meter.read(time).map_err(|why| anyhow!(why));
        is_read.store(true, Ordering::Relaxed);
        let rates = load.join().map_err(|_| anyhow!("the load panicked"))??;
        Ok::<_, anyhow::Error>((watts?, rates))
    })?;
    let backend = replica.plan().ranks()[0].backend;
    replica.stop();
    Ok(Outcome::passed(json!({
        "meter": meter.name(),
        "backend": backend.name(),
        "idle_w": idle,
        "decode_w": decode,
        "decode_tok_s": rates.iter().sum::<f64>() / rates.len().max(1) as f64,
    })))
}

fn one_rank() -> PlacementArgs {
    let compute = ComputeArgs {
        backend: None,
        collectives: None,
        fence: Fence::Safe,
        jaccl_devices: None,
        step_deadline: STEP_DEADLINE_S,
    };
    PlacementArgs {
        tp: 1,
        pp: 1,
        split: None,
        stage_split: None,
        threads: None,
        context: None,
        kv_tokens: None,
        compute,
    }
}
