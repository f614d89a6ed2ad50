//! What came of a part, and its form between the process that ran it and the one that writes the report.

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// How a part went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It ran, and found what it expected.
    Passed,
    /// It did not run to its end, or found something else.
    Failed,
    /// This build or this machine has not what it needs.
    Skipped,
}

/// What came of a part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) status: Status,
    /// Why it did not pass.
    pub(super) why: Option<String>,
    /// What it found; null if nothing.
    pub(super) result: Value,
}

impl Status {
    const ALL: [Status; 3] = [Status::Passed, Status::Failed, Status::Skipped];

    pub(super) fn name(self) -> &'static str {
        match self {
            Status::Passed => "passed",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
        }
    }
}

impl Outcome {
    pub(super) fn passed(result: Value) -> Outcome {
        Outcome { status: Status::Passed, why: None, result }
    }

    pub(super) fn failed(why: impl Into<String>) -> Outcome {
        Outcome { status: Status::Failed, why: Some(why.into()), result: Value::Null }
    }

    pub(super) fn skipped(why: impl Into<String>) -> Outcome {
        Outcome { status: Status::Skipped, why: Some(why.into()), result: Value::Null }
    }

    /// As a part's process prints it.
    pub(super) fn to_json(&self) -> Value {
        json!({"status": self.status.name(), "why": self.why, "result": self.result})
    }

    /// What a part's process has printed.
    pub(super) fn parse(text: &str) -> Result<Outcome> {
        let value: Value = serde_json::from_str(text).context("the part's process printed no JSON")?;
        let status = Status::ALL.into_iter().find(|status| value["status"] == status.name());
        let status = status.context("the part's process printed no status")?;
        let why = value["why"].as_str().map(str::to_owned);
        Ok(Outcome { status, why, result: value["result"].clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_come_back_as_they_were() {
        let failed = Outcome { result: json!([1, "x"]), ..Outcome::failed("2 checks") };
        for outcome in [Outcome::passed(json!({"a": 1.5})), Outcome::skipped("no GPU"), failed] {
            assert_eq!(Outcome::parse(&outcome.to_json().to_string()).unwrap(), outcome);
        }
        for broken in ["", "{}", "warning\n{\"status\": \"passed\"}", "{\"status\": \"well\"}"] {
            assert!(Outcome::parse(broken).is_err(), "{broken}");
        }
    }
}
