//! The report as it grows: one value, cleaned of what is private, that is written anew after every part, so that even a machine that
//! has to be restarted leaves one. How it looks to people is another file's.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    outcome::{Outcome, Status},
    privacy::Privacy,
    render,
};

/// Version of the value's form.
const FORMAT: u32 = 1;

/// What is known before the first part.
pub(super) struct Head {
    pub(super) date: String,
    pub(super) quick: bool,
}

/// A report and its file.
pub(super) struct Report {
    path: PathBuf,
    value: Value,
    privacy: Privacy,
    /// Names of the parts that failed.
    failed: Vec<String>,
}

impl Report {
    /// Writes a report without parts, so that a file that cannot be written is known before the first of them.
    pub(super) fn create(path: PathBuf, head: Head, privacy: Privacy) -> Result<Report> {
        let value = json!({
            "report": "onefold field test",
            "format": FORMAT,
            "onefold": env!("CARGO_PKG_VERSION"),
            "date": head.date,
            "quick": head.quick,
            "finished": false,
            "parts": [],
        });
        let report = Report { path, value, privacy, failed: Vec::new() };
        report.write()?;
        Ok(report)
    }

    /// Adds what came of a part.
    pub(super) fn add(&mut self, section: &str, name: &str, time: Duration, outcome: &Outcome) -> Result<()> {
        if outcome.status == Status::Failed {
            self.failed.push(name.to_owned());
        }
        let mut part = self.privacy.value(&outcome.to_json());
        part["section"] = section.into();
        part["name"] = name.into();
        part["seconds"] = ((time.as_secs_f64() * 1e3).round() / 1e3).into();
        if let Some(parts) = self.value["parts"].as_array_mut() {
            parts.push(part);
        }
        self.write()
    }

    /// Nothing more comes.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.value["finished"] = true.into();
        self.write()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which parts failed, and how many there are.
    pub(super) fn failed(&self) -> (&[String], usize) {
        (&self.failed, self.value["parts"].as_array().map_or(0, Vec::len))
    }

    fn write(&self) -> Result<()> {
        let written = fs::write(&self.path, render::markdown(&self.value));
        let hint = "hint: --output says where the report goes";
        written.with_context(|| format!("cannot write the report {}\n{hint}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_there_after_every_part() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.md");
        let head = Head { date: "2026-11-22 14:30 UTC".into(), quick: true };
        let privacy = Privacy::new("studio", None, Path::new("/scratch"));
        let mut report = Report::create(path.clone(), head, privacy).unwrap();
        let text = || fs::read_to_string(&path).unwrap();
        assert!(text().contains("did not come to its end"));
        let time = Duration::from_millis(1500);
        report.add("links", "links", time, &Outcome::failed("studio lost 10.0.0.1")).unwrap();
        assert!(text().contains("<host> lost <address>") && !text().contains("studio"), "{}", text());
        report.add("power", "power", time, &Outcome::skipped("no counters")).unwrap();
        report.finish().unwrap();
        assert!(!text().contains("did not come to its end"));
        assert_eq!(report.failed(), (&["links".to_owned()][..], 2));
    }

    #[test]
    fn a_place_that_cannot_be_written_is_known_at_once() {
        let head = Head { date: String::new(), quick: true };
        let privacy = Privacy::new("", None, Path::new("/scratch"));
        let error = Report::create(PathBuf::from("/nonexistent/report.md"), head, privacy).err().unwrap();
        assert!(format!("{error:#}").contains("hint: --output"), "{error:#}");
    }
}
