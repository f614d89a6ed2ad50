//! llama.cpp in a process that waits to be told which test to run: it has loaded the model with and without repacked
//! weights, and measures itself.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::table::{Figure, Samples};
use crate::python::Python;

/// How llama.cpp may hold weights; which is faster depends on the format and the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// Repacked for the machine.
    Repack,
    /// As they are in the file.
    Plain,
}

impl Setting {
    pub(super) const ALL: [Setting; 2] = [Setting::Repack, Setting::Plain];

    pub(super) fn name(self) -> &'static str {
        match self {
            Setting::Repack => "repack",
            Setting::Plain => "plain",
        }
    }
}

/// What a test measured with either setting.
#[derive(Clone, Debug, Default)]
pub(super) struct Both([Samples; 2]);

impl Both {
    pub(super) fn of(&mut self, setting: Setting) -> &mut Samples {
        &mut self.0[setting as usize]
    }

    /// The setting with the higher median.
    pub(super) fn highest(&self, unit: &'static str) -> Figure {
        let [repack, plain] = Setting::ALL.map(|setting| self.figure(setting, unit));
        if repack.value >= plain.value { repack } else { plain }
    }

    /// The setting with the lower median.
    pub(super) fn lowest(&self, unit: &'static str) -> Figure {
        let [repack, plain] = Setting::ALL.map(|setting| self.figure(setting, unit));
        if repack.value <= plain.value { repack } else { plain }
    }

    fn figure(&self, setting: Setting, unit: &'static str) -> Figure {
        self.0[setting as usize].figure(unit).of(format!("llama.cpp {}", setting.name()))
    }
}

/// The process.
pub(super) struct Llama {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Llama {
    /// Loads `model` twice; the process is pinned to `n_threads` cores.
    pub(super) fn start(python: &Python, model: &Path, n_threads: u32) -> Result<Llama> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/llama_cpp_bench.py");
        let mut command = Command::new(python.program());
        command.arg(script).arg(model).arg(n_threads.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {}", python.program()))?;
        let input = child.stdin.take().context("llama.cpp's process has no input")?;
        let output = BufReader::new(child.stdout.take().context("llama.cpp's process has no output")?);
        let mut llama = Llama { child, input, output };
        llama.answer()?; // it has loaded
        Ok(llama)
    }

    /// Tokens a second of `n_runs` runs of `test`, "pp" or "tg", over `n` tokens.
    pub(super) fn rates(&mut self, setting: Setting, test: &str, n: u32, n_runs: u32) -> Result<Vec<f64>> {
        writeln!(self.input, "{} {test} {n} {n_runs}", setting.name())?;
        let rates: Vec<f64> = serde_json::from_value(self.answer()?["tok_s"].take())?;
        ensure!(rates.len() == n_runs as usize, "llama.cpp: expected {n_runs} runs, found {}", rates.len());
        Ok(rates)
    }

    fn answer(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(!line.is_empty(), "llama.cpp's process has ended");
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Llama {
    fn drop(&mut self) {
        // it may be gone already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_better_setting_is_named() {
        let mut both = Both::default();
        both.of(Setting::Repack).extend([10.0, 12.0, 11.0]);
        both.of(Setting::Plain).extend([13.0]);
        assert_eq!(both.highest("tok/s").to_string(), "llama.cpp plain 13.0 tok/s");
        assert_eq!(both.lowest("s").to_string(), "llama.cpp repack 11.0 (10.0-12.0) s");
    }
}
