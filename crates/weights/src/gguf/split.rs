//! One GGUF checkpoint in several files: `name-00001-of-00003.gguf` and its siblings. The first file holds the
//! metadata of all; each describes its own tensors.

use std::path::{Path, PathBuf};

use super::GgufMetadata;
use crate::WeightsError;

/// A path taken apart into the part before the numbers and the count.
pub(crate) struct SplitName {
    prefix: PathBuf,
    count: u32,
}

impl SplitName {
    /// `None` if the path does not end like a part of a split checkpoint.
    pub(crate) fn parse(path: &Path) -> Option<SplitName> {
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (stem, count) = stem.rsplit_once("-of-")?;
        let (stem, number) = stem.rsplit_once('-')?;
        let is_number = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
        if !is_number(count) || !is_number(number) {
            return None;
        }
        Some(SplitName { prefix: path.with_file_name(stem), count: count.parse().ok()? })
    }

    /// Files that the name announces.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// Path of file `i`, counted from 0.
    pub(crate) fn path(&self, i: u32) -> PathBuf {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("-{:05}-of-{:05}.gguf", i + 1, self.count));
        path.into()
    }
}

/// Number of files the checkpoint consists of, as the metadata says.
pub(crate) fn split_count(metadata: &GgufMetadata) -> Result<u32, WeightsError> {
    Ok(metadata.optional("split.count", GgufMetadata::u32)?.unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        let name = SplitName::parse(Path::new("/m/a-b-00002-of-00003.gguf")).unwrap();
        assert_eq!(name.count(), 3);
        assert_eq!(name.path(0), Path::new("/m/a-b-00001-of-00003.gguf"));
        for other in
            ["a.gguf", "a-1-of-3.gguf", "a-00001-of-00003.bin", "-of-00003.gguf", "a-00001-of-0000x.gguf"]
        {
            assert!(SplitName::parse(Path::new(other)).is_none(), "{other}");
        }
    }
}
