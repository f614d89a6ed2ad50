//! The fabric as people look at it: which links this machine has and what limits them, and what a link to another machine
//! gives. Composes `transport`'s links with the replica's secret; prints nothing and changes no setting.

mod bench;
mod look;
mod measure;
mod meet;
mod rules;

pub use bench::{DEFAULT_BENCH_PORT, FabricBench, FabricError, bench_here, bench_peer, serve_bench};
pub use look::look;
pub use measure::{BenchRow, Effort};
pub use rules::{
    Finding, Interface, InterfaceKind, InterfaceState, LinkFacts, LinkReport, RdmaPort, RdmaState,
    ThunderboltPort, judge,
};
