//! The catalogue's TOML: how it is written, and what must hold of it. An error names the file, the entry and the field. What
//! figures mean is in the types one level up.

use std::collections::HashSet;

use base::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use toml::{Table, Value};

use super::{
    Carries, Catalogue, CatalogueError, Chip, Compute, Family, Figure, LinkKind, MachineKind, Thunderbolt,
    ThunderboltGeneration, mac_gpu_memory,
};

/// Memory of a machine at most, in GiB: keeps arithmetic with it far from its limits.
const MAX_MEMORY_GIB: u64 = 1 << 20;

/// Reads and checks files: name, content.
pub(super) fn catalogue(files: &[(&str, &str)]) -> Result<Catalogue, CatalogueError> {
    let mut catalogue = Catalogue { chips: Vec::new(), machines: Vec::new(), links: Vec::new() };
    for (file, text) in files {
        let tables: Table = text.parse().map_err(|e: toml::de::Error| error(file, "the file", e))?;
        for (kind, entries) in tables {
            let Value::Array(entries) = entries else {
                return Err(error(file, &kind, "expected tables like [[chip]], found a value"));
            };
            for (place, entry) in entries.into_iter().enumerate() {
                let name = entry.get("name").and_then(Value::as_str).map(str::to_owned);
                let name = name.unwrap_or_else(|| format!("number {}", place + 1));
                add(&mut catalogue, &kind, entry).map_err(|e| error(file, &format!("{kind} {name}"), e))?;
            }
        }
    }
    unique("chip", catalogue.chips.iter().map(|chip| &chip.name))?;
    unique("machine", catalogue.machines.iter().map(|kind| &kind.name))?;
    unique("link", catalogue.links.iter().map(|kind| &kind.name))?;
    Ok(catalogue)
}

fn error(file: &str, entry: &str, problem: impl ToString) -> CatalogueError {
    let problem = problem.to_string().trim_end().to_owned();
    CatalogueError { file: file.to_owned(), entry: entry.to_owned(), problem }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a String>) -> Result<(), CatalogueError> {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(error("as a whole", &format!("{what} {name}"), "its name is there twice"));
        }
    }
    Ok(())
}

fn add(catalogue: &mut Catalogue, kind: &str, entry: Value) -> Result<(), String> {
    match kind {
        "chip" => catalogue.chips.push(read::<ChipEntry>(entry)?.checked()?),
        "mac" => {
            let macs = read::<MacEntry>(entry)?.checked(&catalogue.chips)?;
            catalogue.machines.extend(macs);
        }
        "gpu" => catalogue.machines.push(read::<GpuEntry>(entry)?.checked()?),
        "link" => catalogue.links.push(read::<LinkEntry>(entry)?.checked()?),
        _ => return Err("expected [[chip]], [[mac]], [[gpu]] or [[link]]".to_owned()),
    }
    Ok(())
}

