//! Several clients at once: how many tokens a second all of them get together, and how long each waits for its first.
//! Both servers run side by side and are asked in turns.

use std::{sync::Barrier, thread, time::Instant};

use anyhow::{Context, Result};

use super::{
    Bench, N_SERVER_THREADS, Prompts,
    llama::Setting,
    models::Model,
    server::{Answer, Request, Server},
    table::{Figure, Goal, Row, Samples, Section},
};

/// Streams at once.
const LEVELS: [u32; 4] = [1, 4, 8, 16];
/// From so many on there is a goal.
const MIN_GOAL_STREAMS: u32 = 8;
const N_PROMPT: usize = 64;
const N_TOKENS: u32 = 128;

/// A server under load.
struct Side {
    server: Server,
    id: String,
    /// Tokens a second of each turn.
    rates: Samples,
    /// Seconds from each request to its first token, all turns together.
    ttfts: Samples,
}

/// Measures one model at every level.
pub(super) fn run(bench: &Bench, model: &Model, mut found: impl FnMut(Row)) -> Result<()> {
    let llama_server = bench.llama_server.as_ref().context("streams need llama-server")?;
    let mut prompts = Prompts::new();
    for n_streams in LEVELS {
        let llama =
            |setting| Side::new(Server::llama(llama_server, model, N_SERVER_THREADS, n_streams, setting)?);
        let mut ours = Side::new(Server::onefold(&bench.onefold, model, N_SERVER_THREADS, n_streams)?)?;
        let mut theirs =
            vec![(Setting::Repack, llama(Setting::Repack)?), (Setting::Plain, llama(Setting::Plain)?)];
        for i in 0..=bench.n_runs {
            let is_counted = i > 0;
            ours.turn(model, n_streams, &mut prompts, is_counted)?;
            for (_, side) in &mut theirs {
                side.turn(model, n_streams, &mut prompts, is_counted)?;
            }
            if i == 1 {
                // one counted turn tells the settings apart
                theirs.sort_by(|(_, a), (_, b)| b.rates.median().total_cmp(&a.rates.median()));
                theirs.truncate(1);
            }
        }
        rows(model, n_streams, &ours, &theirs[0].1, theirs[0].0).into_iter().for_each(&mut found);
    }
    Ok(())
}

impl Side {
    fn new(mut server: Server) -> Result<Side> {
        let id = server.model_id()?;
        Ok(Side { server, id, rates: Samples::default(), ttfts: Samples::default() })
    }

    /// All streams at once, each with a prompt of its own.
    fn turn(&mut self, model: &Model, n: u32, prompts: &mut Prompts, is_counted: bool) -> Result<()> {
        let request = |_| Request::new(model, &self.id, &prompts.next(N_PROMPT), N_TOKENS);
        let requests: Vec<_> = (0..n).map(request).collect();
        let barrier = Barrier::new(requests.len());
        let answers: Vec<(Instant, Answer)> = thread::scope(|scope| {
            let ask = |request| {
                barrier.wait();
                (Instant::now(), self.server.complete(request))
            };
            let clients: Vec<_> = requests.iter().map(|r| scope.spawn(move || ask(r))).collect();
            let join = |client: thread::ScopedJoinHandle<'_, (Instant, Result<Answer>)>| {
                let (start, answer) = client.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
                anyhow::Ok((start, answer?))
            };
            clients.into_iter().map(join).collect::<Result<_>>()
        })?;
        let start = answers.iter().map(|(start, _)| *start).min().context("no streams")?;
        let end = answers.iter().map(|(_, answer)| answer.end).max().context("no streams")?;
        if is_counted {
            self.rates.extend([f64::from(n * N_TOKENS) / (end - start).as_secs_f64()]);
            self.ttfts.extend(answers.iter().map(|(start, a)| (a.first_token - *start).as_secs_f64()));
        }
        Ok(())
    }
}

fn rows(model: &Model, n_streams: u32, ours: &Side, theirs: &Side, setting: Setting) -> [Row; 3] {
    let row = |test: &str, goal, figure: &dyn Fn(&Side) -> Figure| Row {
        section: Section::Streams,
        model: model.title(),
        setup: format!("{n_streams} {}", if n_streams == 1 { "stream" } else { "streams" }),
        test: test.to_owned(),
        ours: figure(ours),
        against: figure(theirs).of(format!("llama-server {}", setting.name())),
        goal: (n_streams >= MIN_GOAL_STREAMS).then_some(goal).flatten(),
    };
    let ttft = |q: f64| move |side: &Side| side.ttfts.figure_of(side.ttfts.quantile(q), "s");
    [
        row("all together", Some(Goal::AtLeast(1.5)), &|side| side.rates.figure("tok/s")),
        row("TTFT p50", None, &ttft(0.5)),
        row("TTFT p95", Some(Goal::Below(1.0)), &ttft(0.95)),
    ]
}
