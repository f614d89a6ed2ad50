//! The parts that compute with MLX; a process runs one of them, on its main thread.

use anyhow::Result;
use backend::{BackendError, MlxBackend, MlxGroup, MlxOptions};
use base::DType;
use collective::Solo;
use serde_json::json;

use super::{conformance, outcome::Outcome};

/// Which MLX this is.
pub(super) fn device() -> Result<Outcome> {
    let mlx = backend(DType::F32)?;
    Ok(Outcome::passed(json!({"version": mlx.version(), "has_gpu": mlx.has_gpu()})))
}

/// The conformance suite.
pub(super) fn conformance(activations: DType) -> Result<Outcome> {
    let has_gpu = backend(activations)?.has_gpu();
    let held = |check: &str| MlxBackend::promises(activations, has_gpu, check);
    let how = format!("mlx on the {} in {activations}", if has_gpu { "GPU" } else { "CPU" });
    Ok(conformance::hold(&how, &mut || backend(activations), &MlxBackend::tolerance(activations), &held))
}

/// As ranks have it: chains of elementwise operations become one kernel where that takes no compiler.
fn backend(activations: DType) -> Result<MlxBackend, BackendError> {
    let options = MlxOptions { memory: None, activations, fuse: cfg!(target_os = "macos") };
    MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo)))
}
