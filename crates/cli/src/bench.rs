//! `onefold bench`: prefill and decode speed through the whole stack, rank processes included, as users of other
//! engines' benchmarks expect it: pp512 is a prompt of 512 random tokens, tg128 is 128 tokens one after the other.

use std::{fmt, time::Instant};

use anyhow::{Result, bail};
use base::{Output, SamplingParams, TokenId};
use engine::Client;
use node::{OpenModel, Replica, Stats};

use crate::{args::BenchArgs, report, start};

/// One test's runs, in tokens per second.
struct Measured {
    name: String,
    rates: Vec<f64>,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    if args.prompt == 0 && args.generate == 0 {
        bail!("-p and -n are both 0: there is nothing to measure");
    }
    let model = start::open_model(&args.model)?;
    let replica = start::replica(&model, &args.placement, None, start::MAX_LOCAL_REQUESTS)?;
    check_lengths(args, replica.plan().context_len())?;
    let mut prompts = Prompts::new(model.description.spec.vocab);
    let mut results = Vec::new();
    let mut graph = None;
    if args.prompt > 0 {
        let prefill = || prefill_rate(replica.client(), prompts.next(args.prompt));
        results.push(Measured::repeat(format!("pp{}", args.prompt), args.repeat, prefill)?);
    }
    if args.generate > 0 {
        let before = replica.stats();
        let decode = || decode_rate(replica.client(), prompts.next(1), args.generate);
        results.push(Measured::repeat(format!("tg{}", args.generate), args.repeat, decode)?);
        graph = args.verbose.then(|| Graph::of(&replica, before));
    }
    let n_threads: usize = replica.plan().ranks().iter().map(|r| r.cores.len().max(1)).sum();
    if args.json {
        report::print(serde_json::to_string_pretty(&json(
            args,
            &model,
            n_threads,
            &results,
            graph.as_ref(),
        ))?)?;
    } else {
        print(args, &model, n_threads, &results)?;
        graph.map_or(Ok(()), report::print)?;
    }
    replica.stop();
    Ok(())
}

/// Prefill makes one token after the prompt; decode has one before those it counts, and starts at the next.
fn check_lengths(args: &BenchArgs, context_len: u32) -> Result<()> {
    let longest = (u64::from(args.prompt) + 1).max(u64::from(args.generate) + 2);
    if longest > u64::from(context_len) {
        bail!(
            "the longest test has {longest} tokens, the context {context_len}\n\
             hint: --context makes it longer, if the model allows; -p and -n make the tests shorter"
        );
    }
    Ok(())
}

impl Measured {
    /// Runs once for nothing, then `n` times.
    fn repeat(name: String, n: u32, mut run: impl FnMut() -> Result<f64>) -> Result<Measured> {
        run()?;
        let mut rates = (0..n).map(|_| run()).collect::<Result<Vec<f64>>>()?;
        rates.sort_by(f64::total_cmp);
        Ok(Measured { name, rates })
    }

    fn median(&self) -> f64 {
        let n = self.rates.len();
        (self.rates[(n - 1) / 2] + self.rates[n / 2]) / 2.0
    }

    fn min(&self) -> f64 {
        self.rates[0]
    }

    fn max(&self) -> f64 {
        self.rates[self.rates.len() - 1]
    }
}

/// What rank 0 handed to its device for a token, on average over the decode test: each of its steps computes one token.
struct Graph {
    n_nodes: f64,
    n_launches: f64,
    n_evals: f64,
    /// Layers of rank 0.
    n_layers: u32,
}

impl Graph {
    fn of(replica: &Replica, before: Stats) -> Graph {
        let after = replica.stats();
        let since = |n: fn(&Stats) -> u64| n(&after).saturating_sub(n(&before)) as f64;
        let n_steps = since(|s| s.n_steps).max(1.0);
        let n_layers = replica.plan().ranks()[0].layers.len() as u32;
        let counted = [since(|s| s.n_graph_nodes), since(|s| s.n_graph_launches), since(|s| s.n_graph_evals)];
        let [n_nodes, n_launches, n_evals] = counted.map(|n| n / n_steps);
        Graph { n_nodes, n_launches, n_evals, n_layers }
    }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Graph { n_nodes, n_launches, n_evals, n_layers } = self;
        if *n_evals == 0.0 {
            return f.write_str("a token on rank 0: no graph, the backend computes at once");
        }
        let [nodes, launches] = [n_nodes, n_launches].map(|n| n / f64::from(*n_layers));
        write!(
            f,
            "a token on rank 0: {n_evals:.2} evaluations of {n_nodes:.1} graph nodes, {n_launches:.1} of which launch something; \
             for each of {n_layers} layers {nodes:.1} and {launches:.1}"
        )
    }
}

