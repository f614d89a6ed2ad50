//! Which model is meant, and its sizes: from a checkpoint where one is here, else from the numbers of a configuration.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use base::Bytes;
use models::{ModelError, cost_of_config};
use plan::ModelCost;

use crate::models::{Card, Catalog, Fetcher, ResolveError, Resolved};
use crate::{OpenError, OpenModel};

/// Largest `config.json` that is read, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../configs/", $name, ".json")))),*]
    };
}

/// Numbers of models whose files nobody needs for planning: the name, a `config.json`.
const SHIPPED: &[(&str, &str)] = shipped![
    "kimi-k2-thinking",
    "deepseek-v3.1",
    "deepseek-v3.1-4bit",
    "glm-5-mxfp8",
    "qwen3-235b-a22b-8bit",
    "qwen3-30b-a3b-4bit",
    "llama-3.1-8b-instruct",
    "llama-3.3-70b-instruct",
    "qwen3-4b",
];

/// A model to be planned.
#[derive(Clone, Debug, PartialEq)]
pub struct Subject {
    /// What it is called.
    pub name: String,
    /// Where its sizes are from, for people.
    pub source: String,
    /// Its sizes.
    pub cost: ModelCost,
}

/// Why a model cannot be planned.
#[derive(Debug, thiserror::Error)]
pub enum SubjectError {
    /// Neither a path, nor a card, nor a configuration.
    #[error("{source}, nor is it one of these, whose sizes are known: {known}")]
    Unknown {
        /// What was tried.
        source: ResolveError,
        /// Names of configurations.
        known: String,
    },
    /// A card without files here.
    #[error(
        "the files of {name} are not here, and its card has no sizes\nhint: onefold pull {name}, or name its config.json"
    )]
    NotHere {
        /// The card.
        name: String,
    },
    /// A file.
    #[error("cannot read {}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A configuration that is none.
    #[error("{origin}: expected JSON, found: {why}")]
    Json {
        /// Which.
        origin: String,
        /// What the parser says.
        why: String,
    },
    /// The numbers in it.
    #[error("{origin}: {source}")]
    Config {
        /// Which.
        origin: String,
        /// What is wrong.
        source: Box<ModelError>,
    },
    /// The checkpoint.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Names of the configurations that the program brings along.
pub fn planned_models() -> impl Iterator<Item = &'static str> {
    SHIPPED.iter().map(|(name, _)| *name)
}

/// The model that `text` names: a `.gguf` file, a `config.json`, a directory with one, a card, or a configuration brought along.
/// Nothing is fetched.
pub fn subject(text: &str, catalog: &Catalog, fetcher: &Fetcher) -> Result<Subject, SubjectError> {
    let path = Path::new(text);
    if path.is_file() && path.extension().is_some_and(|e| e == "json") {
        return of_config(path);
    }
    match catalog.resolve(text) {
        Ok(Resolved::Path(path)) => of_path(&path),
        Ok(Resolved::Card(card)) => of_card(&card, fetcher),
        Err(source) => match SHIPPED.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)) {
            Some((name, json)) => of_json(name, "configuration brought along".to_owned(), json, None),
            None => Err(unknown(source)),
        },
    }
}

fn unknown(source: ResolveError) -> SubjectError {
    SubjectError::Unknown { source, known: planned_models().collect::<Vec<_>>().join(", ") }
}

/// A checkpoint, or of one that this program cannot run, its configuration.
fn of_path(path: &Path) -> Result<Subject, SubjectError> {
    let config = path.join("config.json");
    match OpenModel::open(path) {
        Ok(model) => Ok(of_open(&model)),
        Err(OpenError::Model(ModelError::Architecture { .. }) | OpenError::Weights(_))
            if config.is_file() =>
        {
            of_config(&config)
        }
        Err(error) => Err(error.into()),
    }
}

fn of_open(model: &OpenModel) -> Subject {
    let source = format!("headers of {}", model.path.display());
    Subject { name: model.id.clone(), source, cost: model.description.cost() }
}

