//! What processes say to each other: versioned, framed messages, and the handshake by which they know each other.
//! Speaks in the types of `base` and `plan`, which stay free of serialisation; sends nothing anywhere by itself.
//!
//! A frame is 12 bytes of header (magic `1fwr`, wire version `u16`, kind `u16`, body length `u32`, little-endian), then
//! the body in postcard's format. Whatever arrives is checked before it becomes a value: a plan passes `Plan::new`
//! again, a step's counts add up.
//!
//! | kind | message | from → to |
//! |---|---|---|
//! | 1 | [`ToRank`] | node → rank |
//! | 2 | [`FromRank`] | rank → node |
//! | 3 | [`base::Step`] | rank 0 → all ranks |
//! | 4 | `Vec<`[`base::Sampled`]`>` | sampling rank → rank 0 |
//! | 5, 6 | [`handshake`] | both ways, first thing on every connection |

mod error;
mod frame;
pub mod handshake;
mod messages;
mod mirror;
mod mirror_plan;

pub use error::WireError;
pub use frame::{
    HEADER_BYTES, MAX_FRAME_BYTES, Message, decode, decode_sampled, decode_step, encode, encode_sampled,
    encode_step, read_frame, write_frame,
};
pub use messages::{FromRank, Init, MlxPeers, Stats, ToRank};

/// Version of every frame and of the handshake. Both ends must have the same; any change of a golden byte raises it.
pub const WIRE_VERSION: u16 = 4;
