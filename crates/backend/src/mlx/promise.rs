//! How near to 64-bit arithmetic MLX's results are promised to be for each format of activations, and which MLX promises it. What
//! is checked is the conformance suite's affair.

use base::DType;

use super::MlxBackend;
use crate::conformance::Tolerance;

/// Checks that give 32-bit values and want them back as they were, which 16 bits cannot keep.
const EXACT: [&str; 5] = ["add", "select_rows", "all_reduce of one", "clones", "tokens drawn and embedded"];
/// Beginnings of the names of checks of products. MLX's CPU build adds 16-bit ones up in 16 bits, which no GPU does, and has
/// no gathered ones.
const PRODUCTS: [&str; 2] = ["linear", "experts"];

impl MlxBackend {
    /// What results are held to with these activations.
    pub fn tolerance(activations: DType) -> Tolerance {
        let (value, company) = match activations {
            DType::BF16 => (1e-1, 1e-1),
            DType::F16 => (1e-2, 1e-2),
            _ => (1e-4, 1e-5),
        };
        Tolerance { value, cache: value, company, rounds_inputs: false, weight_step }
    }

    /// Whether the conformance check of this name is promised to pass with these activations.
    pub fn promises(activations: DType, has_gpu: bool, check: &str) -> bool {
        let is_product = PRODUCTS.iter().any(|name| check.starts_with(name));
        activations == DType::F32 || !EXACT.contains(&check) && (has_gpu || !is_product)
    }
}

/// Groups of 16 become 8-bit codes over 32.
fn weight_step(dtype: DType) -> f64 {
    if matches!(dtype, DType::Q2_K | DType::Q3_K | DType::Q6_K) { 1.0 / 510.0 } else { 0.0 }
}
