//! What the system's own tools say about this machine's links and limits. They are only asked; a tool that is missing or has
//! nothing to say is told and is no failure.

use std::{process::Command, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    child::{self, Ended, Scratch},
    outcome::{Outcome, Status},
};

/// Longest time of a tool, in seconds.
const TOOL_TIMEOUT_S: u64 = 60;

/// A program and its arguments.
type Tool = &'static [&'static str];

const TOOLS: &[Tool] = if cfg!(target_os = "macos") {
    &[
        &["system_profiler", "-json", "SPThunderboltDataType"],
        &["rdma_ctl", "status"],
        &["ibv_devices"],
        &["ibv_devinfo"],
        &["networksetup", "-listallhardwareports"],
        &["sysctl", "iogpu.wired_limit_mb"],
    ]
} else {
    &[&["ip", "-br", "addr"], &["ibv_devices"], &["ibv_devinfo"]]
};

/// Asks every tool; one that hangs fails the part.
pub(super) fn look(scratch: &Scratch) -> Result<Outcome> {
    let mut answers = Vec::new();
    let mut hung = Vec::new();
    for tool in TOOLS {
        let mut command = Command::new(tool[0]);
        let limit = Duration::from_secs(TOOL_TIMEOUT_S);
        let mut answer = match child::run(command.args(&tool[1..]), scratch, limit) {
            Ok(ended) => answer(ended.as_ref()),
            Err(error) => {
                hung.push(format!("{}: {error:#}", tool[0]));
                json!({"ended": format!("{error:#}")})
            }
        };
        answer["tool"] = tool.join(" ").into();
        answers.push(answer);
    }
    let (status, why) = match hung.is_empty() {
        true => (Status::Passed, None),
        false => (Status::Failed, Some(hung.join("\n"))),
    };
    Ok(Outcome { status, why, result: json!(answers) })
}

/// What a tool said: parsed where it speaks JSON.
fn answer(ended: Option<&Ended>) -> Value {
    let Some(Ended { status, stdout, stderr }) = ended else {
        return json!({"ended": "not on this machine"});
    };
    let said = match serde_json::from_str::<Value>(stdout) {
        Ok(value @ (Value::Object(_) | Value::Array(_))) => value,
        _ => stdout.trim_end().into(),
    };
    json!({"ended": status.to_string(), "said": said, "errors": stderr.trim_end()})
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    #[test]
    fn answers_are_parsed_where_they_can_be() {
        let ended = |stdout: &str, code: i32| Ended {
            status: ExitStatus::from_raw(code << 8),
            stdout: stdout.to_owned(),
            stderr: "oh\n".to_owned(),
        };
        let parsed = answer(Some(&ended(r#"{"SPThunderboltDataType": [{"_name": "bus"}]}"#, 0)));
        assert_eq!(parsed["said"]["SPThunderboltDataType"][0]["_name"], "bus");
        let text = answer(Some(&ended("enabled\n", 1)));
        assert_eq!(text, json!({"ended": "exit status: 1", "said": "enabled", "errors": "oh"}));
        assert_eq!(answer(Some(&ended("12\n", 0)))["said"], "12", "a number is a text");
        assert_eq!(answer(None), json!({"ended": "not on this machine"}));
    }
}
