//! The tools that build for other machines than this one, out of packages that are unpacked into a folder of ours and
//! leave this one as it is: Debian's Rust compiler, the one that comes with the standard library's source, Debian's
//! emulator, and PyPI's zig, which brings the system libraries of Linux and what macOS's exports. It does not know
//! what is built with them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};

use crate::debian::{Debian, output};
use crate::python::Python;

/// The compiler, the source of its standard library, and what runs programs for other processors.
const DEBIAN: [&str; 3] = ["rustc-web", "rust-web-src", "qemu-user"];
/// Compiler and linker for C, and what makes cargo use them.
const PYPI: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.0"];

/// Has cargo build the standard library, for there is none but this machine's.
pub(crate) const WITH_STD: &str = "-Zbuild-std=std,panic_abort";

/// All of them, ready.
pub(crate) struct Tools {
    /// Everything is in here.
    store: PathBuf,
    debian: Debian,
    zig: PathBuf,
}

impl Tools {
    /// Gets what is not below the target folder yet.
    pub(crate) fn get(target: &Path) -> Result<Tools> {
        let store = &target.join("cross");
        let debian = Debian::unpacked(store.join("debian"), &DEBIAN)?;
        let python = Python::in_venv(&store.join("venv"))?;
        python.call(&[&["-m", "pip", "install", "--quiet"][..], &PYPI].concat())?;
        let zig = python.call(&["-c", "import ziglang; print(ziglang.__path__[0])"])?;
        let tools = Tools { store: store.to_owned(), debian, zig: Path::new(zig.trim()).join("zig") };
        tools.check_version()?;
        fs::create_dir_all(tools.sdk())?;
        Ok(tools)
    }

    /// A subcommand of cargo that compiles and links with them.
    pub(crate) fn cargo(&self, subcommand: &str) -> Command {
        let mut cargo = self.with_compiler(self.store.join("venv/bin/cargo-zigbuild"));
        cargo.arg(subcommand).env("CARGO_ZIGBUILD_ZIG_PATH", &self.zig);
        cargo.env("SDKROOT", self.sdk()).env("CARGO_ZIGBUILD_CACHE_DIR", self.store.join("zigbuild"));
        cargo.env("ZIG_GLOBAL_CACHE_DIR", self.store.join("zig"));
        cargo
    }

    /// What runs a program for another processor, named as in the emulator's name.
    pub(crate) fn emulator(&self, processor: &str) -> PathBuf {
        self.debian.path(&format!("usr/bin/qemu-{processor}"))
    }

    /// Gets the sources of the workspace's dependencies and of the standard library's.
    pub(crate) fn fetch_crates(&self, target: &str) -> Result<()> {
        let mut cargo = self.with_compiler("cargo".into());
        output(cargo.args(["fetch", "--quiet", "--locked", WITH_STD, "--target", target])).map(drop)
    }

    /// A cargo that compiles with ours, and takes options that are not settled yet, WITH_STD among them.
    fn with_compiler(&self, cargo: PathBuf) -> Command {
        let mut cargo = self.debian.command(cargo);
        cargo.env("RUSTC", self.rustc()).env("RUSTC_BOOTSTRAP", "1");
        cargo
    }

    /// Where Apple's development kit would be: an empty folder, for the compiler only wants to be told of one.
    fn sdk(&self) -> PathBuf {
        self.store.join("no-sdk")
    }

    fn rustc(&self) -> PathBuf {
        self.debian.path("usr/bin/rustc")
    }

    /// An old Debian has an old compiler.
    fn check_version(&self) -> Result<()> {
        let found = output(self.debian.command(self.rustc()).arg("--version"))?;
        let needed = env!("CARGO_PKG_RUST_VERSION");
        let is_new = matches!((minor(&found), minor(needed)), (Some(found), Some(needed)) if found >= needed);
        ensure!(
            is_new,
            "{} from packages: expected version {needed} or newer, found {}",
            DEBIAN[0],
            found.trim()
        );
        Ok(())
    }
}

/// The second number of a version that begins with 1, wherever it is in the text.
fn minor(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.strip_prefix("1.")?.split('.').next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_compilers_print() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n"), Some(96));
        assert_eq!(minor("1.95"), Some(95));
        assert_eq!(minor("rustc"), None);
    }
}
