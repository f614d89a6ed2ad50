//! From a model's name to a running replica, telling people what happens on the way.

use std::{
    panic::resume_unwind,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use node::{
    ModelText, OpenModel, Paths, Placement, RemoteRanks, Replica, ReplicaOptions, SecretLine, StartEvent,
    models::{Card, Catalog, Resolved},
};

use crate::{
    args::{PlacementArgs, RemoteArgs},
    report::{self, FetchBar},
};

/// Requests that a terminal or a benchmark has open at once.
pub(crate) const MAX_LOCAL_REQUESTS: u32 = 64;

impl PlacementArgs {
    pub(crate) fn placement(&self) -> Placement {
        Placement {
            tp: self.tp,
            pp: self.pp,
            split: self.split.clone(),
            stage_split: self.stage_split.clone(),
            threads: self.threads,
            context: self.context,
            n_kv_tokens: self.kv_tokens,
            backends: self.compute.backend.clone(),
            collectives: self.compute.collectives,
            fence: self.compute.fence,
            jaccl_devices: self.compute.jaccl_devices.clone(),
        }
    }
}

/// What a model argument stands for, fetched if need be.
pub(crate) fn find_model(text: &str) -> Result<(PathBuf, Option<Card>)> {
    let paths = Paths::from_env();
    let catalog = catalog(&paths);
    match catalog.resolve(text)? {
        Resolved::Path(path) => Ok((path, None)),
        Resolved::Card(card) => {
            let path = paths.fetcher().ensure(&card, &mut FetchBar::new())?;
            Ok((path, Some(*card)))
        }
    }
}

/// The model cards; a bad one is reported and left out.
pub(crate) fn catalog(paths: &Paths) -> Catalog {
    let (catalog, problems) = paths.catalog();
    for problem in problems {
        eprintln!("warning: {problem}");
    }
    catalog
}

/// Opens a model by what the user typed.
pub(crate) fn open_model(text: &str) -> Result<OpenModel> {
    let (path, card) = find_model(text)?;
    let mut model = OpenModel::open(&path)?;
    if let Some(card) = card {
        model.id = card.id.as_str().to_owned();
        model.aliases = card.names().map(str::to_owned).collect();
        model.tool_style = card.tool_style;
    }
    Ok(model)
}

/// Plans, prints the plan, starts the rank processes and waits until they have loaded their shares.
pub(crate) fn replica(
    model: &OpenModel,
    placement: &PlacementArgs,
    remote: Option<&RemoteArgs>,
    max_requests: u32,
) -> Result<Replica> {
    let options = ReplicaOptions {
        executable: std::env::current_exe().context("cannot find this program's own file")?,
        max_requests,
        remote: remote.map(remote_ranks).transpose()?.flatten(),
        step_deadline: Duration::from_secs(placement.compute.step_deadline),
    };
    let started = Instant::now();
    let replica = Replica::start(model, &placement.placement(), options, &mut |event| match event {
        StartEvent::Waiting { ranks, address } => {
            eprintln!("waiting for ranks of other machines; type there");
            for rank in ranks {
                let n = rank.0;
                eprintln!("  onefold rank --connect {address} --rank {n} --secret-file SECRET --model PATH");
            }
        }
        StartEvent::Planned { plan, notes } => {
            eprintln!("{}", report::plan(plan));
            report::collectives(plan).iter().for_each(|line| eprintln!("{line}"));
            notes.iter().for_each(|note| eprintln!("note: {note}"));
        }
        StartEvent::Ready { rank, loaded, load } => {
            eprintln!("{rank} is ready: {loaded} of weights in {}", report::seconds(load));
        }
    })?;
    eprintln!("{} is up in {}", model.id, report::seconds(started.elapsed()));
    Ok(replica)
}

/// The same, and what the model is spoken to with; neither waits for the other.
pub(crate) fn replica_and_text(
    model: &OpenModel,
    placement: &PlacementArgs,
    remote: Option<&RemoteArgs>,
    max_requests: u32,
) -> Result<(Replica, ModelText)> {
    thread::scope(|scope| {
        let text = scope.spawn(|| model.text());
        let replica = replica(model, placement, remote, max_requests)?;
        let text = text.join().unwrap_or_else(|panic| resume_unwind(panic))?;
        Ok((replica, text))
    })
}

fn remote_ranks(args: &RemoteArgs) -> Result<Option<RemoteRanks>> {
    let (Some(listen), true) = (args.listen, args.remote > 0) else { return Ok(None) };
    let file = args.secret_file.as_ref().context(
        "--remote needs --secret-file\nhint: head -c 32 /dev/urandom | base64 > secret, on both machines",
    )?;
    Ok(Some(RemoteRanks { n: args.remote, listen, secret: SecretLine::read_file(file)? }))
}
