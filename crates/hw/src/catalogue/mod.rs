//! Machines and links that can be planned with, whether or not one owns them: data with the figures' provenance, embedded
//! as TOML. What nobody has told is `None`. It does not know which machines are here, nor what they are good for.

mod load;

use std::fmt;

use base::Bytes;
use serde::Deserialize;

use crate::nearest::nearest;

/// Chips, machines and links as they come with the program: name of the file, content.
const EMBEDDED: [(&str, &str); 3] = [
    ("chips.toml", include_str!("../../catalogue/chips.toml")),
    ("machines.toml", include_str!("../../catalogue/machines.toml")),
    ("links.toml", include_str!("../../catalogue/links.toml")),
];
/// Macs wire about two thirds of their memory for the GPU up to this much, and three quarters above.
const SMALL_MAC_MEMORY: Bytes = Bytes(36 << 30);

/// Everything there is a name for.
#[derive(Clone, Debug, PartialEq)]
pub struct Catalogue {
    /// Chips of Macs, oldest first.
    pub chips: Vec<Chip>,
    /// Macs, then devices for comparison.
    pub machines: Vec<MachineKind>,
    /// Links, fastest first.
    pub links: Vec<LinkKind>,
}

/// A number and where it is from.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(from = "(f64, Provenance)")]
pub struct Figure {
    /// The number, in the unit that the field's name ends with; above 0.
    pub value: f64,
    /// How far it can be trusted.
    pub provenance: Provenance,
}

/// Where a figure is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// By people who own one.
    Measured,
    /// Its maker says so.
    Vendor,
    /// Computed from other figures.
    Derived,
    /// For want of better.
    Estimated,
}

/// Generation of a Thunderbolt port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "u8")]
pub enum ThunderboltGeneration {
    /// 40 Gb/s.
    Tb3,
    /// 40 Gb/s.
    Tb4,
    /// 80 Gb/s, and RDMA between Macs.
    Tb5,
}

/// What computes, and how fast.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compute {
    /// Of its memory, in 10^9 bytes a second.
    pub bandwidth_gb_s: Figure,
    /// What the GPU's shaders could do with FP16, in 10^12 operations a second.
    pub fp16_tflops: Option<Figure>,
    /// What engines reach in prefill of dense models, in 10^12 operations a second.
    pub prefill_dense_tflops: Option<Figure>,
    /// The same of models with experts.
    pub prefill_moe_tflops: Option<Figure>,
}

/// A chip of a Mac with a number of GPU cores.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    /// Unique among chips.
    pub name: String,
    /// As macOS calls it; versions that differ in GPU cores share it.
    pub title: String,
    /// Cores of its GPU.
    pub n_gpu_cores: u32,
    /// The most memory it comes with.
    pub max_memory: Bytes,
    /// What its ports can be.
    pub thunderbolt: ThunderboltGeneration,
    /// Its speed.
    pub compute: Compute,
    /// What else is to be known, for people.
    pub note: Option<String>,
}

/// What sort of thing a machine kind is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// A Mac.
    Mac,
    /// A GPU that needs a machine around it.
    GpuCard,
    /// A machine around a GPU.
    GpuBox,
}

/// A machine as it is sold, with its memory.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineKind {
    /// Unique among machines, as in `mac-studio-m3-ultra-512`.
    pub name: String,
    /// For people.
    pub title: String,
    /// What sort of thing it is.
    pub family: Family,
    /// What the system calls the model; the versions with more or less memory share it.
    pub identifiers: Vec<String>,
    /// Name of its chip in the catalogue, if it is there.
    pub chip: Option<String>,
    /// All its memory.
    pub memory: Bytes,
    /// What a GPU may use of it unless somebody changes the limit: for Macs the safe default, for others all.
    pub gpu_memory: Bytes,
    /// Its speed.
    pub compute: Compute,
    /// Its ports for links between machines, if it has such.
    pub thunderbolt: Option<Thunderbolt>,
    /// Drawn at rest, at the wall.
    pub idle_w: Option<Figure>,
    /// Drawn while it decodes, at the wall.
    pub decode_w: Option<Figure>,
    /// Drawn at most.
    pub max_w: Option<Figure>,
    /// New, without tax, in US dollars.
    pub price_usd: Option<Figure>,
    /// What else is to be known, for people.
    pub note: Option<String>,
}

/// Thunderbolt ports of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thunderbolt {
    /// Of all of them.
    pub generation: ThunderboltGeneration,
    /// How many carry a link.
    pub n_ports: Option<u32>,
    /// How many carry RDMA: none before Thunderbolt 5.
    pub n_rdma_ports: Option<u32>,
}

/// What a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Carries {
    /// Verbs.
    Rdma,
    /// TCP and whatever else runs over IP.
    Ip,
    /// Loads and stores.
    Memory,
}