fn print(args: &BenchArgs, model: &OpenModel, n_threads: usize, results: &[Measured]) -> Result<()> {
    let mut table = report::table(&["model", "weights", "tp × pp", "threads", "test", "tok/s", "min", "max"]);
    for result in results {
        table.add_row([
            model.id.clone(),
            model.weight_bytes().to_string(),
            format!("{} × {}", args.placement.tp, args.placement.pp),
            n_threads.to_string(),
            result.name.clone(),
            format!("{:.2}", result.median()),
            format!("{:.2}", result.min()),
            format!("{:.2}", result.max()),
        ]);
    }
    report::align_right(&mut table, [1, 3, 5, 6, 7]);
    report::print(table)?;
    report::print(format_args!("tok/s is the median of {} runs after one that is not counted", args.repeat))
}

fn json(
    args: &BenchArgs,
    model: &OpenModel,
    n_threads: usize,
    results: &[Measured],
    graph: Option<&Graph>,
) -> serde_json::Value {
    let tests: Vec<_> = results
        .iter()
        .map(|r| {
            serde_json::json!({
                "test": r.name, "tok_s_median": r.median(), "tok_s_min": r.min(), "tok_s_max": r.max(), "tok_s": r.rates,
            })
        })
        .collect();
    let mut report = serde_json::json!({
        "model": model.id,
        "weight_bytes": model.weight_bytes().0,
        "tp": args.placement.tp,
        "pp": args.placement.pp,
        "threads": n_threads,
        "tests": tests,
    });
    if let Some(graph) = graph {
        report["graph"] = serde_json::json!({
            "nodes_per_token": graph.n_nodes, "launches_per_token": graph.n_launches,
            "evals_per_token": graph.n_evals, "layers": graph.n_layers,
        });
    }
    report
}

/// Prompt tokens divided by the time to the first token.
fn prefill_rate(client: &Client, prompt: Vec<TokenId>) -> Result<f64> {
    let n = prompt.len() as f64;
    let times = token_times(client, prompt, 1)?;
    Ok(n / times[0])
}

/// Tokens after the first divided by the time since the first.
pub(crate) fn decode_rate(client: &Client, prompt: Vec<TokenId>, n: u32) -> Result<f64> {
    let times = token_times(client, prompt, n + 1)?;
    Ok(f64::from(n) / (times[n as usize] - times[0]))
}

/// Seconds from the request to each token.
fn token_times(client: &Client, prompt: Vec<TokenId>, n: u32) -> Result<Vec<f64>> {
    let started = Instant::now();
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let mut stream = client.submit(prompt, n, Vec::new(), greedy)?;
    let mut times = Vec::with_capacity(n as usize);
    while let Some(output) = stream.blocking_next() {
        match output {
            Output::Token { .. } => times.push(started.elapsed().as_secs_f64()),
            Output::Finished { .. } => break,
            Output::Failed { message, .. } => bail!(message),
        }
    }
    if times.len() != n as usize {
        bail!("benchmark: expected {n} tokens, found {}", times.len());
    }
    Ok(times)
}

/// Random prompts, the same in every run of the program, none a prefix of another.
pub(crate) struct Prompts {
    vocab: u32,
    state: u64,
}

impl Prompts {
    pub(crate) fn new(vocab: u32) -> Prompts {
        Prompts { vocab, state: 1 }
    }

    pub(crate) fn next(&mut self, n: u32) -> Vec<TokenId> {
        (0..n).map(|_| TokenId((self.random() % u64::from(self.vocab)) as u32)).collect()
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
