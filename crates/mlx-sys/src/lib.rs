//! MLX's arrays and operations behind a safe interface: a thin C++ shim over the library of an unpacked wheel, every exception
//! an [`Error`]. It knows no models and no ranks. Without the feature `link` it is empty.
#![cfg(feature = "link")]
#![allow(unsafe_code)] // the border to C++ is what this crate is

mod array;
mod callbacks;
mod error;
mod ffi;
mod index;
mod mlx;

pub use array::{Array, Dtype};
pub use callbacks::{Engine, Group};
pub use error::Error;
pub use index::Index;
pub use mlx::{Graph, Mlx, Quantized, Rotation};
