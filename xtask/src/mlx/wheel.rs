//! The one version of MLX that is linked, as the wheels that pip brings: which there are, their hashes, how one
//! becomes a folder. It does not know what is done with the folder.

use std::{
    error::Error,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::python::Python;

/// MLX's C++ interface changes in patch releases, so everybody has exactly this one.
pub(crate) const VERSION: &str = "0.32.4";
/// The first macOS whose wheel has the kernels for neural accelerators and collectives over RDMA.
const NEW_MACOS: u32 = 26;

/// The library for one platform.
#[derive(Debug)]
pub(crate) struct Wheel {
    package: &'static str,
    platform: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 4] = [
    Wheel {
        package: "mlx-cpu",
        platform: "manylinux_2_35_x86_64",
        sha256: "0e0a24fa2ce8b6b94d2e6a90604e8813aa8e29fcb918bb2aa01cfb6d133d8cee",
    },
    Wheel {
        package: "mlx-cpu",
        platform: "manylinux_2_35_aarch64",
        sha256: "1289e85e64af1fd16380bf331438bfe4afe875d27afc3e0bcf35f427c488fadd",
    },
    Wheel {
        package: "mlx-metal",
        platform: "macosx_26_0_arm64",
        sha256: "514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936",
    },
    Wheel {
        package: "mlx-metal",
        platform: "macosx_14_0_arm64",
        sha256: "8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947",
    },
];

/// A file that is not the one that was pinned.
#[derive(Debug)]
pub(crate) struct WrongFile {
    file: PathBuf,
    expected: &'static str,
    found: String,
}

impl fmt::Display for WrongFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let WrongFile { file, expected, found } = self;
        writeln!(f, "{}: expected sha256 {expected}, found {found}", file.display())?;
        f.write_str("hint: this is not the file that was pinned; do not use it")
    }
}

impl Error for WrongFile {}

impl Wheel {
    /// Platforms that have one.
    pub(crate) const PLATFORMS: [&str; 4] =
        [WHEELS[0].platform, WHEELS[1].platform, WHEELS[2].platform, WHEELS[3].platform];

    /// The library for a platform by its name.
    pub(crate) fn of_platform(platform: &str) -> Result<&'static Wheel> {
        WHEELS.iter().find(|wheel| wheel.platform == platform).with_context(|| {
            let all = Wheel::PLATFORMS.join(", ");
            format!("MLX for platform {platform}: expected one of {all}")
        })
    }

    /// The library for the machine this runs on.
    pub(crate) fn of_this_machine() -> Result<&'static Wheel> {
        let platform = match (std::env::consts::OS, std::env::consts::ARCH) {
            ("macos", "aarch64") if macos_version()? < NEW_MACOS => "macosx_14_0_arm64".to_owned(),
            ("macos", "aarch64") => "macosx_26_0_arm64".to_owned(),
            ("linux", arch) => format!("manylinux_2_35_{arch}"),
            (os, arch) => format!("{os}_{arch}"),
        };
        Wheel::of_platform(&platform)
    }

    /// The unpacked library in `store`, the same folder whenever it is asked for. `python` is called if it has to be got.
    pub(super) fn fetch(&self, store: &Path, python: impl FnOnce() -> Result<Python>) -> Result<PathBuf> {
        let name = format!("{VERSION}-{}", self.platform);
        let folder = store.join(&name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let python = python()?;
        let unfinished = store.join(name + ".partial");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let downloads = unfinished.join("download");
        let requirement = format!("{}=={VERSION}", self.package);
        let options = ["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"];
        let choice = ["--platform", self.platform, "--dest", text(&downloads)?, &requirement];
        python.call(&[&options[..], &choice[..]].concat())?;

        let file = only_file(&downloads)?;
        self.check(&fs::read(&file)?, &file)?;
        python.call(&["-m", "zipfile", "-e", text(&file)?, text(&unfinished)?])?;
        fs::remove_dir_all(&downloads)?;
        fs::rename(&unfinished, &folder)?; // last, so that a folder of this name is whole
        Ok(folder)
    }

    fn check(&self, bytes: &[u8], file: &Path) -> Result<()> {
        let found: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        if found != self.sha256 {
            return Err(WrongFile { file: file.to_owned(), expected: self.sha256, found }.into());
        }
        Ok(())
    }
}

/// The major number of this system.
fn macos_version() -> Result<u32> {
    let output = Command::new("sw_vers").arg("-productVersion").output().context("cannot start sw_vers")?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let major = version.split('.').next().and_then(|major| major.parse().ok());
    major.with_context(|| format!("sw_vers: expected a version, found {version:?}"))
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let files = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    ensure!(files.len() == 1, "{}: expected one file, found {}", folder.display(), files.len());
    Ok(files[0].clone())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: expected a path that is text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_is_refused_by_name_and_both_hashes() {
        let wheel = &WHEELS[0];
        let error = wheel.check(b"abc", Path::new("mlx.whl")).unwrap_err().to_string();
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(["mlx.whl", wheel.sha256, abc].iter().all(|part| error.contains(part)), "{error}");
        let same = Wheel { sha256: abc, ..WHEELS[0] };
        assert!(same.check(b"abc", Path::new("mlx.whl")).is_ok());
    }

    #[test]
    fn what_is_there_is_not_got_again() {
        let store = std::env::temp_dir().join(format!("onefold-wheels-{}", std::process::id()));
        let wheel = &WHEELS[2];
        let folder = store.join("0.32.4-macosx_26_0_arm64");
        fs::create_dir_all(&folder).unwrap();
        assert_eq!(wheel.fetch(&store, || panic!("nothing to get")).unwrap(), folder);
        fs::remove_dir(&folder).unwrap();
        let error = wheel.fetch(&store, || anyhow::bail!("no Python here")).unwrap_err();
        assert_eq!(error.to_string(), "no Python here");
        fs::remove_dir_all(&store).unwrap();
    }

    #[test]
    fn an_unknown_platform_is_told_the_known_ones() {
        assert_eq!(Wheel::of_platform("macosx_14_0_arm64").unwrap().package, "mlx-metal");
        let error = Wheel::of_platform("win_amd64").unwrap_err().to_string();
        assert!(error.contains("win_amd64") && error.contains("manylinux_2_35_x86_64"), "{error}");
    }
}
