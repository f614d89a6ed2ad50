//! What ranks compute with and who sums inside a layer: the words, what is chosen when nobody asks, and the proof that a
//! choice can run. It knows nothing of how any of it is done.

use std::fmt;

use base::NodeId;

use crate::check::node_of;
use crate::{Goal, Node, PlanError, PlanParts, RankPlan, Topology};

/// What a rank computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// This project's own kernels.
    Cpu,
    /// Apple's MLX.
    Mlx,
}

/// Who sums over the ranks of a stage inside a layer. Hidden states and logits travel over our own links in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collectives {
    /// Our own group.
    Onefold,
    /// MLX's ring over TCP.
    MlxRing,
    /// MLX's RDMA over Thunderbolt.
    MlxJaccl,
}

/// How a collective inside a graph waits for a GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fence {
    /// By the system's events.
    #[default]
    Safe,
    /// By spinning on shared memory: far faster, and known to have wedged GPUs.
    Fast,
}

/// The name of every value, as it is typed and printed.
macro_rules! names {
    ($kind:ident { $($value:ident: $name:literal),* }) => {
        impl $kind {
            /// Every value.
            pub const ALL: &[$kind] = &[$($kind::$value),*];

            /// As people type it.
            pub fn name(self) -> &'static str {
                match self { $($kind::$value => $name),* }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

names!(BackendKind { Cpu: "cpu", Mlx: "mlx" });
names!(Collectives { Onefold: "onefold", MlxRing: "mlx-ring", MlxJaccl: "mlx-jaccl" });
names!(Fence { Safe: "safe", Fast: "fast" });

/// Gives every rank the backend asked for; else each stage the first one its first node offers that all its nodes
/// offer. A stage whose nodes have none in common is left to the check.
pub(crate) fn choose_backends(
    ranks: &mut [RankPlan],
    topology: &Topology,
    goal: &Goal,
) -> Result<(), PlanError> {
    let n_ranks = ranks.len();
    match goal.backends.as_deref() {
        None => {
            for stage in ranks.chunk_by_mut(|a, b| a.stage == b.stage) {
                let nodes: Vec<&Node> =
                    stage.iter().map(|r| node_of(topology, r.node)).collect::<Result<_, _>>()?;
                let in_all = |kind: &&BackendKind| nodes.iter().all(|n| n.backends.contains(kind));
                let common = nodes[0].backends.iter().find(in_all);
                for (r, node) in stage.iter_mut().zip(&nodes) {
                    r.backend = *common.unwrap_or(&node.backends[0]);
                }
            }
        }
        Some([all]) => ranks.iter_mut().for_each(|r| r.backend = *all),
        Some(each) if each.len() == n_ranks => {
            ranks.iter_mut().zip(each).for_each(|(r, backend)| r.backend = *backend);
        }
        Some(each) => return Err(PlanError::BackendCount { n_ranks, found: each.len() }),
    }
    Ok(())
}

/// The collectives asked for; else MLX's own where all conditions hold under which they are proven.
pub(crate) fn choose_collectives(
    ranks: &[RankPlan],
    topology: &Topology,
    goal: &Goal,
) -> Result<Collectives, PlanError> {
    let collectives = goal.collectives.unwrap_or_else(|| {
        let is_apart = |id: NodeId| ranks.iter().filter(|r| r.node == id).count() == 1;
        let is_proven = goal.tp > 1
            && ranks.iter().all(|r| r.backend == BackendKind::Mlx && is_apart(r.node))
            && used(ranks, topology).all(|n| n.is_mac);
        match is_proven {
            true if goal.has_jaccl_devices => Collectives::MlxJaccl,
            true => Collectives::MlxRing,
            false => Collectives::Onefold,
        }
    });
    match collectives {
        Collectives::MlxJaccl if !goal.has_jaccl_devices => Err(PlanError::JacclDevices),
        _ => Ok(collectives),
    }
}

/// Every node offers a backend, each once.
pub(crate) fn check_offers(node: &Node) -> Result<(), PlanError> {
    let twice = (1..node.backends.len()).any(|i| node.backends[..i].contains(&node.backends[i]));
    if twice || node.backends.is_empty() {
        let (what, expected) = (format!("backends of {}", node.name), "at least 1, each once".to_owned());
        return Err(PlanError::Unsound { what, expected, found: list(&node.backends) });
    }
    Ok(())
}

/// A rank's node offers its backend, a stage has one backend, and the collectives' conditions hold.
pub(crate) fn check_backends(parts: &PlanParts) -> Result<(), PlanError> {
    for r in &parts.ranks {
        let node = node_of(&parts.topology, r.node)?;
        if !node.backends.contains(&r.backend) {
            let (rank, backend, node, offers) = (r.rank, r.backend, node.name.clone(), list(&node.backends));
            return Err(PlanError::NotOffered { rank, backend, node, offers });
        }
    }
    for pair in parts.ranks.windows(2).filter(|pair| pair[0].stage == pair[1].stage) {
        let [a, b] = [&pair[0], &pair[1]].map(|r| (r.rank, r.backend));
        if a.1 != b.1 {
            return Err(PlanError::MixedBackends { stage: pair[0].stage, a, b });
        }
    }
    check_collectives(parts)
}

fn check_collectives(parts: &PlanParts) -> Result<(), PlanError> {
    let collectives = parts.collectives;
    let refuse = |expected, found| Err(PlanError::Collectives { collectives, expected, found });
    if collectives == Collectives::Onefold {
        return Ok(());
    }
    if let Some(r) = parts.ranks.iter().find(|r| r.backend != BackendKind::Mlx) {
        return refuse("every rank on mlx", format!("{} on {}", r.rank, r.backend));
    }
    if parts.ranks.iter().all(|r| r.tp_index == 0) {
        return refuse("several ranks in each stage", "one".to_owned());
    }
    let other = used(&parts.ranks, &parts.topology).find(|n| !n.is_mac);
    match other.filter(|_| collectives == Collectives::MlxJaccl) {
        Some(node) => refuse("Macs only", node.name.clone()),
        None => Ok(()),
    }
}

/// The nodes that hold ranks.
fn used<'a>(ranks: &'a [RankPlan], topology: &'a Topology) -> impl Iterator<Item = &'a Node> {
    topology.nodes.iter().filter(|n| ranks.iter().any(|r| r.node == n.id))
}

fn list(kinds: &[BackendKind]) -> String {
    let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
