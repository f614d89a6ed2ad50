//! `onefold plan`: what a model would do on this machine, on a described cluster, or on one to be bought. Asks `node` what is meant
//! and `plan` for the answer, and prints it; all numbers are predictions of the cost model and say how far off they may be.

mod buy;
mod json;
mod svg;
mod text;

use std::{fs, path::Path};

use ::plan::cost::{Load, ONEFOLD, Prediction, predict};
use ::plan::search::{Aim, Ask, Choice, search};
use ::plan::{Cluster, ModelCost, Plan};
use anyhow::{Context as _, Result};
use hw::catalogue::Catalogue;
use node::{Paths, planning};

use crate::{args::PlanArgs, report, start};

/// Contexts of the table of speeds, in tokens.
const CONTEXTS: [u32; 3] = [1 << 10, 32 << 10, 128 << 10];
/// Requests at once in it.
const BATCHES: [u32; 3] = [1, 8, 16];

/// Everything a report is made of.
struct Report<'a> {
    subject: &'a planning::Subject,
    /// Where the machines are from, in words.
    place: String,
    cluster: Cluster,
    ask: Ask,
    choice: Choice,
    speeds: Vec<SpeedRow>,
    money: Money,
}

/// The chosen layout under another load.
struct SpeedRow {
    load: Load,
    prediction: Prediction,
    /// Whether cache and activations of this load fit.
    fits: bool,
}

/// What tokens cost.
struct Money {
    usd_per_kwh: f64,
    years: f64,
}

/// What running costs come to; unknown where a figure is.
struct Costs {
    joules_per_token: Option<f64>,
    energy_usd_per_million: Option<f64>,
    machines_usd: Option<f64>,
    machines_usd_per_million: Option<f64>,
}

pub(crate) fn run(args: &PlanArgs) -> Result<()> {
    let paths = Paths::from_env();
    let subject = planning::subject(&args.model, &start::catalog(&paths), &paths.fetcher())?;
    let catalogue = Catalogue::embedded()?;
    let load = load(args, &subject.cost);
    if args.buy {
        return buy::run(args, &subject, &catalogue, load);
    }
    let (cluster, place) = cluster(args, &catalogue)?;
    let aim = if args.headroom { Aim::Headroom } else { Aim::Speed };
    let ask = Ask { load, aim, max_watts: args.max_watts };
    let choice = search(&cluster, &subject.cost, ONEFOLD, &ask)?;
    if subject.cost.is_runnable {
        // what ranks could run passes the checks of a plan that they are sent
        Plan::of_layout(&cluster, &subject.cost.spec, load, &choice.best.layout)?;
    }
    let speeds = speeds(&cluster, &subject.cost, &choice);
    let money = Money { usd_per_kwh: args.usd_per_kwh, years: args.years };
    let report = Report { subject: &subject, place, cluster, ask, choice, speeds, money };
    if let Some(file) = &args.svg {
        fs::write(file, svg::draw(&report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if args.json {
        return report::print(serde_json::to_string_pretty(&json::report(&report))?);
    }
    text::print(&report)
}

fn load(args: &PlanArgs, model: &ModelCost) -> Load {
    let context_len = args.context.unwrap_or(model.spec.max_context.min(node::DEFAULT_CONTEXT_TOKENS));
    Load { context_len, n_sequences: args.requests }
}

/// The machines meant, and in words where they are from.
fn cluster(args: &PlanArgs, catalogue: &Catalogue) -> Result<(Cluster, String)> {
    let Some(on) = &args.on else {
        let place = "this machine, as there is no live cluster yet; --on plans for others".to_owned();
        return Ok((planning::this_machine(catalogue), place));
    };
    let path = Path::new(on);
    let is_file = path.extension().is_some_and(|e| e == "toml");
    let described = if is_file {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {on}"))?;
        hw::cluster::Cluster::from_toml(&text, catalogue)?
    } else {
        hw::cluster::Cluster::from_short(on, catalogue)?
    };
    let place = format!("{on}, by the catalogue and the file, not by a look at the machines");
    let place = if is_file { place } else { format!("{on}, by the catalogue") };
    Ok((planning::described(&described, catalogue)?, place))
}

/// The chosen layout under every load of the table, as far as the model's context goes.
fn speeds(cluster: &Cluster, model: &ModelCost, choice: &Choice) -> Vec<SpeedRow> {
    let contexts = CONTEXTS.into_iter().filter(|&n| n <= model.spec.max_context);
    let loads = contexts.flat_map(|context_len| BATCHES.map(|n_sequences| Load { context_len, n_sequences }));
    let row = |load: Load| {
        let prediction = predict(cluster, model, ONEFOLD, load, &choice.best.layout);
        let fits = prediction.memory.iter().all(|m| m.headroom().is_some());
        SpeedRow { load, prediction, fits }
    };
    loads.map(row).collect()
}

impl Report<'_> {
    fn prediction(&self) -> &Prediction {
        &self.choice.best.prediction
    }

    fn machine(&self, at: usize) -> &::plan::Machine {
        &self.cluster.machines[at]
    }

    /// Costs of the chosen plan under the load that was asked for, all day long.
    fn costs(&self) -> Costs {
        let prices = self.choice.best.layout.machines().map(|m| self.machine(m).price_usd);
        self.money.costs(self.prediction(), prices.sum())
    }
}

impl Money {
    /// Energy while decoding, and the machines' price over their years of never resting.
    fn costs(&self, prediction: &Prediction, machines_usd: Option<f64>) -> Costs {
        let tokens_per_s = prediction.decode.map(|d| d.tokens_per_s);
        let joules_per_token = prediction.watts.zip(tokens_per_s).map(|(watts, speed)| watts / speed);
        let seconds = self.years * 365.25 * 86_400.0;
        Costs {
            joules_per_token,
            energy_usd_per_million: joules_per_token.map(|j| j * 1e6 / 3.6e6 * self.usd_per_kwh),
            machines_usd,
            machines_usd_per_million: machines_usd
                .zip(tokens_per_s)
                .map(|(usd, s)| usd / (s * seconds) * 1e6),
        }
    }
}
