//! One file of a model in the cache: its path and those of its companions (unfinished part, stamp, files set aside),
//! the check of its sum, and the lock that keeps two processes from fetching it at once. Knows no source.
//!
//! A stamp remembers the sum of a file together with its size and time of change, so that a start does not hash a
//! large file again unless it changed.

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io::{self, ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use base::Bytes;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::{Card, CardFile, Progress, Sha256Sum};

/// Bytes read at once while hashing.
const HASH_CHUNK_BYTES: usize = 1 << 20;
/// Wrong files kept per file of a model.
const MAX_BAD_FILES: usize = 2;
/// Largest stamp that is read, in bytes.
const MAX_STAMP_BYTES: u64 = 4096;
/// Pause between two looks at a lock another process holds.
const LOCK_POLL_MS: u64 = 50;

/// What could not be done with a path of the cache.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },
    #[error("{} was held by another process for {waited:?}", path.display())]
    Locked { path: PathBuf, waited: Duration },
}

pub(super) type CacheResult<T> = Result<T, CacheError>;

/// Wraps an I/O error with what was being done to which path.
pub(super) fn failed<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> CacheError + 'a {
    move |source| CacheError::Io { doing, path: path.to_owned(), source }
}

/// Where one file of a model lives.
pub(super) struct Slot {
    dir: PathBuf,
    file: PathBuf,
}

/// How a cached file compares with its card.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The size and, if the card has one, the sum are right.
    Good { sum: Sha256Sum },
    /// Not the file the card means, and why.
    Bad { why: String },
}

#[derive(Deserialize)]
struct Stamp {
    bytes: u64,
    modified_ns: u64,
    sha256: Sha256Sum,
}

