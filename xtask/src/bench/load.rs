//! From the start of a server's process to the first token a client gets, with the file in the page cache.

use anyhow::{Context, Result};

use super::{
    Bench, N_SERVER_THREADS, Prompts,
    llama::{Both, Setting},
    models::Model,
    server::{Request, Server},
    table::{Goal, Row, Samples, Section},
};

/// Short: it is loading that is measured.
const N_PROMPT: usize = 8;

/// Measures one model; the servers take turns.
pub(super) fn run(bench: &Bench, model: &Model) -> Result<Row> {
    let llama_server = bench.llama_server.as_ref().context("loading is compared with llama-server")?;
    let mut prompts = Prompts::new();
    let start_ours = || Server::onefold(&bench.onefold, model, N_SERVER_THREADS, 1);
    let start_theirs = |setting| Server::llama(llama_server, model, N_SERVER_THREADS, 1, setting);
    let id = start_ours()?.model_id()?; // also the run that is not counted
    Setting::ALL.into_iter().try_for_each(|setting| start_theirs(setting)?.model_id().map(drop))?;
    let mut seconds = |mut server: Server| {
        let request = Request::new(model, &id, &prompts.next(N_PROMPT), 1);
        server.time_to_first_token(&request).map(|time| time.as_secs_f64())
    };
    let (mut ours, mut theirs) = (Samples::default(), Both::default());
    for _ in 0..bench.n_runs {
        ours.extend([seconds(start_ours()?)?]);
        for setting in Setting::ALL {
            theirs.of(setting).extend([seconds(start_theirs(setting)?)?]);
        }
    }
    Ok(Row {
        section: Section::Load,
        model: model.title(),
        setup: format!("{N_SERVER_THREADS} threads"),
        test: "first token".to_owned(),
        ours: ours.figure("s"),
        against: theirs.lowest("s"),
        goal: Some(Goal::AtMost(0.7)),
    })
}
