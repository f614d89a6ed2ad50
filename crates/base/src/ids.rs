//! Ids as types, so that a rank is never mistaken for a node or a token for a block.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $int:ty, $label:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($label, "{}"), self.0)
            }
        }
    };
}

id!(
    /// One entry of the vocabulary.
    TokenId, u32, "token "
);
id!(
    /// One process of a replica, counted from 0 in the plan's order.
    RankId, u32, "rank "
);
id!(
    /// One machine.
    NodeId, u32, "node "
);
id!(
    /// One block of the paged KV cache; the same number on every rank.
    BlockId, u32, "block "
);
id!(
    /// One sequence inside the engine.
    SeqId, u64, "sequence "
);
id!(
    /// One request as its submitter counts them.
    RequestId, u64, "request "
);

impl RankId {
    /// Position in arrays that are indexed by rank.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
