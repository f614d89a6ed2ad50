//! The machines a search may choose from: how fast their memory is, what their chips reach of it, which of them are linked and
//! how. What nobody knows is `None`. It decides nothing; where the figures are from is for whoever fills them in.

use base::Bytes;

use crate::{Node, PlanError, check::unsound, fitted::Constants};

/// One machine with what the cost model needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// As a plan names it; its memory is what a GPU may use.
    pub node: Node,
    /// Bandwidth of its memory in bytes a second.
    pub bandwidth: Option<f64>,
    /// What its chip reaches of it, and how sure that is.
    pub constants: Constants,
    /// Operations a second in prefill.
    pub prefill: PrefillRates,
    /// Ports that carry a cable to one other machine.
    pub n_ports: Option<u32>,
    /// Ports of these that carry RDMA; `Some(0)` if none can.
    pub n_rdma_ports: Option<u32>,
    /// Drawn at rest, at the wall.
    pub idle_w: Option<f64>,
    /// Drawn while it computes, at the wall.
    pub active_w: Option<f64>,
    /// Price in US dollars.
    pub price_usd: Option<f64>,
}

/// Operations a second that prefill reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrefillRates {
    /// Of dense models.
    pub dense: Option<f64>,
    /// Of models with experts or a latent cache.
    pub experts: Option<f64>,
    /// Whether they were measured on this chip, not carried over from another.
    pub is_measured: bool,
}

/// A kind of link.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkKind {
    /// What people call it.
    pub name: String,
    /// Whether it carries RDMA.
    pub is_rdma: bool,
    /// A cable from port to port that does not route.
    pub is_point_to_point: bool,
    /// Each way, in bytes a second.
    pub bandwidth: Option<f64>,
    /// A small all_reduce over two machines, in seconds.
    pub all_reduce_two_s: Option<f64>,
    /// What each further machine adds to it, in seconds.
    pub all_reduce_more_s: f64,
    /// From the end of a stage to the start of the next, in seconds.
    pub hop_s: Option<f64>,
}

impl LinkKind {
    /// A small all_reduce over `n` machines, in seconds; nothing over one.
    pub fn all_reduce_s(&self, n: usize) -> Option<f64> {
        let more = n.saturating_sub(2) as f64;
        if n < 2 { Some(0.0) } else { self.all_reduce_two_s.map(|two| two + more * self.all_reduce_more_s) }
    }
}

/// Which pairs of machines are linked, and how: at most one link for a pair.
#[derive(Clone, Debug, PartialEq)]
pub struct Links {
    kinds: Vec<LinkKind>,
    n_machines: usize,
    /// Index into `kinds` for each ordered pair.
    pairs: Vec<Option<u8>>,
}

/// Kinds of links in one cluster at most.
pub const MAX_LINK_KINDS: usize = 250;
/// Machines in one cluster at most.
pub const MAX_MACHINES: usize = 4096;

impl Links {
    /// No link between any of `n_machines` machines.
    pub fn none(n_machines: usize) -> Links {
        Links { kinds: Vec::new(), n_machines, pairs: vec![None; n_machines * n_machines] }
    }

    /// Adds a kind of link, for `connect`.
    pub fn add_kind(&mut self, kind: LinkKind) -> Result<usize, PlanError> {
        if self.kinds.len() >= MAX_LINK_KINDS {
            let (expected, found) = (format!("at most {MAX_LINK_KINDS}"), self.kinds.len() + 1);
            return Err(unsound("kinds of links", expected, found));
        }
        self.kinds.push(kind);
        Ok(self.kinds.len() - 1)
    }

    /// Links two machines, instead of what linked them before.
    pub fn connect(&mut self, a: usize, b: usize, kind: usize) -> Result<(), PlanError> {
        let n = self.n_machines;
        if a >= n || b >= n || a == b || kind >= self.kinds.len() {
            return Err(unsound(
                "a link",
                format!("two of {n} machines and a kind"),
                format!("{a}, {b}, {kind}"),
            ));
        }
        for at in [a * n + b, b * n + a] {
            self.pairs[at] = Some(kind as u8);
        }
        Ok(())
    }

    /// Links every pair that has no link yet.
    pub fn connect_rest(&mut self, kind: usize) -> Result<(), PlanError> {
        for a in 0..self.n_machines {
            for b in 0..a {
                if self.between(a, b).is_none() {
                    self.connect(a, b, kind)?;
                }
            }
        }
        Ok(())
    }

    /// The link of two machines.
    pub fn between(&self, a: usize, b: usize) -> Option<&LinkKind> {
        self.pairs[a * self.n_machines + b].map(|kind| &self.kinds[usize::from(kind)])
    }

    /// Every linked pair once, the lower index first.
    pub fn iter(&self) -> impl Iterator<Item = (usize, usize, &LinkKind)> {
        let pairs = (0..self.n_machines).flat_map(move |a| (a + 1..self.n_machines).map(move |b| (a, b)));
        pairs.filter_map(|(a, b)| self.between(a, b).map(|kind| (a, b, kind)))
    }
}

/// Machines and their links.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// The machines.
    pub machines: Vec<Machine>,
    /// Their links.
    pub links: Links,
}

impl Cluster {
    /// A cluster of one machine.
    pub fn alone(machine: Machine) -> Cluster {
        Cluster { machines: vec![machine], links: Links::none(1) }
    }

    /// Figures are finite and above 0, ids unique, and no machine has more cables than ports, nor RDMA where it cannot be.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.machines.is_empty() {
            return Err(PlanError::NoNodes);
        }
        if self.machines.len() > MAX_MACHINES {
            let expected = format!("at most {MAX_MACHINES}");
            return Err(unsound("machines of the cluster", expected, self.machines.len()));
        }
        if self.links.n_machines != self.machines.len() {
            return Err(unsound("machines of the links", self.machines.len(), self.links.n_machines));
        }
        self.machines.iter().try_for_each(check_figures)?;
        (0..self.machines.len()).try_for_each(|i| self.check_ports(i))
    }

    fn check_ports(&self, i: usize) -> Result<(), PlanError> {
        let machine = &self.machines[i];
        let kinds = || {
            let others = (0..self.machines.len()).filter(move |&j| j != i);
            others.filter_map(move |j| self.links.between(i, j))
        };
        let (n_cables, n_rdma) = (
            kinds().filter(|kind| kind.is_point_to_point).count(),
            kinds().filter(|kind| kind.is_rdma).count(),
        );
        let limits = [(n_cables, machine.n_ports, "cables"), (n_rdma, machine.n_rdma_ports, "RDMA links")];
        for (found, limit, what) in limits {
            if let Some(limit) = limit
                && found > limit as usize
            {
                let (node, expected) = (machine.node.name.clone(), limit);
                return Err(PlanError::Ports { node, what, expected, found });
            }
        }
        Ok(())
    }

    /// Memory of all machines.
    pub fn memory(&self) -> Bytes {
        self.machines.iter().map(|m| m.node.memory).sum()
    }
}

fn check_figures(machine: &Machine) -> Result<(), PlanError> {
    let figures = [
        ("memory bandwidth", machine.bandwidth),
        ("prefill rate of dense models", machine.prefill.dense),
        ("prefill rate of models with experts", machine.prefill.experts),
        ("watts at rest", machine.idle_w),
        ("watts while computing", machine.active_w),
        ("price", machine.price_usd),
    ];
    for (what, figure) in figures {
        if let Some(found) = figure.filter(|f| !f.is_finite() || *f <= 0.0) {
            return Err(unsound(format!("{what} of {}", machine.node.name), "above 0", found));
        }
    }
    Ok(())
}
