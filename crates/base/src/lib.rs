//! Domain types shared by every layer: ids, sizes, number formats, the shape of a model, a batch, a request.
//! Plain data only: no I/O, no clock, no serialisation, no architecture names.

mod affine;
mod batch;
mod bytes;
mod dtype;
mod ids;
mod matrix;
mod request;
mod scaled;
mod spec;

pub use affine::{AffineView, WeightView};
pub use batch::{Batch, SeqSlice, Step};
pub use bytes::Bytes;
pub use dtype::DType;
pub use ids::{BlockId, NodeId, RankId, RequestId, SeqId, TokenId};
pub use matrix::MatrixView;
pub use request::{FinishReason, Output, Request, SampleSpec, Sampled, SamplingParams, Usage};
pub use scaled::{Fp8View, Mxfp4View};
pub use spec::{LayerBytes, ModelSpec, Shard};
