//! A cluster that somebody describes: which machines, how many, and what links them. Two ways to write it down, one type; what
//! the catalogue knows of the machines and links is copied in. It does not know what is really there, nor what runs on it.

mod file;
mod short;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::catalogue::{Carries, Catalogue, LinkKind, MachineKind, Thunderbolt, UnknownName};

/// Machines of a cluster at most.
pub const MAX_MEMBERS: usize = 4096;
/// Length of a description at most, in bytes.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Machines and the links between them.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// At least one, with names that are unique.
    pub members: Vec<Member>,
    /// A pair of members may have none, one, or several.
    pub links: Vec<ClusterLink>,
}

/// One machine of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub kind: MachineKind,
    /// What it costs its owner in US dollars: the catalogue's price unless the description has its own.
    pub price_usd: Option<f64>,
}

/// Links of one kind among some members.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterLink {
    /// What they are.
    pub kind: LinkKind,
    /// Places of the members in the cluster, ascending: every pair of them is linked. At least two.
    pub among: Vec<usize>,
    /// Cables between each pair; 1 where there are no cables.
    pub n_cables: u32,
    /// What all of it costs, switch and cables, in US dollars, if the description says so.
    pub price_usd: Option<f64>,
}

/// Why a description is no cluster.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ClusterError {
    /// A machine or link that the catalogue does not have.
    #[error(transparent)]
    Unknown(#[from] UnknownName),
    /// A part of the short form.
    #[error(
        "cluster {text:?}: expected {expected}, found {found:?}\nhint: write it like 2x mac-studio-m3-ultra-512 + 1x macbook-pro-m4-max-128 over tb5-ip"
    )]
    Short {
        /// All of it.
        text: String,
        /// What would have been understood.
        expected: &'static str,
        /// What was there.
        found: String,
    },
    /// A file that is not written as it should be.
    #[error("cluster file: {problem}")]
    File {
        /// The entry, the field, what was expected and found.
        problem: String,
    },
    /// Too few or too many machines.
    #[error("cluster: expected from 1 to {MAX_MEMBERS} machines, found {found}")]
    Size {
        /// How many there are.
        found: u64,
    },
    /// A description that is too long to be one.
    #[error("cluster: expected at most {MAX_TEXT_BYTES} bytes, found {found}")]
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// A link over Thunderbolt at a machine that has no such port.
    #[error(
        "{member}: expected {expected} for {link}, found {found}\nhint: link it over {}", instead(.link)
    )]
    NoPort {
        /// The machine.
        member: String,
        /// The kind of link.
        link: String,
        /// The ports that the link needs.
        expected: String,
        /// The ports that the machine has.
        found: String,
    },
    /// More peers than ports.
    #[error(
        "{member}: expected a port for each cable, {expected} for {link}, found {found}\nhint: link fewer machines this way, or write a file with links between neighbours only"
    )]
    TooFewPorts {
        /// The machine.
        member: String,
        /// The kinds of link.
        link: String,
        /// Cables that end at it.
        expected: u64,
        /// Its ports for that.
        found: u32,
    },
    /// A link inside a machine, between machines.
    #[error(
        "{link}: expected a link between machines, found one inside a machine\nhint: link them over 10gbe, say"
    )]
    InsideMachine {
        /// The kind of link.
        link: String,
    },
}

impl Cluster {
    /// Reads the short form, as in `4x mac-studio-m3-ultra-512 over tb5-rdma`: machines of any kinds with `+` between them,
    /// each with its count (1 if absent), and after `over` the kind of link that every pair has. One machine needs no link.
    pub fn from_short(text: &str, catalogue: &Catalogue) -> Result<Cluster, ClusterError> {
        check_length(text)?;
        short::parse(text, catalogue)?.checked()
    }

    /// Reads the file form, TOML:
    ///
    /// ```toml
    /// over = "10gbe"                        # every pair has this link; may be absent
    ///
    /// [[machine]]
    /// kind = "mac-studio-m3-ultra-512"
    /// count = 2                             # 1 if absent
    /// name = "studio"                       # its kind if absent; several are studio-1, studio-2
    /// price_usd = 8000                      # of each; the catalogue's if absent
    ///
    /// [[link]]
    /// kind = "tb5-rdma"
    /// between = ["studio"]                  # names of machines or entries: every pair of them
    /// cables = 1                            # 1 if absent
    /// price_usd = 70                        # of all of it; unknown if absent
    /// ```
    pub fn from_toml(text: &str, catalogue: &Catalogue) -> Result<Cluster, ClusterError> {
        check_length(text)?;
        file::parse(text, catalogue)?.checked()
    }