fn read<T: DeserializeOwned>(entry: Value) -> Result<T, String> {
    entry.try_into().map_err(|error: toml::de::Error| error.to_string())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChipEntry {
    name: String,
    title: String,
    n_gpu_cores: u32,
    max_memory_gib: u64,
    thunderbolt: ThunderboltGeneration,
    bandwidth_gb_s: Figure,
    fp16_tflops: Option<Figure>,
    prefill_dense_tflops: Option<Figure>,
    prefill_moe_tflops: Option<Figure>,
    note: Option<String>,
}

impl ChipEntry {
    fn checked(self) -> Result<Chip, String> {
        let compute = Compute {
            bandwidth_gb_s: self.bandwidth_gb_s,
            fp16_tflops: self.fp16_tflops,
            prefill_dense_tflops: self.prefill_dense_tflops,
            prefill_moe_tflops: self.prefill_moe_tflops,
        };
        is_positive("bandwidth_gb_s", Some(compute.bandwidth_gb_s))?;
        is_positive("fp16_tflops", compute.fp16_tflops)?;
        is_positive("prefill_dense_tflops", compute.prefill_dense_tflops)?;
        is_positive("prefill_moe_tflops", compute.prefill_moe_tflops)?;
        Ok(Chip {
            name: word(self.name)?,
            title: self.title,
            n_gpu_cores: self.n_gpu_cores,
            max_memory: gib("max_memory_gib", self.max_memory_gib)?,
            thunderbolt: self.thunderbolt,
            compute,
            note: self.note,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MacEntry {
    name: String,
    title: String,
    identifiers: Vec<String>,
    thunderbolt: Ports,
    idle_w: Option<Figure>,
    decode_w: Option<Figure>,
    max_w: Option<Figure>,
    note: Option<String>,
    versions: Vec<Version>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Ports {
    generation: ThunderboltGeneration,
    n_ports: Option<u32>,
    n_rdma_ports: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Version {
    memory_gib: u64,
    chip: String,
    price_usd: Option<Figure>,
}

impl MacEntry {
    /// One machine kind for each version; its chip comes earlier in the catalogue.
    fn checked(self, chips: &[Chip]) -> Result<Vec<MachineKind>, String> {
        for (field, figure) in [("idle_w", self.idle_w), ("decode_w", self.decode_w), ("max_w", self.max_w)] {
            is_positive(field, figure)?;
        }
        let thunderbolt = self.thunderbolt.checked()?;
        let kind = |version: &Version| {
            let found = chips.iter().find(|chip| chip.name == version.chip);
            let chip = found.ok_or_else(|| format!("chip: expected a chip, found {:?}", version.chip))?;
            let memory = gib("memory_gib", version.memory_gib)?;
            if memory > chip.max_memory {
                let (name, found) = (&chip.name, version.memory_gib);
                return Err(format!("memory_gib: {name} has at most {}, found {found} GiB", chip.max_memory));
            }
            if thunderbolt.generation > chip.thunderbolt {
                let (name, found) = (&chip.name, thunderbolt.generation);
                return Err(format!("thunderbolt: {name} has {}, found {found}", chip.thunderbolt));
            }
            is_positive("price_usd", version.price_usd)?;
            Ok(MachineKind {
                name: word(format!("{}-{}", self.name, version.memory_gib))?,
                title: format!("{}, {} GB", self.title, version.memory_gib),
                family: Family::Mac,
                identifiers: self.identifiers.clone(),
                chip: Some(chip.name.clone()),
                memory,
                gpu_memory: mac_gpu_memory(memory),
                compute: chip.compute,
                thunderbolt: Some(thunderbolt),
                idle_w: self.idle_w,
                decode_w: self.decode_w,
                max_w: self.max_w,
                price_usd: version.price_usd,
                note: self.note.clone(),
            })
        };
        self.versions.iter().map(kind).collect()
    }
}

impl Ports {
    /// Unless something else is said, every port of Thunderbolt 5 carries RDMA, and none before.
    fn checked(self) -> Result<Thunderbolt, String> {
        let Ports { generation, n_ports, n_rdma_ports } = self;
        let can_rdma = generation >= ThunderboltGeneration::Tb5;
        let n_rdma_ports = n_rdma_ports.or(if can_rdma { n_ports } else { Some(0) });
        if n_ports == Some(0) {
            return Err("thunderbolt.n_ports: expected at least 1, found 0".to_owned());
        }
        if n_rdma_ports > n_ports.or(n_rdma_ports) || !can_rdma && n_rdma_ports != Some(0) {
            let found = n_rdma_ports.unwrap_or_default();
            return Err(format!(
                "thunderbolt.n_rdma_ports: expected as many as Thunderbolt 5 ports, found {found}"
            ));
        }
        Ok(Thunderbolt { generation, n_ports, n_rdma_ports })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuEntry {
    name: String,
    title: String,
    is_card: bool,
    memory_gib: u64,
    bandwidth_gb_s: Figure,
    max_w: Option<Figure>,
    price_usd: Option<Figure>,
    note: Option<String>,
}

impl GpuEntry {
    fn checked(self) -> Result<MachineKind, String> {
        is_positive("bandwidth_gb_s", Some(self.bandwidth_gb_s))?;
        is_positive("max_w", self.max_w)?;
        is_positive("price_usd", self.price_usd)?;
        let memory = gib("memory_gib", self.memory_gib)?;
        Ok(MachineKind {
            name: word(self.name)?,
            title: self.title,
            family: if self.is_card { Family::GpuCard } else { Family::GpuBox },
            identifiers: Vec::new(),
            chip: None,
            memory,
            gpu_memory: memory,
            compute: Compute {
                bandwidth_gb_s: self.bandwidth_gb_s,
                fp16_tflops: None,
                prefill_dense_tflops: None,
                prefill_moe_tflops: None,
            },
            thunderbolt: None,
            idle_w: None,
            decode_w: None,
            max_w: self.max_w,
            price_usd: self.price_usd,
            note: self.note,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkEntry {
    name: String,
    title: String,
    carries: Carries,
    thunderbolt: Option<ThunderboltGeneration>,
    is_point_to_point: bool,
    #[serde(default)]
    is_inside_machine: bool,
    latency_us: Option<Figure>,
    bandwidth_gb_s: Option<Figure>,
    all_reduce_two_us: Option<Figure>,
    all_reduce_four_us: Option<Figure>,
    hop_ms: Option<Figure>,
    max_message_bytes: Option<u64>,
    note: Option<String>,
}

impl LinkEntry {
    fn checked(self) -> Result<LinkKind, String> {
        let figures = [
            ("latency_us", self.latency_us),
            ("bandwidth_gb_s", self.bandwidth_gb_s),
            ("all_reduce_two_us", self.all_reduce_two_us),
            ("all_reduce_four_us", self.all_reduce_four_us),
            ("hop_ms", self.hop_ms),
        ];
        figures.into_iter().try_for_each(|(field, figure)| is_positive(field, figure))?;
        if self.carries == Carries::Rdma && self.thunderbolt.is_some_and(|g| g < ThunderboltGeneration::Tb5) {
            return Err("thunderbolt: expected 5, for RDMA has no older one".to_owned());
        }
        Ok(LinkKind {
            name: word(self.name)?,
            title: self.title,
            carries: self.carries,
            thunderbolt: self.thunderbolt,
            is_point_to_point: self.is_point_to_point,
            is_inside_machine: self.is_inside_machine,
            latency_us: self.latency_us,
            bandwidth_gb_s: self.bandwidth_gb_s,
            all_reduce_two_us: self.all_reduce_two_us,
            all_reduce_four_us: self.all_reduce_four_us,
            hop_ms: self.hop_ms,
            max_message: self.max_message_bytes.map(Bytes),
            note: self.note,
        })
    }
}

fn is_positive(field: &str, figure: Option<Figure>) -> Result<(), String> {
    match figure {
        Some(Figure { value, .. }) if !(value > 0.0 && value.is_finite()) => {
            Err(format!("{field}: expected a number above 0, found {value}"))
        }
        _ => Ok(()),
    }
}

fn gib(field: &str, n: u64) -> Result<Bytes, String> {
    if n == 0 || n > MAX_MEMORY_GIB {
        return Err(format!("{field}: expected from 1 to {MAX_MEMORY_GIB}, found {n}"));
    }
    Ok(Bytes(n << 30))
}

/// A name that can be typed without quotes and does not look like the short form's own signs.
fn word(name: String) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || !name.chars().all(is_plain) {
        return Err(format!("name: expected lower-case letters, digits and '-', found {name:?}"));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::super::Provenance;
    use super::*;

    const CHIP: &str = r#"
[[chip]]
name = "x1"
title = "Apple X1"
n_gpu_cores = 4
max_memory_gib = 64
thunderbolt = 5
bandwidth_gb_s = [100, "vendor"]
"#;
    const MAC: &str = r#"
[[mac]]
name = "mac-x"
title = "Mac X"
identifiers = ["Mac99,1"]
thunderbolt = { generation = 5, n_ports = 2 }
versions = [{ memory_gib = 64, chip = "x1", price_usd = [1000, "vendor"] }]
"#;
    const LINK: &str = r#"
[[link]]
name = "string"
title = "a string"
carries = "ip"
is_point_to_point = true
bandwidth_gb_s = [0.001, "measured"]
"#;

    fn fails(text: &str) -> String {
        catalogue(&[("a.toml", text)]).unwrap_err().to_string()
    }

    #[test]
    fn the_embedded_catalogue_holds_what_it_promises() {
        let c = Catalogue::embedded().unwrap();
        assert!(c.chips.len() > 20 && c.machines.len() > 30 && c.links.len() >= 8);
        for link in c.links.iter().filter(|link| link.carries == Carries::Rdma) {
            assert_eq!(link.thunderbolt, Some(ThunderboltGeneration::Tb5), "{}", link.name);
        }
        for kind in &c.machines {
            assert!(
                kind.gpu_memory <= kind.memory && kind.gpu_memory.0 >= kind.memory.0 / 2,
                "{}",
                kind.name
            );
            let watts = [kind.idle_w, kind.decode_w, kind.max_w];
            assert!(watts.iter().flatten().is_sorted_by(|a, b| a.value <= b.value), "{}", kind.name);
            if let Some(Thunderbolt { generation, n_rdma_ports, .. }) = kind.thunderbolt {
                let is_tb5 = generation == ThunderboltGeneration::Tb5;
                assert_eq!(n_rdma_ports.unwrap_or(0) > 0, is_tb5, "{}", kind.name);
            }
            assert_eq!(kind.family == Family::Mac, kind.chip.is_some(), "{}", kind.name);
        }
    }

    #[test]
    fn known_machines_are_there() {
        let c = Catalogue::embedded().unwrap();
        let studio = c.machine("mac-studio-m3-ultra-512").unwrap();
        assert_eq!((studio.memory, studio.gpu_memory), (Bytes(512 << 30), Bytes(384 << 30)));
        assert_eq!(studio.compute.bandwidth_gb_s, Figure { value: 819.0, provenance: Provenance::Vendor });
        assert_eq!(studio.compute.prefill_tflops(true).unwrap().value, 13.0);
        assert_eq!(studio.price_usd.unwrap().value, 9499.0);
        assert_eq!(studio.thunderbolt.unwrap().n_rdma_ports, Some(5));
        assert_eq!(c.chip("Apple M4 Max", Some(32)).unwrap().name, "m4-max-32");
        assert_eq!(c.chip("Apple M4 Max", None), None, "two of them");
        assert_eq!(c.chip("Apple M2", Some(8)).unwrap().name, "m2", "the only one");
        assert_eq!(c.chip("Apple M99", None), None);
        assert_eq!(c.macs("Mac15,14").count(), 3);
        assert_eq!(c.macs("Mac0,0").count(), 0);
        let error = c.machine("mac-studio-m3-ultra-521").unwrap_err();
        assert_eq!(error.nearest[0], "mac-studio-m3-ultra-512");
        assert!(error.to_string().contains("hint: did you mean mac-studio-m3-ultra-512"), "{error}");
        assert!(!c.link("carrier pigeon").unwrap_err().to_string().contains("hint"));
    }

    #[test]
    fn a_catalogue_of_ones_own_loads() {
        let c = catalogue(&[("a.toml", CHIP), ("b.toml", &format!("{MAC}{LINK}"))]).unwrap();
        assert_eq!(c.machines[0].name, "mac-x-64");
        assert_eq!(c.machines[0].gpu_memory, Bytes(48 << 30));
        assert_eq!(c.machines[0].thunderbolt.unwrap().n_rdma_ports, Some(2));
        assert_eq!((c.links[0].latency_us, c.links[0].is_inside_machine), (None, false));
        assert_eq!(mac_gpu_memory(Bytes(36 << 30)), Bytes(24 << 30));
    }

    #[test]
    fn an_error_names_the_entry_and_the_field() {
        let both = format!("{CHIP}{MAC}");
        let swapped = |from: &str, to: &str| {
            assert!(both.contains(from), "{from}");
            fails(&both.replacen(from, to, 1))
        };
        for (from, to, says) in [
            ("[100, \"vendor\"]", "[0, \"vendor\"]", &["chip x1", "bandwidth_gb_s", "above 0"][..]),
            ("[100, \"vendor\"]", "[nan, \"vendor\"]", &["chip x1", "bandwidth_gb_s", "NaN"]),
            ("[100, \"vendor\"]", "100", &["chip x1", "bandwidth_gb_s"]),
            ("[100, \"vendor\"]", "[100, \"hearsay\"]", &["chip x1", "bandwidth_gb_s", "hearsay"]),
            ("thunderbolt = 5", "thunderbolt = 6", &["chip x1", "thunderbolt", "from 3 to 5", "6"]),
            ("n_gpu_cores = 4\n", "", &["chip x1", "n_gpu_cores"]),
            ("n_gpu_cores = 4", "n_gpu_cores = 4\ncolour = 3", &["chip x1", "colour"]),
            ("name = \"x1\"\n", "", &["chip number 1", "name"]),
            ("name = \"x1\"", "name = \"x 1\"", &["name", "x 1"]),
            ("max_memory_gib = 64", "max_memory_gib = 0", &["chip x1", "max_memory_gib", "found 0"]),
            ("memory_gib = 64, chip", "memory_gib = 65, chip", &["mac mac-x", "memory_gib", "at most", "65"]),
            ("memory_gib = 64, chip", "memory_gib = 99999999999999, chip", &["mac mac-x", "memory_gib"]),
            ("chip = \"x1\"", "chip = \"x2\"", &["mac mac-x", "chip", "x2"]),
            ("n_ports = 2", "n_ports = 0", &["mac mac-x", "n_ports"]),
            ("n_ports = 2", "n_ports = 2, n_rdma_ports = 3", &["mac mac-x", "n_rdma_ports"]),
            ("generation = 5, n_ports = 2", "generation = 4, n_rdma_ports = 1", &["mac-x", "n_rdma_ports"]),
            ("[1000, \"vendor\"]", "[-1, \"vendor\"]", &["mac mac-x", "price_usd"]),
            ("[[mac]]", "[[cheese]]", &["cheese mac-x", "expected"]),
        ] {
            let shown = swapped(from, to);
            assert!(says.iter().all(|text| shown.contains(text)), "{from} → {to}: {shown}");
        }
        assert!(swapped("thunderbolt = 5", "thunderbolt = 4").contains("mac mac-x: thunderbolt"));
        assert!(fails("chip = 3").contains("chip"));
        assert!(fails("[[chip").contains("the file"));
        assert!(fails(&format!("{CHIP}{CHIP}")).contains("chip x1: its name is there twice"));
        let rdma = LINK.replace("\"ip\"", "\"rdma\"\nthunderbolt = 4");
        assert!(fails(&rdma).contains("link string: thunderbolt"));
    }
}
