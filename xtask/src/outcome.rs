//! How tests went, read from the lines that libtest and its likes end with. A run that says nothing of tests has failed.

use std::{
    fmt,
    io::{BufRead, BufReader},
    ops::AddAssign,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

/// Numbers of tests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    passed: u32,
    failed: u32,
    skipped: u32,
}

impl Outcome {
    /// Runs a command that runs tests, and shows what it prints.
    pub(crate) fn of(command: &mut Command) -> Result<Outcome> {
        let program = command.get_program().display().to_string();
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start {program}"))?;
        let stdout = child.stdout.take().with_context(|| format!("{program} has no output"))?;
        let mut outcome = Outcome::default();
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            outcome += Outcome::of_line(&line).unwrap_or_default();
        }
        Ok(outcome.checked(child.wait()?.success()))
    }

    /// Reads `test result: ok. 4 passed; 0 failed; 1 ignored; …`; other lines are none.
    pub(crate) fn of_line(line: &str) -> Option<Outcome> {
        let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
        let count = |word: &str| {
            let mut parts = counts.split("; ").filter_map(|part| part.split_once(' '));
            parts.find(|(_, name)| *name == word)?.0.parse().ok()
        };
        Some(Outcome { passed: count("passed")?, failed: count("failed")?, skipped: count("ignored")? })
    }

    /// The same with a failure added where the program failed without a failed test (it did not build, it crashed) or
    /// held no test at all.
    pub(crate) fn checked(mut self, success: bool) -> Outcome {
        let is_empty = self == Outcome::default();
        if is_empty || (!success && self.failed == 0) {
            self.failed += 1;
        }
        self
    }

    /// Whether this is what was wanted: nothing failed and, if `all` must run, nothing was skipped.
    pub(crate) fn is_good(self, all: bool) -> bool {
        self.failed == 0 && !(all && self.skipped > 0)
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Outcome) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn outcome(passed: u32, failed: u32, skipped: u32) -> Outcome {
        Outcome { passed, failed, skipped }
    }

    #[test]
    fn the_last_line_of_a_run_is_read() {
        let rest = "0 measured; 3 filtered out; finished in 6.06s";
        let line = format!("test result: FAILED. 4 passed; 11 failed; 2 ignored; {rest}");
        assert_eq!(Outcome::of_line(&line), Some(outcome(4, 11, 2)));
        let line = format!("test result: ok. 40 passed; 0 failed; 0 ignored; {rest}");
        assert_eq!(Outcome::of_line(&line), Some(outcome(40, 0, 0)));
        for other in ["", "running 3 tests", "test a ... ok", "test result: ok.", "test result: ok. 4 passed"]
        {
            assert_eq!(Outcome::of_line(other), None, "{other}");
        }
    }

    #[test]
    fn silence_and_crashes_are_failures() {
        assert_eq!(outcome(0, 0, 0).checked(true), outcome(0, 1, 0));
        assert_eq!(outcome(0, 0, 0).checked(false), outcome(0, 1, 0));
        assert_eq!(outcome(3, 0, 0).checked(false), outcome(3, 1, 0));
        assert_eq!(outcome(3, 2, 0).checked(false), outcome(3, 2, 0));
        assert_eq!(outcome(3, 0, 1).checked(true), outcome(3, 0, 1));
    }

    #[test]
    fn skipping_is_bad_where_all_must_run() {
        assert!(outcome(3, 0, 1).is_good(false));
        assert!(!outcome(3, 0, 1).is_good(true));
        assert!(outcome(3, 0, 0).is_good(true));
        assert!(!outcome(3, 1, 0).is_good(false));
    }

    #[test]
    fn sums_are_told_in_words() {
        let mut sum = outcome(60, 0, 1);
        sum += outcome(1, 2, 0);
        assert_eq!(sum.to_string(), "61 passed, 2 failed, 1 skipped");
    }
}
