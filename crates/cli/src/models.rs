//! `onefold models` and `onefold pull`.

use anyhow::Result;
use node::{Paths, models::Card};

use crate::{
    args::{ModelsArgs, PullArgs},
    report, start,
};

/// Lists the cards.
pub(crate) fn list(args: &ModelsArgs) -> Result<()> {
    let paths = Paths::from_env();
    let (catalog, fetcher) = (start::catalog(&paths), paths.fetcher());
    if args.json {
        let cards: Vec<_> = catalog.list().iter().map(|card| json(card, fetcher.is_cached(card))).collect();
        return report::print(serde_json::to_string_pretty(&cards)?);
    }
    let header = ["model", "parameters", "format", "size", "context", "licence", "here"];
    let mut table = report::table(&header);
    for card in catalog.list() {
        table.add_row([
            card.id.as_str().to_owned(),
            card.parameters.clone(),
            card.quantisation.clone(),
            card.bytes().map_or_else(|| "unknown".to_owned(), |b| b.to_string()),
            card.context.to_string(),
            card.licence.clone(),
            if fetcher.is_cached(card) { "yes" } else { "" }.to_owned(),
        ]);
    }
    report::align_right(&mut table, [1, 3, 4]);
    report::print(table)?;
    report::print(format_args!("Your own cards: {} (*.toml)", paths.cards_dir.display()))
}

fn json(card: &Card, cached: bool) -> serde_json::Value {
    serde_json::json!({
        "id": card.id.as_str(),
        "names": card.names().collect::<Vec<_>>(),
        "parameters": card.parameters,
        "quantisation": card.quantisation,
        "bytes": card.bytes().map(|b| b.0),
        "context": card.context,
        "licence": card.licence,
        "cached": cached,
    })
}

/// Fetches a model and says where it lies.
pub(crate) fn pull(args: &PullArgs) -> Result<()> {
    let (path, _) = start::find_model(&args.model)?;
    report::print(path.display())
}
