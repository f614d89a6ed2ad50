//! A checkpoint of either format, opened: tensors by name, metadata as the format has it.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use base::{DType, MatrixView};
use half::{bf16, f16};
use serde_json::Value;

use crate::{
    GgufMetadata, Tensor, WeightsError,
    gguf::{self, SplitName},
    hf,
    map::Mapped,
    tensor::{Element, Located},
};

/// An opened checkpoint. Only headers have been read.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<Arc<Mapped>>,
    tensors: BTreeMap<String, Entry>,
    source: OwnedSource,
}

/// Where a tensor lies.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    file: usize,
    /// Inside the file; checked when the header was read.
    pub(crate) bytes: Range<usize>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of shape {:?}", self.element, self.shape)
    }
}

#[derive(Debug)]
enum OwnedSource {
    Gguf(GgufMetadata),
    Hf { config: Value, dir: PathBuf },
}

/// What the checkpoint says about its model, in its format's own words.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a> {
    /// Metadata of a GGUF file.
    Gguf(&'a GgufMetadata),
    /// A Hugging Face directory.
    Hf {
        /// Its `config.json`.
        config: &'a Value,
        /// The directory, which holds the tokenizer's files too.
        dir: &'a Path,
    },
}

impl Checkpoint {
    /// Opens a `.gguf` file (any file of a split one), a directory with `config.json` and `*.safetensors`, or a
    /// `.safetensors` file in such a directory.
    pub fn open(path: impl AsRef<Path>) -> Result<Checkpoint, WeightsError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Checkpoint::from_hf(path, path, None);
        }
        if path.extension() == Some(OsStr::new("safetensors")) {
            let dir = path.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
            return Checkpoint::from_hf(path, dir, Some(path));
        }
        let map = Arc::new(Mapped::open(path)?);
        let start = &map.bytes()[..map.bytes().len().min(gguf::MAGIC.len())];
        if start != gguf::MAGIC {
            return Err(WeightsError::NotACheckpoint {
                path: path.to_owned(),
                expected: "a file that starts with \"GGUF\"",
                found: format!("\"{}\" in a file of {} bytes", start.escape_ascii(), map.bytes().len()),
            });
        }
        Checkpoint::from_gguf(path, map)
    }

    fn from_gguf(path: &Path, map: Arc<Mapped>) -> Result<Checkpoint, WeightsError> {
        let parsed = gguf::read(&map)?;
        let count = gguf::split_count(&parsed.metadata)?;
        if count > 1 {
            return Checkpoint::from_split_gguf(path, count);
        }
        let mut checkpoint = Checkpoint::empty(path, OwnedSource::Gguf(parsed.metadata));
        checkpoint.add_file(map, parsed.tensors)?;
        Ok(checkpoint)
    }

    fn from_split_gguf(path: &Path, count: u32) -> Result<Checkpoint, WeightsError> {
        let name = SplitName::parse(path).filter(|name| name.count() == count);
        let name = name.ok_or_else(|| WeightsError::NotACheckpoint {
            path: path.to_owned(),
            expected: "a part of a split checkpoint to be named NAME-0000i-of-0000n.gguf",
            found: format!("another name for one of {count} parts"),
        })?;
        let mut checkpoint: Option<Checkpoint> = None;
        for i in 0..count {
            let part = name.path(i);
            if !part.exists() {
                let needed_by = format!("{} is one of {count} parts", path.display());
                return Err(WeightsError::MissingFile { path: part, needed_by });
            }
            let map = Arc::new(Mapped::open(&part)?);
            let parsed = gguf::read(&map)?;
            let whole =
                checkpoint.get_or_insert_with(|| Checkpoint::empty(path, OwnedSource::Gguf(parsed.metadata)));
            whole.add_file(map, parsed.tensors)?;
        }
        checkpoint.ok_or_else(|| WeightsError::NotAFile { path: path.to_owned() })
    }

    fn from_hf(path: &Path, dir: &Path, file: Option<&Path>) -> Result<Checkpoint, WeightsError> {
        let parsed = hf::read(dir, file)?;
        let source = OwnedSource::Hf { config: parsed.config, dir: dir.to_owned() };
        let mut checkpoint = Checkpoint::empty(path, source);
        for shard in parsed.shards {
            checkpoint.add_file(Arc::new(shard.map), shard.tensors)?;
        }
        Ok(checkpoint)
    }

    fn empty(path: &Path, source: OwnedSource) -> Checkpoint {
        Checkpoint { path: path.to_owned(), files: Vec::new(), tensors: BTreeMap::new(), source }
    }

    fn add_file(&mut self, map: Arc<Mapped>, tensors: Vec<Located>) -> Result<(), WeightsError> {
        for Located { name, element, shape, bytes } in tensors {
            if self.tensors.contains_key(&name) {
                return Err(WeightsError::Malformed {
                    path: map.path().to_owned(),
                    offset: bytes.start as u64,
                    what: format!("tensor {name:?}"),
                    expected: "names that differ".to_owned(),
                    found: "the name a second time".to_owned(),
                });
            }
            self.tensors.insert(name, Entry { element, shape, file: self.files.len(), bytes });
        }
        self.files.push(map);
        Ok(())
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the checkpoint says about its model.
    pub fn metadata(&self) -> Source<'_> {
        match &self.source {
            OwnedSource::Gguf(metadata) => Source::Gguf(metadata),
            OwnedSource::Hf { config, dir } => Source::Hf { config, dir },
        }
    }

    /// Names of all tensors, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(crate) fn entry(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name)
    }

    pub(crate) fn file(&self, entry: &Entry) -> &Mapped {
        &self.files[entry.file]
    }

    pub(crate) fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.file(entry).bytes()[entry.bytes.clone()]
    }

    pub(crate) fn missing(&self, name: &str) -> WeightsError {
        WeightsError::NoTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
            n_tensors: self.tensors.len(),
        }
    }

    /// A tensor of numbers by name.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, WeightsError> {
        let (name, entry) = self.tensors.get_key_value(name).ok_or_else(|| self.missing(name))?;
        let Element::Number(dtype) = entry.element else {
            return Err(WeightsError::Stored {
                path: self.path.clone(),
                tensor: name.clone(),
                expected: "numbers".to_owned(),
                found: entry.to_string(),
            });
        };
        Ok(Tensor { name, dtype, shape: entry.shape.clone(), bytes: self.bytes(entry) })
    }

    /// A tensor `[n_rows, n_cols]`, as it lies in the file.
    pub fn matrix(&self, name: &str) -> Result<MatrixView<'_>, WeightsError> {
        let tensor = self.tensor(name)?;
        let view = match tensor.shape[..] {
            [n_rows, n_cols] => MatrixView::whole(tensor.dtype, n_rows, n_cols, tensor.bytes),
            _ => None,
        };
        view.ok_or_else(|| self.wrong_form(tensor, "a matrix"))
    }

    /// A tensor `[n]` in a plain float format, as f32.
    pub fn vector(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        let halves = || tensor.bytes.as_chunks::<2>().0.iter().copied();
        match (tensor.dtype, tensor.shape.len()) {
            (DType::F32, 1) => {
                Ok(tensor.bytes.as_chunks::<4>().0.iter().copied().map(f32::from_le_bytes).collect())
            }
            (DType::F16, 1) => Ok(halves().map(|b| f16::from_le_bytes(b).to_f32()).collect()),
            (DType::BF16, 1) => Ok(halves().map(|b| bf16::from_le_bytes(b).to_f32()).collect()),
            _ => Err(self.wrong_form(tensor, "a vector in F32, F16 or BF16")),
        }
    }

    fn wrong_form(&self, tensor: Tensor<'_>, expected: &'static str) -> WeightsError {
        WeightsError::WrongForm {
            path: self.path.clone(),
            tensor: tensor.name.to_owned(),
            expected,
            dtype: tensor.dtype,
            shape: tensor.shape,
        }
    }
}