/// A kind of link between two machines, or two processes of one.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkKind {
    /// Unique among links, as in `tb5-rdma`.
    pub name: String,
    /// For people.
    pub title: String,
    /// What it carries.
    pub carries: Carries,
    /// The least that the ports at both ends must be, if it runs over Thunderbolt.
    pub thunderbolt: Option<ThunderboltGeneration>,
    /// A cable from port to port that does not route: one port for every peer.
    pub is_point_to_point: bool,
    /// Between processes of one machine only.
    pub is_inside_machine: bool,
    /// One way, of a small message, in microseconds.
    pub latency_us: Option<Figure>,
    /// Each way, in 10^9 bytes a second.
    pub bandwidth_gb_s: Option<Figure>,
    /// An `all_reduce` of a hidden state over two machines, in microseconds.
    pub all_reduce_two_us: Option<Figure>,
    /// The same over four.
    pub all_reduce_four_us: Option<Figure>,
    /// From the end of a stage to the start of the next in an engine, in milliseconds.
    pub hop_ms: Option<Figure>,
    /// The longest message it takes.
    pub max_message: Option<Bytes>,
    /// What else is to be known, for people.
    pub note: Option<String>,
}

/// Why a catalogue cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("catalogue {file}, {entry}: {problem}")]
pub struct CatalogueError {
    /// Which of its files.
    pub file: String,
    /// Which entry: its name, or its place if it has none.
    pub entry: String,
    /// The field, what was expected and what was found.
    pub problem: String,
}

/// A name that is not in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no {what} called {name:?} in the catalogue{}", did_you_mean(.nearest))]
pub struct UnknownName {
    /// What was looked for: "machine" or "link".
    pub what: &'static str,
    /// The name.
    pub name: String,
    /// Names that look like it, nearest first.
    pub nearest: Vec<String>,
}

impl Catalogue {
    /// The catalogue that comes with the program. A test holds that it has no error.
    pub fn embedded() -> Result<Catalogue, CatalogueError> {
        load::catalogue(&EMBEDDED)
    }

    /// The machine kind of that name.
    pub fn machine(&self, name: &str) -> Result<&MachineKind, UnknownName> {
        named(&self.machines, "machine", name, |kind| &kind.name)
    }

    /// The link kind of that name.
    pub fn link(&self, name: &str) -> Result<&LinkKind, UnknownName> {
        named(&self.links, "link", name, |kind| &kind.name)
    }

    /// The chip that a Mac calls `title`, with so many GPU cores if that is known; the only one of that title otherwise.
    pub fn chip(&self, title: &str, n_gpu_cores: Option<u32>) -> Option<&Chip> {
        let mut of_title = self.chips.iter().filter(|chip| chip.title == title);
        let exact = of_title.clone().find(|chip| Some(chip.n_gpu_cores) == n_gpu_cores);
        let first = of_title.next();
        exact.or(if of_title.next().is_none() { first } else { None })
    }

    /// The Macs that call themselves `identifier`, as in `Mac15,14`, with any memory.
    pub fn macs(&self, identifier: &str) -> impl Iterator<Item = &MachineKind> {
        self.machines.iter().filter(move |kind| kind.identifiers.iter().any(|id| id == identifier))
    }
}

impl Compute {
    /// What engines reach in prefill, in 10^12 operations a second, where it has been measured.
    pub fn prefill_tflops(&self, has_experts: bool) -> Option<Figure> {
        if has_experts { self.prefill_moe_tflops } else { self.prefill_dense_tflops }
    }
}

/// What a Mac's GPU may use of its memory unless somebody changes the limit: the safe default for planning.
pub fn mac_gpu_memory(memory: Bytes) -> Bytes {
    let (part, of) = if memory <= SMALL_MAC_MEMORY { (2, 3) } else { (3, 4) };
    Bytes(memory.0 / of * part)
}

fn named<'a, T>(
    all: &'a [T],
    what: &'static str,
    name: &str,
    name_of: impl Fn(&T) -> &str,
) -> Result<&'a T, UnknownName> {
    all.iter().find(|one| name_of(one) == name).ok_or_else(|| UnknownName {
        what,
        name: name.to_owned(),
        nearest: nearest(name, all.iter().map(name_of)),
    })
}

fn did_you_mean(nearest: &[String]) -> String {
    match nearest {
        [] => String::new(),
        names => format!("\nhint: did you mean {}?", names.join(" or ")),
    }
}

impl From<(f64, Provenance)> for Figure {
    fn from((value, provenance): (f64, Provenance)) -> Figure {
        Figure { value, provenance }
    }
}

impl TryFrom<u8> for ThunderboltGeneration {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            3 => Ok(Self::Tb3),
            4 => Ok(Self::Tb4),
            5 => Ok(Self::Tb5),
            _ => Err(format!("expected a generation of Thunderbolt from 3 to 5, found {number}")),
        }
    }
}

impl fmt::Display for ThunderboltGeneration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tb3 => "Thunderbolt 3",
            Self::Tb4 => "Thunderbolt 4",
            Self::Tb5 => "Thunderbolt 5",
        })
    }
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Measured => "measured",
            Self::Vendor => "vendor",
            Self::Derived => "derived",
            Self::Estimated => "estimated",
        })
    }
}
