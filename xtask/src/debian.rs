//! Debian's packages in a folder of ours, as if it were `/`: nothing is installed and the machine stays as it is. It
//! does not know what the packages are for.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, ensure};

/// Unpacked packages.
pub(crate) struct Debian {
    root: PathBuf,
}

impl Debian {
    /// These packages, and what they need that the machine does not have, unpacked in `root` unless that is there.
    pub(crate) fn unpacked(root: PathBuf, packages: &[&str]) -> Result<Debian> {
        if root.is_dir() {
            return Ok(Debian { root });
        }
        let mut plan = Command::new("apt-get");
        plan.args(["--simulate", "--quiet=2", "--no-install-recommends", "install"]).args(packages);
        let plan = output(&mut plan)
            .map_err(|why| anyhow!("{why:#}\nhint: `apt-get update` as root gets the list of packages"))?;
        let unfinished = root.with_extension("partial");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished)?;
        }
        let downloads = unfinished.join("download");
        fs::create_dir_all(&downloads)?;
        output(
            Command::new("apt-get")
                .args(["--quiet=2", "download"])
                .args(to_get(&plan, packages))
                .current_dir(&downloads),
        )?;
        for entry in fs::read_dir(&downloads)? {
            output(Command::new("dpkg").arg("--extract").arg(entry?.path()).arg(&unfinished))?;
        }
        fs::remove_dir_all(&downloads)?;
        fs::rename(&unfinished, &root)?; // last, so that a folder of this name is whole
        Ok(Debian { root })
    }

    /// Where `path`, as it would be below `/`, lies.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Where a program of one of the packages lies.
    pub(crate) fn program(&self, name: &str) -> Result<PathBuf> {
        let folders = ["usr/bin", "usr/sbin", "bin", "sbin"];
        let mut places = folders.iter().map(|folder| self.root.join(folder).join(name));
        places
            .find(|place| place.exists())
            .with_context(|| format!("no package below {} has {name}", self.root.display()))
    }

    /// A program that finds the libraries of the packages.
    pub(crate) fn command(&self, program: impl AsRef<Path>) -> Command {
        let of_machine = format!("lib/{}-linux-gnu", std::env::consts::ARCH);
        let mut paths = self.root.join(format!("usr/{of_machine}")).into_os_string();
        paths.push(":");
        paths.push(self.root.join(of_machine));
        if let Some(others) = std::env::var_os("LD_LIBRARY_PATH") {
            paths.push(":");
            paths.push(others);
        }
        let mut command = Command::new(program.as_ref());
        command.env("LD_LIBRARY_PATH", paths);
        command
    }
}

/// What a command printed; why it failed otherwise.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.output().with_context(|| format!("cannot start {program}"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} failed: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The packages asked for, also those that the machine has, and those that a simulated installation would add.
fn to_get<'a>(plan: &'a str, packages: &[&'a str]) -> BTreeSet<&'a str> {
    let added = plan.lines().filter_map(|line| line.strip_prefix("Inst ")?.split_whitespace().next());
    added.chain(packages.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_and_what_would_be_installed_is_got() {
        let plan = "Remv rustup (1.27 Debian:12 [amd64])\nInst libllvm22 (1:22.1.8 Debian [amd64])\n\
                    Inst rustc-web [1.85] (1.96.0 Debian [amd64])\nConf libllvm22 (1:22.1.8 Debian [amd64])\n";
        let packages: Vec<_> = to_get(plan, &["rustc-web", "kmod"]).into_iter().collect();
        assert_eq!(packages, ["kmod", "libllvm22", "rustc-web"]);
        assert!(to_get("", &[]).is_empty());
    }

    #[test]
    fn a_failure_names_the_program_and_its_reason() {
        let error =
            output(Command::new("sh").args(["-c", "echo no such package >&2; exit 100"])).unwrap_err();
        assert_eq!(error.to_string(), "sh failed: no such package");
        assert!(output(&mut Command::new("/nonexistent/apt-get")).is_err());
    }
}
