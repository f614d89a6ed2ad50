//! `powermetrics -f plist`: property lists with a NUL byte between samples. It does not know what the machine does meanwhile.

use plist::{Dictionary, Value};

use super::{MacPower, ToolError, watts};

const TOOL: &str = "powermetrics";
/// Collections in a sample at most; a large Mac has about a thousand. What is nested without a bound would be freed by recursion
/// without a bound.
const MAX_COLLECTIONS: usize = 4096;

/// Every whole sample, in their order. What is cut off at the end counts as not there.
pub fn samples(output: &[u8]) -> Result<Vec<MacPower>, ToolError> {
    let samples = output.split(|byte| *byte == 0).filter(|sample| n_collections(sample) <= MAX_COLLECTIONS);
    let samples = samples.filter_map(|sample| {
        let value = Value::from_reader_xml(sample.trim_ascii()).ok()?;
        power(value.as_dictionary()?.get("processor")?.as_dictionary()?)
    });
    let samples: Vec<MacPower> = samples.collect();
    if samples.is_empty() {
        let found = String::from_utf8_lossy(&output[..output.len().min(256)]);
        return Err(ToolError::new(TOOL, "a property list with a processor's power", &found));
    }
    Ok(samples)
}

/// Beginnings of arrays and dictionaries.
fn n_collections(sample: &[u8]) -> usize {
    let begins = |rest: &[u8]| rest.starts_with(b"<array") || rest.starts_with(b"<dict");
    (0..sample.len()).filter(|at| begins(&sample[*at..])).count()
}

fn power(processor: &Dictionary) -> Option<MacPower> {
    // in mW, whole or not
    let value = |name: &str| {
        let value = processor.get(name)?;
        let milliwatts = value.as_real().or_else(|| value.as_unsigned_integer().map(|n| n as f64))?;
        watts(milliwatts / 1e3)
    };
    let power = MacPower {
        cpu_w: value("cpu_power"),
        gpu_w: value("gpu_power"),
        ane_w: value("ane_power"),
        chip_w: value("combined_power"),
        ..MacPower::default()
    };
    (!power.is_empty()).then_some(power)
}
