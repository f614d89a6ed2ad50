//! A file mapped read-only into memory: the one place of this crate that needs `unsafe`. It knows bytes, no format.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::WeightsError;

/// A mapped file and its path, for messages.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    map: Mmap,
}

impl Mapped {
    /// Maps a regular file. Anything else is refused before it is opened: a pipe would block.
    pub(crate) fn open(path: &Path) -> Result<Mapped, WeightsError> {
        let io = |source| WeightsError::Io { action: "open", path: path.to_owned(), source };
        if !fs::metadata(path).map_err(io)?.is_file() {
            return Err(WeightsError::NotAFile { path: path.to_owned() });
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and only ever seen as bytes, every value of which is valid. What cannot be
        // guarded from here is another process that changes the file while it is mapped: a write shows up as other
        // bytes, and a truncation kills the reader with SIGBUS when it touches a page past the new end.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Ok(Mapped { path: path.to_owned(), map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
