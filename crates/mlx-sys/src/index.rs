//! Indices whose largest value is known, because MLX reads where an index points without looking.

use crate::array::Array;

/// Numbers of rows, each less than `bound`.
#[derive(Clone)]
pub struct Index {
    pub(crate) array: Array,
    pub(crate) bound: usize,
}

impl Index {
    /// The numbers as values.
    pub fn array(&self) -> &Array {
        &self.array
    }
}
