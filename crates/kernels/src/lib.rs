//! CPU math: matrices of quantised weights times rows, attention over a paged cache, norms, rotations. Free functions
//! over slices that take the instruction family as an argument; they know no model, no plan and no clock.
//!
//! **A row's result never depends on the other rows of its batch, on the number of threads, or on the instruction
//! family.**
#![allow(unsafe_code)]

mod activation;
mod attention;
mod buffer;
mod dequantize;
mod elementwise;
mod isa;
#[allow(clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)] // one contract, on the trait
mod lanes;
mod matmul;
mod moe;
mod norm;
mod pack;
mod pool;
mod quantize;
mod rope;

pub use activation::swiglu;
pub use attention::{KvCache, LatentCache, attention, latent_attention};
pub use dequantize::{Block, Coding, MXFP4_BITS, dequantize, fp8_row, mxfp4_row};
pub use elementwise::{add, add_assign, add_bias, argmax};
pub use isa::Isa;
pub use matmul::matmul;
pub use moe::{Expert, MoeScratch, RouterSpec, Routing, Scoring, moe, route};
pub use norm::rms_norm;
pub use pack::{PackError, PackedMatrix, check_view};
pub use pool::Pool;
pub use rope::{RopeStyle, rope, rope_table};