    /// The kinds of link between two members, as the description lists them.
    pub fn links_between(&self, a: usize, b: usize) -> impl Iterator<Item = &ClusterLink> {
        let has = |link: &ClusterLink, member| link.among.binary_search(&member).is_ok();
        self.links.iter().filter(move |link| a != b && has(link, a) && has(link, b))
    }

    /// What it costs in US dollars, if every price is known; links without a price are taken to be there.
    pub fn price_usd(&self) -> Option<f64> {
        let machines: Option<f64> = self.members.iter().map(|member| member.price_usd).sum();
        Some(machines? + self.links.iter().filter_map(|link| link.price_usd).sum::<f64>())
    }

    /// Holds machines and links to what ports can do.
    fn checked(self) -> Result<Cluster, ClusterError> {
        if let Some(link) = self.links.iter().find(|link| link.kind.is_inside_machine) {
            return Err(ClusterError::InsideMachine { link: link.kind.name.clone() });
        }
        for link in &self.links {
            for &place in &link.among {
                check_generation(&self.members[place], &link.kind)?;
            }
        }
        (0..self.members.len()).try_for_each(|place| self.check_ports(place))?;
        Ok(self)
    }

    /// Whether a member has a port for each cable. A cable that carries RDMA carries IP too.
    fn check_ports(&self, place: usize) -> Result<(), ClusterError> {
        let member = &self.members[place];
        let Some(Thunderbolt { n_ports, n_rdma_ports, .. }) = member.kind.thunderbolt else { return Ok(()) };
        let (mut rdma, mut all) = (BTreeMap::new(), BTreeMap::new());
        let cables = self.links.iter().filter(|link| link.kind.is_point_to_point);
        for link in cables.filter(|link| link.among.binary_search(&place).is_ok()) {
            let is_rdma = link.kind.carries == Carries::Rdma;
            let n_cables = u64::from(link.n_cables) * (link.among.len() as u64 - 1);
            // first the sum, so that no more than a machine's ports are ever listed
            check_ports(member, &link.kind.name, n_cables, if is_rdma { n_rdma_ports } else { n_ports })?;
            if n_ports.is_none() {
                continue; // how many it has nobody has told
            }
            for peer in link.among.iter().filter(|peer| **peer != place) {
                let most = |cables: &mut BTreeMap<usize, u32>| {
                    let known = cables.entry(*peer).or_default();
                    *known = link.n_cables.max(*known);
                };
                most(&mut all);
                if is_rdma {
                    most(&mut rdma);
                }
            }
        }
        let sum = |cables: BTreeMap<usize, u32>| cables.into_values().map(u64::from).sum();
        check_ports(member, "RDMA over Thunderbolt", sum(rdma), n_rdma_ports)?;
        check_ports(member, "Thunderbolt", sum(all), n_ports)
    }
}

fn check_ports(member: &Member, link: &str, expected: u64, found: Option<u32>) -> Result<(), ClusterError> {
    match found {
        Some(found) if u64::from(found) < expected => Err(ClusterError::TooFewPorts {
            member: member.name.clone(),
            link: link.to_owned(),
            expected,
            found,
        }),
        _ => Ok(()),
    }
}

fn check_length(text: &str) -> Result<(), ClusterError> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(ClusterError::Length { found: text.len() });
    }
    Ok(())
}

fn check_generation(member: &Member, link: &LinkKind) -> Result<(), ClusterError> {
    let Some(expected) = link.thunderbolt else { return Ok(()) };
    let found = member.kind.thunderbolt.map(|ports| ports.generation);
    if found.is_some_and(|found| found >= expected) {
        return Ok(());
    }
    Err(ClusterError::NoPort {
        member: member.name.clone(),
        link: link.name.clone(),
        expected: expected.to_string(),
        found: found.map_or_else(|| "no Thunderbolt port".to_owned(), |found| found.to_string()),
    })
}

fn instead(link: &str) -> &'static str {
    if link.starts_with("tb5") { "tb4-ip or 10gbe" } else { "10gbe" }
}

/// `count` members of one kind; several get numbers.
fn members(name: &str, count: u32, kind: &MachineKind, price_usd: Option<f64>) -> Vec<Member> {
    let price_usd = price_usd.or(kind.price_usd.map(|price| price.value));
    let member = |name: String| Member { name, kind: kind.clone(), price_usd };
    match count {
        1 => vec![member(name.to_owned())],
        _ => (1..=count).map(|n| member(format!("{name}-{n}"))).collect(),
    }
}

/// The sizes of the groups of machines, before anything of that size is made.
fn check_size(counts: impl Iterator<Item = u32>) -> Result<(), ClusterError> {
    let found = counts.map(u64::from).sum();
    if found == 0 || found > MAX_MEMBERS as u64 {
        return Err(ClusterError::Size { found });
    }
    Ok(())
}
