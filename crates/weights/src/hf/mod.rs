//! Checkpoints as Hugging Face lays them out: a directory with `config.json` and one or several safetensors files,
//! several being listed in `model.safetensors.index.json`. It knows where tensors lie, not what they mean.

mod header;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{WeightsError, map::Mapped, tensor::Located};

pub use write::Writer;

/// The model's parameters, by the name that every such directory uses.
pub(crate) const CONFIG: &str = "config.json";
/// Which file holds which tensor.
const INDEX: &str = "model.safetensors.index.json";
/// The weights if there is no index.
const SINGLE: &str = "model.safetensors";
/// Longest config or index that is read; real ones stay below a few MB.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// A mapped file and where its tensors lie in it.
pub(crate) struct Shard {
    pub(crate) map: Mapped,
    pub(crate) tensors: Vec<Located>,
}

/// A directory's `config.json` and its weights.
pub(crate) struct Parsed {
    pub(crate) config: Value,
    pub(crate) shards: Vec<Shard>,
}

/// Opens a directory; `file` restricts it to one of its safetensors files, unless the index names that one as a part.
pub(crate) fn read(dir: &Path, file: Option<&Path>) -> Result<Parsed, WeightsError> {
    let config_path = dir.join(CONFIG);
    if !config_path.exists() {
        return Err(WeightsError::NotACheckpoint {
            path: dir.to_owned(),
            expected: "config.json next to *.safetensors",
            found: "no config.json".to_owned(),
        });
    }
    let config = read_json(&config_path)?;
    let index_path = dir.join(INDEX);
    let index = index_path.exists().then(|| Index::read(&index_path)).transpose()?;
    let shards = match (index, file) {
        (Some(index), None) => index.open_shards(dir)?,
        (Some(index), Some(file)) if index.names(file) => index.open_shards(dir)?,
        (_, Some(file)) => vec![Shard::open(file)?],
        (None, None) => vec![Shard::open(&only_file(dir)?)?],
    };
    Ok(Parsed { config, shards })
}

impl Shard {
    fn open(path: &Path) -> Result<Shard, WeightsError> {
        let map = Mapped::open(path)?;
        let tensors = header::read(&map)?;
        Ok(Shard { map, tensors })
    }
}

/// The index file: which tensor is in which file.
struct Index {
    path: PathBuf,
    file_of: BTreeMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Index, WeightsError> {
        let json = read_json(path)?;
        let malformed = |what: String, expected: &str, found: String| WeightsError::Malformed {
            path: path.to_owned(),
            offset: 0,
            what,
            expected: expected.to_owned(),
            found,
        };
        let map = json.get("weight_map").and_then(Value::as_object);
        let map = map.ok_or_else(|| {
            malformed("\"weight_map\"".into(), "an object from tensor to file", "none".into())
        })?;
        let mut file_of = BTreeMap::new();
        for (tensor, file) in map {
            // a plain name, so that an index never leads out of its directory
            let plain = file.as_str().filter(|f| Path::new(f).file_name().is_some_and(|name| name == *f));
            let plain = plain.ok_or_else(|| {
                malformed(
                    format!("tensor {tensor:?}"),
                    "the name of a file in this directory",
                    file.to_string(),
                )
            })?;
            file_of.insert(tensor.clone(), plain.to_owned());
        }
        Ok(Index { path: path.to_owned(), file_of })
    }

    fn names(&self, file: &Path) -> bool {
        self.file_of.values().any(|f| file.file_name().is_some_and(|name| name == f.as_str()))
    }

    /// Opens every file once and keeps the tensors that the index places there.
    fn open_shards(&self, dir: &Path) -> Result<Vec<Shard>, WeightsError> {
        let files: BTreeSet<&str> = self.file_of.values().map(String::as_str).collect();
        files.into_iter().map(|file| self.open_shard(dir, file)).collect()
    }

    fn open_shard(&self, dir: &Path, file: &str) -> Result<Shard, WeightsError> {
        let path = dir.join(file);
        let listed: BTreeSet<&str> =
            self.file_of.iter().filter(|(_, f)| *f == file).map(|(tensor, _)| tensor.as_str()).collect();
        if !path.exists() {
            let first = listed.first().copied().unwrap_or_default();
            let needed_by =
                format!("{} places {} tensors there, {first:?} first", self.path.display(), listed.len());
            return Err(WeightsError::MissingFile { path, needed_by });
        }
        let mut shard = Shard::open(&path)?;
        shard.tensors.retain(|tensor| listed.contains(tensor.name.as_str()));
        let held: BTreeSet<&str> = shard.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        match listed.difference(&held).next() {
            None => Ok(shard),
            Some(tensor) => Err(WeightsError::NotInShard {
                index: self.path.clone(),
                tensor: (*tensor).to_owned(),
                shard: path,
            }),
        }
    }
}

/// The weights of a directory without an index: `model.safetensors`, or the only safetensors file there is.
fn only_file(dir: &Path) -> Result<PathBuf, WeightsError> {
    let single = dir.join(SINGLE);
    if single.exists() {
        return Ok(single);
    }
    let io = |source| WeightsError::Io { action: "list", path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            files.push(path);
        }
    }
    match (files.pop(), files.len()) {
        (Some(file), 0) => Ok(file),
        (last, n) => Err(WeightsError::NotACheckpoint {
            path: dir.to_owned(),
            expected: "model.safetensors, model.safetensors.index.json, or a single *.safetensors",
            found: format!("{} *.safetensors files and no index", n + usize::from(last.is_some())),
        }),
    }
}

fn read_json(path: &Path) -> Result<Value, WeightsError> {
    let io = |source| WeightsError::Io { action: "read", path: path.to_owned(), source };
    let malformed = |expected: String, found: String| WeightsError::Malformed {
        path: path.to_owned(),
        offset: 0,
        what: "the whole file".to_owned(),
        expected,
        found,
    };
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(WeightsError::NotAFile { path: path.to_owned() });
    }
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(io)?;
    file.take(MAX_JSON_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(malformed(format!("at most {MAX_JSON_BYTES} bytes"), "more".to_owned()));
    }
    serde_json::from_slice(&text).map_err(|e| malformed("JSON".to_owned(), e.to_string()))
}
