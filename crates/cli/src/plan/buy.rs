//! `onefold plan --buy`: clusters of the catalogue that meet the limits, cheapest first, and what was nearly enough.

use ::plan::cost::Load;
use anyhow::Result;
use hw::catalogue::Catalogue;
use node::planning::{self, Comparison, Limits, Miss, Offer, Offers, Subject};
use serde_json::{Value, json};

use super::text::{figure, form, requests};
use super::{Money, json::prediction};
use crate::args::PlanArgs;
use crate::report::{align_right, print as line, table};

/// Machines that miss a limit and are still listed.
const MAX_MISSES: usize = 8;

pub(super) fn run(args: &PlanArgs, subject: &Subject, catalogue: &Catalogue, load: Load) -> Result<()> {
    let (min_tokens_per_s, max_watts, max_usd) = (args.min_tok_s, args.max_watts, args.max_usd);
    let limits = Limits { load, min_tokens_per_s, max_watts, max_usd };
    let found = planning::offers(catalogue, &subject.cost, &limits)?;
    let money = Money { usd_per_kwh: args.usd_per_kwh, years: args.years };
    if args.json {
        return line(serde_json::to_string_pretty(&as_json(subject, &found, &money))?);
    }
    print(subject, &found, load, &money)
}

fn print(subject: &Subject, found: &Offers, load: Load, money: &Money) -> Result<()> {
    let weights = subject.cost.weights();
    line(format_args!(
        "{}: {weights} of weights, {} of {} tokens of context; all speeds and watts are predictions",
        subject.name,
        requests(load.n_sequences),
        load.context_len
    ))?;
    if !subject.cost.is_runnable {
        line("prediction only: this program cannot run a model of this kind yet")?;
    }
    if found.offers.is_empty() {
        line("no cluster of one kind of Mac meets all limits by the prediction itself")?;
    } else {
        line(rows(found.offers.iter().map(|offer| (offer, String::new())), money))?;
    }
    if !found.misses.is_empty() {
        line("\nnearly:")?;
        let misses = found.misses.iter().take(MAX_MISSES);
        line(rows(misses.map(|Miss { offer, why }| (offer, why.join(", "))), money))?;
    }
    line("\nGPUs that hold the weights, by their memory alone (no machines around them, no cache):")?;
    for gpu in &found.comparisons {
        line(format_args!("  {}", in_words(gpu)))?;
    }
    for (chip, n, watts) in ::plan::fitted::MEASURED_PIPELINES {
        line(format_args!("measured: {n} × {chip} in a pipeline draw {watts:.0} W together, at the wall"))?;
    }
    Ok(())
}

fn rows<'a>(offers: impl Iterator<Item = (&'a Offer, String)>, money: &Money) -> comfy_table::Table {
    let header = ["machines", "over", "plan", "decode tok/s", "W", "USD", "J a token", "but"];
    let mut table = table(&header);
    for (offer, why) in offers {
        let p = &offer.plan.prediction;
        let unknown = || "unknown".to_owned();
        let number = |n: Option<f64>| n.map_or_else(unknown, |n| format!("{n:.0}"));
        let decode = p.decode.as_ref();
        table.add_row([
            format!("{} × {}", offer.n, offer.kind),
            offer.link.clone().unwrap_or_default(),
            form(offer.plan.layout.tp(), offer.plan.layout.pp()),
            decode.map_or_else(unknown, |d| {
                format!("{} ± {}", figure(d.tokens_per_s), figure(d.tokens_per_s * d.band))
            }),
            number(p.watts),
            number(offer.price_usd),
            money.costs(p, offer.price_usd).joules_per_token.map_or_else(unknown, figure),
            why,
        ]);
    }
    align_right(&mut table, 3..7);
    table
}

fn in_words(gpu: &Comparison) -> String {
    let watts = gpu.watts.map_or_else(|| "power unknown".to_owned(), |w| format!("{:.1} kW", w / 1e3));
    let price = gpu.price_usd.map_or_else(|| "price unknown".to_owned(), |usd| format!("{usd:.0} USD"));
    format!("{} × {}: {watts}, {price}", gpu.n, gpu.title)
}

fn as_json(subject: &Subject, found: &Offers, money: &Money) -> Value {
    let offer = |o: &Offer| {
        let costs = money.costs(&o.plan.prediction, o.price_usd);
        json!({
            "machine": o.kind,
            "n": o.n,
            "link": o.link,
            "tp": o.plan.layout.tp(),
            "pp": o.plan.layout.pp(),
            "price_usd": o.price_usd,
            "joules_per_token": costs.joules_per_token,
            "prediction": prediction(&o.plan.prediction),
        })
    };
    let comparison =
        |c: &Comparison| json!({ "title": c.title, "n": c.n, "watts": c.watts, "price_usd": c.price_usd });
    json!({
        "model": { "name": subject.name, "bytes": subject.cost.weights().0, "is_runnable": subject.cost.is_runnable },
        "offers": found.offers.iter().map(offer).collect::<Vec<_>>(),
        "misses": found.misses.iter().map(|m| json!({ "offer": offer(&m.offer), "why": m.why })).collect::<Vec<_>>(),
        "gpus": found.comparisons.iter().map(comparison).collect::<Vec<_>>(),
    })
}
