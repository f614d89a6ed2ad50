//! What the guest starts with: its root folder as a list of entries, written as one archive that the kernel unpacks
//! into memory. It does not know what runs there.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::debian::{Debian, output};

/// Where the guest's programs look for libraries first.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";

/// The guest's root folder; paths have no slash in front.
#[derive(Default)]
pub(crate) struct Image(BTreeMap<String, Entry>);

enum Entry {
    Folder,
    File { bytes: Vec<u8>, mode: u32 },
    Symlink(String),
}

impl Image {
    /// Adds a file, and the folders above it.
    pub(crate) fn file(&mut self, path: &str, bytes: impl Into<Vec<u8>>, mode: u32) {
        self.folder_of(path);
        self.0.insert(path.to_owned(), Entry::File { bytes: bytes.into(), mode });
    }

    /// Adds an empty folder, and those above it.
    pub(crate) fn folder(&mut self, path: &str) {
        self.folder_of(path);
        self.0.entry(path.to_owned()).or_insert(Entry::Folder);
    }

    /// Adds a link to another path.
    pub(crate) fn symlink(&mut self, path: &str, to: &str) {
        self.folder_of(path);
        self.0.insert(path.to_owned(), Entry::Symlink(to.to_owned()));
    }

    /// Adds a file of this machine or of a package at `path`.
    pub(crate) fn copy(&mut self, path: &str, from: &Path, mode: u32) -> Result<()> {
        let bytes = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        self.file(path, bytes, mode);
        Ok(())
    }

    /// Adds a program or library and all libraries that it is linked with, those of the packages before this machine's.
    pub(crate) fn program(&mut self, debian: &Debian, path: &str, from: &Path) -> Result<()> {
        self.copy(path, from, 0o755)?;
        let needed = output(debian.command("ldd").arg(from))?;
        for library in libraries(&needed) {
            let name = library.file_name().context("a library without a name")?.to_string_lossy();
            let folder = if name.starts_with("ld-linux") { "lib64" } else { LIBRARIES };
            self.copy(&format!("{folder}/{name}"), &library, 0o755)?;
        }
        Ok(())
    }

    /// Adds kernel modules and what they need, and a list of all in the order in which they can be loaded.
    pub(crate) fn modules(&mut self, debian: &Debian, release: &str, names: &[&str]) -> Result<()> {
        let root = debian.path("");
        let kmod = debian.program("kmod")?;
        output(debian.command(&kmod).arg0("depmod").arg("-b").arg(&root).arg(release))?;
        let mut list: Vec<String> = Vec::new();
        for name in names {
            let mut modprobe = debian.command(&kmod);
            modprobe.arg0("modprobe").arg("-d").arg(&root).args(["-S", release, "--show-depends", name]);
            for module in output(&mut modprobe)?.lines().filter_map(|line| line.strip_prefix("insmod ")) {
                let module = Path::new(module.trim());
                let file = module.file_name().context("a module without a name")?.to_string_lossy();
                let path = format!("modules/{file}");
                if !self.0.contains_key(&path) {
                    self.copy(&path, module, 0o644)?;
                    list.push(format!("/{path}\n"));
                }
            }
        }
        self.file("modules/list", list.concat(), 0o644);
        Ok(())
    }

    /// Writes the archive, of the kind that cpio calls newc.
    pub(crate) fn write(&self, to: &Path) -> Result<()> {
        let mut archive = Vec::new();
        for (inode, (path, entry)) in self.0.iter().enumerate() {
            let (mode, bytes) = match entry {
                Entry::Folder => (0o040_755, &[][..]),
                Entry::File { bytes, mode } => (0o100_000 | mode, &bytes[..]),
                Entry::Symlink(to) => (0o120_777, to.as_bytes()),
            };
            append(&mut archive, inode + 1, path, mode, bytes)?;
        }
        append(&mut archive, 0, "TRAILER!!!", 0, &[])?;
        fs::write(to, archive).with_context(|| format!("cannot write {}", to.display()))
    }

    fn folder_of(&mut self, path: &str) {
        if let Some((folder, _)) = path.rsplit_once('/') {
            self.folder(folder);
        }
    }
}

/// One entry: a header of hexadecimal numbers, name and contents, each filled up to four bytes.
fn append(archive: &mut Vec<u8>, inode: usize, name: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let (len, name_len) = (u32::try_from(bytes.len())?, name.len() + 1);
    write!(archive, "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{len:08x}", 0, 1)?;
    write!(archive, "{0:08x}{0:08x}{0:08x}{0:08x}{name_len:08x}{0:08x}{name}\0", 0)?;
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(bytes);
    archive.resize(archive.len().next_multiple_of(4), 0);
    Ok(())
}

/// The libraries in what `ldd` prints; one that is in the kernel has no file.
fn libraries(needed: &str) -> impl Iterator<Item = PathBuf> {
    needed.lines().filter_map(|line| {
        let path = line.split_once("=> ").map_or(line, |(_, path)| path).split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_golden() {
        let mut archive = Vec::new();
        append(&mut archive, 1, "bin/sh", 0o100_755, b"hello").unwrap();
        let header = "07070100000001000081ed00000000000000000000000100000000000000050000000000000000\
                      00000000000000000000000700000000";
        assert_eq!(archive, [header.as_bytes(), b"bin/sh\0\0\0\0hello\0\0\0"].concat());
        assert_eq!(archive.len() % 4, 0);
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let mut image = Image::default();
        image.file("a/b/c", "x", 0o644);
        image.folder("a/b");
        image.symlink("a/d", "b/c");
        assert_eq!(image.0.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c", "a/d"]);
    }

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        let printed = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
                       \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tlibgone.so => not found\n";
        let found: Vec<_> = libraries(printed).collect();
        assert_eq!(found, [Path::new("/lib/x/libc.so.6"), Path::new("/lib64/ld-linux-x86-64.so.2")]);
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
