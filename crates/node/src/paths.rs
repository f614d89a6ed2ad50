//! Where things lie on this machine, read from the environment once, here and nowhere else.

use std::{env, path::PathBuf};

use crate::models::{CardProblem, Catalog, DEFAULT_HUB_ENDPOINT, FetchConfig, Fetcher};

/// Folders and endpoints of this user.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Model files; `ONEFOLD_CACHE` overrides it.
    pub cache_dir: PathBuf,
    /// The user's own model cards; `ONEFOLD_MODELS` overrides it.
    pub cards_dir: PathBuf,
    /// The model hub; `HF_ENDPOINT` overrides it, for mirrors.
    pub hub_endpoint: String,
}

impl Paths {
    /// Reads the environment.
    pub fn from_env() -> Paths {
        let folder = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let home = folder("HOME").unwrap_or_else(env::temp_dir);
        let cache = folder("XDG_CACHE_HOME").unwrap_or_else(|| home.join(".cache")).join("onefold");
        let config = folder("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")).join("onefold");
        Paths {
            cache_dir: folder("ONEFOLD_CACHE").unwrap_or(cache),
            cards_dir: folder("ONEFOLD_MODELS").unwrap_or_else(|| config.join("models")),
            hub_endpoint: env::var("HF_ENDPOINT").unwrap_or_else(|_| DEFAULT_HUB_ENDPOINT.to_owned()),
        }
    }

    /// The embedded model cards and the user's own.
    pub fn catalog(&self) -> (Catalog, Vec<CardProblem>) {
        Catalog::load(self.cards_dir.is_dir().then_some(self.cards_dir.as_path()))
    }

    /// Fetches the files of cards into the cache.
    pub fn fetcher(&self) -> Fetcher {
        Fetcher::new(FetchConfig {
            hub_endpoint: self.hub_endpoint.clone(),
            ..FetchConfig::new(self.cache_dir.clone())
        })
    }
}
