//! The router driven as a tower service over a fake engine: the tests take the client's commands and deliver the
//! outputs. Nothing here computes a token.

#![allow(missing_docs, clippy::unwrap_used)]

mod answers;
mod cancel;
mod fuzz;
mod refusals;
mod rig;
mod surface;
mod tools;
