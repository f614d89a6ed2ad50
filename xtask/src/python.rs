//! Python programs that bring the engines we compare with. Needed by golden files and benchmarks, never by the product.

use std::{path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};

/// A Python with llama.cpp: `ONEFOLD_PYTHON`, or `python3`.
pub(crate) struct Python {
    program: String,
}

impl Python {
    /// Finds it, or says how to get it.
    pub(crate) fn with_llama_cpp() -> Result<Python> {
        let program = std::env::var("ONEFOLD_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let found = Command::new(&program).args(["-c", "import llama_cpp"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            bail!(
                "{program} has no module llama_cpp\nhint: python3 -m venv target/peer && target/peer/bin/pip install \
                 llama-cpp-python gguf jinja2 sentencepiece tokenizers, then set ONEFOLD_PYTHON=target/peer/bin/python"
            );
        }
        Ok(Python { program })
    }

    /// Runs one of our scripts and returns what it printed.
    pub(crate) fn run(&self, script: &Path, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg(script)
            .args(args)
            .output()
            .with_context(|| format!("cannot start {}", self.program))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} failed: {errors}", script.display());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
