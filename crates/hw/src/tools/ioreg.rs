//! `ioreg -r -d 1 -w 0 -c IOAccelerator`: a Mac's GPU. It does not know what the GPU may use, which `sysctl` says.

use base::Bytes;

use super::ToolError;

const TOOL: &str = "ioreg";

/// A Mac's GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// As in `Apple M5 Pro`.
    pub model: Option<String>,
    /// Its cores.
    pub n_cores: Option<u32>,
    /// Memory it uses now.
    pub in_use: Option<Bytes>,
}

/// The first GPU that is listed.
pub fn gpu(text: &str) -> Result<Gpu, ToolError> {
    let gpu = Gpu {
        model: value(text, "model").and_then(quoted),
        n_cores: value(text, "gpu-core-count").and_then(number),
        in_use: value(text, "In use system memory").and_then(number).map(Bytes),
    };
    if gpu.model.is_none() && gpu.n_cores.is_none() {
        return Err(ToolError::new(TOOL, "a GPU with its model or the number of its cores", text));
    }
    Ok(gpu)
}

/// What follows `"name" =` or `"name"=`: the whole name, for there is also one that ends in `(driver)`.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("\"{name}\""))?;
    rest.trim_start().strip_prefix('=').map(str::trim_start)
}

fn quoted(value: &str) -> Option<String> {
    let (text, _) = value.trim_start_matches('<').strip_prefix('"')?.split_once('"')?;
    (!text.is_empty()).then(|| text.to_owned())
}

fn number<T: std::str::FromStr>(value: &str) -> Option<T> {
    let end = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..end].parse().ok()
}