impl Slot {
    pub(super) fn new(model_dir: &Path, file: &CardFile) -> Slot {
        Slot { dir: model_dir.to_owned(), file: model_dir.join(file.name.as_str()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.file
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file with a suffix: `.partial`, `.stamp`, …
    pub(super) fn companion(&self, suffix: &str) -> PathBuf {
        let mut name = OsString::from(&self.file);
        name.push(suffix);
        PathBuf::from(name)
    }

    pub(super) fn partial(&self) -> PathBuf {
        self.companion(".partial")
    }

    /// Whether the file is there, unchanged since it was found to be the card's.
    pub(super) fn is_known_good(&self, card: &CardFile) -> bool {
        matches!(self.stamped_sum(), Some(sum) if sum_problem(card, sum).is_none())
            && self.size_problem(card).is_none()
    }

    /// Compares the cached file with the card, hashing it unless its stamp still holds; `None` if there is no file.
    pub(super) fn check(&self, card: &CardFile, progress: &mut dyn Progress) -> CacheResult<Option<Verdict>> {
        if !self.file.is_file() {
            return Ok(None);
        }
        if let Some(why) = self.size_problem(card) {
            return Ok(Some(Verdict::Bad { why }));
        }
        let sum = match self.stamped_sum() {
            Some(sum) => sum,
            None => {
                progress.message(&format!("checking {}", self.file.display()));
                let mut file = File::open(&self.file).map_err(failed("open", &self.file))?;
                let (hasher, _) = hash(&mut file, &self.file, progress)?;
                Sha256Sum(hasher.finalize().into())
            }
        };
        Ok(Some(match sum_problem(card, sum) {
            Some(why) => Verdict::Bad { why },
            None => Verdict::Good { sum },
        }))
    }

    /// Remembers the sum of the file as it is now.
    pub(super) fn stamp(&self, sum: Sha256Sum) -> CacheResult<()> {
        let (bytes, modified_ns) = size_and_time(&self.file).map_err(failed("look at", &self.file))?;
        let path = self.companion(".stamp");
        let text = format!("bytes = {bytes}\nmodified_ns = {modified_ns}\nsha256 = \"{sum}\"\n");
        fs::write(&path, text).map_err(failed("write", &path))
    }

    /// Makes the finished part the file, in one step.
    pub(super) fn settle(&self, sum: Sha256Sum) -> CacheResult<()> {
        let partial = self.partial();
        fs::rename(&partial, &self.file).map_err(failed("rename", &partial))?;
        self.stamp(sum)
    }

    /// Renames a wrong file to `<file>.bad-<n>`, of which the newest [`MAX_BAD_FILES`] are kept.
    pub(super) fn set_aside(&self, wrong: &Path) -> CacheResult<PathBuf> {
        let names: Vec<PathBuf> = (1..=MAX_BAD_FILES).map(|n| self.companion(&format!(".bad-{n}"))).collect();
        let free = names.iter().position(|name| !name.exists());
        let at = free.unwrap_or(MAX_BAD_FILES - 1);
        if free.is_none() {
            for (older, newer) in names.iter().zip(&names[1..]) {
                fs::rename(newer, older).map_err(failed("rename", newer))?;
            }
        }
        fs::rename(wrong, &names[at]).map_err(failed("rename", wrong))?;
        Ok(names[at].clone())
    }

    fn stamped_sum(&self) -> Option<Sha256Sum> {
        let mut text = String::new();
        let stamp = File::open(self.companion(".stamp")).ok()?;
        stamp.take(MAX_STAMP_BYTES).read_to_string(&mut text).ok()?;
        let stamp: Stamp = toml::from_str(&text).ok()?;
        let (bytes, modified_ns) = size_and_time(&self.file).ok()?;
        ((stamp.bytes, stamp.modified_ns) == (bytes, modified_ns)).then_some(stamp.sha256)
    }

    fn size_problem(&self, card: &CardFile) -> Option<String> {
        let found = fs::metadata(&self.file).ok()?.len();
        let expected = card.bytes.filter(|expected| expected.0 != found)?;
        Some(format!("expected {} bytes, found {found}", expected.0))
    }
}

/// Why a sum is not the card's; `None` if it is, or if the card has none.
pub(super) fn sum_problem(card: &CardFile, found: Sha256Sum) -> Option<String> {
    let expected = card.sha256.filter(|expected| *expected != found)?;
    Some(format!("expected sha256 {expected}, found {found}"))
}

fn size_and_time(path: &Path) -> io::Result<(u64, u64)> {
    let meta = fs::metadata(path)?;
    let since = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok((meta.len(), since.as_nanos() as u64))
}

/// A file that is being filled from its beginning, and the sum of what it holds so far.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64, // bytes
    is_resumed: bool,
}

impl Partial {
    /// Opens or creates the file and hashes what it holds already.
    pub(super) fn open(path: &Path, progress: &mut dyn Progress) -> CacheResult<Partial> {
        let options = File::options().read(true).append(true).create(true).clone();
        let mut file = options.open(path).map_err(failed("open", path))?;
        let (hasher, len) = hash(&mut file, path, progress)?;
        Ok(Partial { path: path.to_owned(), file, hasher, len, is_resumed: len > 0 })
    }

    /// Makes `from` the file at `path` and hashes it.
    pub(super) fn adopt(from: &Path, path: &Path, progress: &mut dyn Progress) -> CacheResult<Partial> {
        fs::rename(from, path).map_err(failed("rename", from))?;
        Ok(Partial { is_resumed: false, ..Partial::open(path, progress)? })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> Bytes {
        Bytes(self.len)
    }

    /// Whether it begins with bytes that were there when it was opened.
    pub(super) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> CacheResult<()> {
        self.file.write_all(bytes).map_err(failed("write", &self.path))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Empties the file.
    pub(super) fn restart(&mut self) -> CacheResult<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(failed("empty", &self.path))?;
        self.hasher = Sha256::new();
        self.len = 0;
        self.is_resumed = false;
        Ok(())
    }

    /// The sum of the whole file, which is safe on disk when this returns.
    pub(super) fn sum(&mut self) -> CacheResult<Sha256Sum> {
        self.file.sync_all().map_err(failed("write", &self.path))?;
        Ok(Sha256Sum(self.hasher.clone().finalize().into()))
    }
}

/// Hashes a file up to the end it has now; also returns the number of bytes.
fn hash(file: &mut File, path: &Path, progress: &mut dyn Progress) -> CacheResult<(Sha256, u64)> {
    let total = file.metadata().map_err(failed("look at", path))?.len();
    let mut file = file.take(total);
    let (mut hasher, mut len) = (Sha256::new(), 0);
    let mut chunk = vec![0; HASH_CHUNK_BYTES];
    loop {
        match file.read(&mut chunk).map_err(failed("read", path))? {
            0 => return Ok((hasher, len)),
            n => {
                hasher.update(&chunk[..n]);
                len += n as u64;
                progress.bytes(Bytes(len), Some(Bytes(total)));
            }
        }
    }
}

/// Takes the lock of a model's directory, which the returned file holds until dropped. While another process has it,
/// reports how far that one is.
pub(super) fn lock(
    slot: &Slot,
    limit: Duration,
    card: &CardFile,
    progress: &mut dyn Progress,
) -> CacheResult<File> {
    let path = slot.dir().join(".lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed("open", &path))?;
    let started = Instant::now();
    let mut is_announced = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
            Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            Err(TryLockError::WouldBlock) => {}
        }
        if started.elapsed() >= limit {
            return Err(CacheError::Locked { path, waited: limit });
        }
        if !is_announced {
            progress.message("another process is fetching this model; waiting for it");
            is_announced = true;
        }
        if let Ok(meta) = fs::metadata(slot.partial()) {
            progress.bytes(Bytes(meta.len()), card.bytes);
        }
        thread::sleep(Duration::from_millis(LOCK_POLL_MS));
    }
}

/// The directory of a model in the cache.
pub(super) fn model_dir(cache_dir: &Path, card: &Card) -> PathBuf {
    cache_dir.join("models").join(card.id.as_str())
}
