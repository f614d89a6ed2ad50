//! `macmon pipe`: one JSON object a line, in the layouts of its versions. Memory is not taken from it: the system knows better.

use serde_json::Value;

use super::{MacPower, ToolError, watts};

const TOOL: &str = "macmon";

/// The last whole line's reading. A line that is cut off at the end counts as not there.
pub fn power(text: &str) -> Result<MacPower, ToolError> {
    let is_sample = |line: &str| serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
    let sample = text.lines().rev().find_map(is_sample);
    let sample = sample.ok_or_else(|| ToolError::new(TOOL, "a JSON object in a line", text))?;
    let value = |name: &str| sample.get(name).and_then(Value::as_f64).and_then(watts);
    let power = MacPower {
        cpu_w: value("cpu_power"),
        gpu_w: value("gpu_power"),
        ane_w: value("ane_power"),
        chip_w: value("all_power"),
        memory_w: value("ram_power"),
        system_w: value("sys_power"),
    };
    if power.is_empty() {
        return Err(ToolError::new(TOOL, "readings in watts", &sample.to_string()));
    }
    Ok(power)
}
