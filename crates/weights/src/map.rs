//! A file mapped read-only into memory, or read into memory of the reader's: the one place of this crate that needs `unsafe`. It
//! knows bytes, no format.
#![allow(unsafe_code)]

use std::{
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use memmap2::Mmap;

use crate::WeightsError;

/// A mapped file and its path, for messages.
#[derive(Debug)]
pub(crate) struct Mapped {
    path: PathBuf,
    map: Mmap,
    file: File,
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
        #[cfg(target_vendor = "apple")]
        // what is read is kept by the reader; a second copy in the system's cache is of no use
        rustix::fs::fcntl_nocache(&file, true).map_err(|e| io(e.into()))?;
        Ok(Mapped { path: path.to_owned(), map, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Some bytes, read past the map.
    pub(crate) fn read(&self, range: Range<usize>) -> Result<Vec<u8>, WeightsError> {
        let mut bytes = vec![0; range.len()];
        let read = self.file.read_exact_at(&mut bytes, range.start as u64);
        read.map_err(|source| WeightsError::Io { action: "read", path: self.path.clone(), source })?;
        Ok(bytes)
    }
}