fn of_card(card: &Card, fetcher: &Fetcher) -> Result<Subject, SubjectError> {
    let name = card.id.as_str();
    if fetcher.is_cached(card) {
        let subject = of_open(&OpenModel::open(&fetcher.path(card))?);
        return Ok(Subject { name: name.to_owned(), ..subject });
    }
    let shipped = SHIPPED.iter().find(|(shipped, _)| *shipped == name);
    let (Some((_, json)), Some(bytes)) = (shipped, card.bytes()) else {
        return Err(SubjectError::NotHere { name: name.to_owned() });
    };
    let source = format!("configuration brought along, {bytes} of {} by its card", card.quantisation);
    of_json(name, source, json, Some(bytes))
}

fn of_config(path: &Path) -> Result<Subject, SubjectError> {
    let file_error = |source| SubjectError::File { path: path.to_owned(), source };
    let mut text = String::new();
    let file = File::open(path).map_err(file_error)?;
    file.take(MAX_CONFIG_BYTES).read_to_string(&mut text).map_err(file_error)?;
    let is_config = path.file_name().is_some_and(|name| name == "config.json");
    let named = if is_config { path.parent().and_then(Path::file_name) } else { path.file_stem() };
    let name = named.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned());
    of_json(&name, format!("numbers of {}", path.display()), &text, None)
}

fn of_json(name: &str, source: String, text: &str, stored: Option<Bytes>) -> Result<Subject, SubjectError> {
    let json = serde_json::from_str(text)
        .map_err(|e| SubjectError::Json { origin: source.clone(), why: e.to_string() })?;
    let cost = cost_of_config(&json, stored)
        .map_err(|e| SubjectError::Config { origin: source.clone(), source: Box::new(e) })?;
    Ok(Subject { name: name.to_owned(), source, cost })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_brought_along_have_their_published_sizes() {
        let published = [
            ("kimi-k2-thinking", 594.2),
            ("deepseek-v3.1-4bit", 377.6),
            ("qwen3-235b-a22b-8bit", 249.8),
            ("glm-5-mxfp8", 767.0),
        ];
        let fetcher = Fetcher::new(crate::models::FetchConfig::new(PathBuf::from("/nonexistent")));
        for (name, gb) in published {
            let subject = subject(name, &Catalog::default(), &fetcher).unwrap();
            let found = subject.cost.weights().0 as f64 / 1e9;
            assert!((found / gb - 1.0).abs() <= 0.005, "{name}: {found} GB, published {gb}");
            assert!(!subject.cost.is_runnable, "{name}");
        }
        for name in planned_models() {
            assert!(subject(name, &Catalog::default(), &fetcher).is_ok(), "{name}");
        }
        let (cards, _) = Catalog::load(None);
        let llama = subject("llama-3.3-70b", &cards, &fetcher).unwrap();
        assert_eq!(llama.cost.weights().0 / 10_000_000, 4252, "its card's {}", llama.source);
        assert!(llama.cost.is_runnable);
        let nobody = subject("no-such-model", &cards, &fetcher).unwrap_err().to_string();
        assert!(nobody.contains("no-such-model") && nobody.contains("kimi-k2-thinking"), "{nobody}");
    }

    #[test]
    fn hostile_configurations_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            of_config(&path).unwrap_err().to_string()
        };
        assert!(refused("{").contains("expected JSON"));
        assert!(refused("{\"model_type\": \"mamba\"}").contains("\"mamba\" is not supported"));
        let good = SHIPPED[0].1;
        for (from, to, says) in [
            ("\"hidden_size\": 7168", "\"hidden_size\": 0", "hidden_size: expected 1 to"),
            ("\"hidden_size\": 7168", "\"hidden_size\": 4294967296", "hidden_size"),
            ("\"num_hidden_layers\": 61", "\"num_hidden_layers\": 5000", "num_hidden_layers"),
            ("\"n_routed_experts\": 384", "\"n_routed_experts\": 4", "num_experts_per_tok"),
            ("\"vocab_size\": 163840", "\"vocab_size\": -1", "vocab_size"),
            ("\"group_size\": 32", "\"group_size\": 0", "group_size"),
            ("\"intermediate_size\": 18432", "\"intermediate_size\": 1048576", "all sizes together"),
        ] {
            assert!(good.contains(from), "{from}");
            let text = good.replace(from, to).replace("\"n_routed_experts\": 384", {
                if says == "all sizes together" {
                    "\"n_routed_experts\": 1048576"
                } else {
                    "\"n_routed_experts\": 384"
                }
            });
            let shown = refused(&text);
            assert!(shown.contains(says), "{to}: {shown}");
        }
    }
}
