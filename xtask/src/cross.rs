//! The tools that build for other machines than this one, out of packages that are unpacked into a folder of ours and
//! leave this one as it is: Debian's Rust compiler, the one that comes with the standard library's source, Debian's
//! emulator, and PyPI's zig, which brings the system libraries of Linux and what macOS's exports. It does not know
//! what is built with them.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, ensure};

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
    /// Debian's packages as if this were `/`.
    root: PathBuf,
    zig: PathBuf,
}

impl Tools {
    /// Gets what is not below the target folder yet.
    pub(crate) fn get(target: &Path) -> Result<Tools> {
        let store = &target.join("cross");
        let root = unpacked(store)?;
        let python = Python::in_venv(&store.join("venv"))?;
        python.call(&[&["-m", "pip", "install", "--quiet"][..], &PYPI].concat())?;
        let zig = python.call(&["-c", "import ziglang; print(ziglang.__path__[0])"])?;
        let tools = Tools { store: store.to_owned(), root, zig: Path::new(zig.trim()).join("zig") };
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
        self.root.join(format!("usr/bin/qemu-{processor}"))
    }

    /// Gets the sources of the workspace's dependencies and of the standard library's.
    pub(crate) fn fetch_crates(&self, target: &str) -> Result<()> {
        let mut cargo = self.with_compiler("cargo".into());
        output(cargo.args(["fetch", "--quiet", "--locked", WITH_STD, "--target", target])).map(drop)
    }

    /// A cargo that compiles with ours, and takes options that are not settled yet, WITH_STD among them.
    fn with_compiler(&self, cargo: PathBuf) -> Command {
        let mut cargo = self.with_libraries(cargo);
        cargo.env("RUSTC", self.rustc()).env("RUSTC_BOOTSTRAP", "1");
        cargo
    }

    /// Where Apple's development kit would be: an empty folder, for the compiler only wants to be told of one.
    fn sdk(&self) -> PathBuf {
        self.store.join("no-sdk")
    }

    fn rustc(&self) -> PathBuf {
        self.root.join("usr/bin/rustc")
    }

    /// A program that finds the libraries of the unpacked packages.
    fn with_libraries(&self, program: PathBuf) -> Command {
        let ours = self.root.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
        let mut paths = OsString::from(ours);
        if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
            paths.push(":");
            paths.push(others);
        }
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", paths);
        command
    }

    /// An old Debian has an old compiler.
    fn check_version(&self) -> Result<()> {
        let found = output(self.with_libraries(self.rustc()).arg("--version"))?;
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

/// The folder with Debian's packages, and with what they need that the machine does not have.
fn unpacked(store: &Path) -> Result<PathBuf> {
    let root = store.join("debian");
    if root.is_dir() {
        return Ok(root);
    }
    let mut plan = Command::new("apt-get");
    plan.args(["--simulate", "--quiet=2", "--no-install-recommends", "install"]).args(DEBIAN);
    let plan = output(&mut plan)
        .map_err(|why| anyhow!("{why:#}\nhint: `apt-get update` as root gets the list of packages"))?;
    let unfinished = store.join("debian.partial");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished)?;
    }
    let downloads = unfinished.join("download");
    fs::create_dir_all(&downloads)?;
    output(
        Command::new("apt-get")
            .args(["--quiet=2", "download"])
            .args(to_install(&plan))
            .current_dir(&downloads),
    )?;
    for entry in fs::read_dir(&downloads)? {
        output(Command::new("dpkg").arg("--extract").arg(entry?.path()).arg(&unfinished))?;
    }
    fs::remove_dir_all(&downloads)?;
    fs::rename(&unfinished, &root)?; // last, so that a folder of this name is whole
    Ok(root)
}

/// The packages that a simulated installation would add.
fn to_install(plan: &str) -> impl Iterator<Item = &str> {
    plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next())
}

/// The second number of a version that begins with 1, wherever it is in the text.
fn minor(text: &str) -> Option<u32> {
    text.split_whitespace().find_map(|word| word.strip_prefix("1.")?.split('.').next()?.parse().ok())
}

/// What a command printed; why it failed otherwise.
fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_would_be_installed_is_got() {
        let plan = "Remv rustup (1.27 Debian:12 [amd64])\nInst libllvm22 (1:22.1.8 Debian [amd64])\n\
                    Inst rustc-web [1.85] (1.96.0 Debian [amd64])\nConf libllvm22 (1:22.1.8 Debian [amd64])\n";
        assert_eq!(to_install(plan).collect::<Vec<_>>(), ["libllvm22", "rustc-web"]);
        assert_eq!(to_install("").next(), None);
    }

    #[test]
    fn versions_are_found_in_what_compilers_print() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n"), Some(96));
        assert_eq!(minor("1.95"), Some(95));
        assert_eq!(minor("rustc"), None);
    }

    #[test]
    fn a_failure_names_the_program_and_its_reason() {
        let error =
            output(Command::new("sh").args(["-c", "echo no such package >&2; exit 100"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: no such package");
        assert!(output(&mut Command::new("/nonexistent/apt-get")).is_err());
    }
}
