//! Python programs that bring the engines we compare with. Needed by golden files, benchmarks and comparisons, never by the
//! product.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::peer;

/// A Python and the packages it has.
pub(crate) struct Python {
    program: String,
}

impl Python {
    /// One with llama.cpp: `ONEFOLD_PYTHON`, or what `cargo xtask peer` made; or says how to get it.
    pub(crate) fn with_llama_cpp() -> Result<Python> {
        let program = match std::env::var("ONEFOLD_PYTHON") {
            Ok(program) => program,
            Err(_) => peer::python()?.display().to_string(),
        };
        let found = Command::new(&program).args(["-c", "import llama_cpp"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            bail!(
                "{program} is no Python with the module llama_cpp\nhint: cargo xtask peer makes one, ONEFOLD_PYTHON \
                 names another"
            );
        }
        Ok(Python { program })
    }

    /// One of its own in `folder`, made with `python3` unless it is there.
    pub(crate) fn in_venv(folder: &Path) -> Result<Python> {
        let venv = Python { program: folder.join("bin/python").display().to_string() };
        if !folder.join("bin/pip").exists() {
            let python = Python { program: "python3".to_owned() };
            python.call(&["-m", "venv", &folder.display().to_string()])?;
        }
        Ok(venv)
    }

    /// How it is started.
    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// Runs it and returns what it printed.
    pub(crate) fn call(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .args(args)
            .output()
            .with_context(|| format!("cannot start {}", self.program))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} {} failed: {errors}", self.program, args.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs one of our scripts and returns what it printed.
    pub(crate) fn run(&self, script: &Path, args: &[&str]) -> Result<String> {
        let script = script.display().to_string();
        self.call(&[&[script.as_str()], args].concat())
    }
}
