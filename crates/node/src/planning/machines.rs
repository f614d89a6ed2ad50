//! From machines as people describe them to machines as the cost model sees them. Every figure is the catalogue's; what it does
//! not know stays unknown, and what is carried over from a relative is marked.

use base::NodeId;
use hw::catalogue::{Carries, Catalogue, Compute, Family, Figure, LinkKind, MachineKind};
use hw::{cluster, facts::memory_bandwidth_gb_s};
use plan::{BackendKind, Cluster, Links, Machine, Node, PlanError, PrefillRates, fitted};

use crate::placement::this_node;

/// What a figure in units of 10^9 is in units of one.
const GIGA: f64 = 1e9;

/// The machine this program runs on, alone: the catalogue's figures where its chip is there, else its processors and what they get
/// from memory, which is measured now and takes less than a second.
pub fn this_machine(catalogue: &Catalogue) -> Cluster {
    let probed = hw::Machine::probe();
    let title = probed.cpu.as_deref().unwrap_or_default();
    let chip = catalogue.chip(title, None);
    let measured = || memory_bandwidth_gb_s(probed.n_cores(), probed.available_memory);
    let bandwidth_gb_s = chip.map_or_else(measured, |c| Some(c.compute.bandwidth_gb_s.value));
    Cluster::alone(Machine {
        node: this_node(NodeId(0), &probed),
        bandwidth: bandwidth_gb_s.map(|gb| gb * GIGA),
        constants: chip.map_or(fitted::PROCESSORS, |c| fitted::constants(&c.title)),
        prefill: chip.map_or_else(PrefillRates::default, |c| rates(&c.compute)),
        n_ports: None,
        n_rdma_ports: None,
        idle_w: None,
        active_w: None,
        price_usd: None,
    })
}

/// A described cluster. Of several links between two machines the one with RDMA counts, then the one with more bandwidth.
pub fn described(cluster: &cluster::Cluster, catalogue: &Catalogue) -> Result<Cluster, PlanError> {
    let number = |(i, member): (usize, &cluster::Member)| {
        let id = NodeId(i as u32);
        Machine { price_usd: member.price_usd, ..machine(id, &member.name, &member.kind, catalogue) }
    };
    let machines: Vec<Machine> = cluster.members.iter().enumerate().map(number).collect();
    let mut links = Links::none(machines.len());
    let mut order: Vec<&cluster::ClusterLink> = cluster.links.iter().collect();
    let rank = |kind: &LinkKind| (kind.carries == Carries::Rdma, value(kind.bandwidth_gb_s).unwrap_or(0.0));
    order.sort_by(|a, b| rank(&a.kind).partial_cmp(&rank(&b.kind)).unwrap_or(std::cmp::Ordering::Equal));
    for link in order {
        let kind = links.add_kind(link_kind(&link.kind))?;
        for (i, &a) in link.among.iter().enumerate() {
            for &b in &link.among[..i] {
                links.connect(a, b, kind)?;
            }
        }
    }
    Ok(Cluster { machines, links })
}

/// A machine of the catalogue.
pub(crate) fn machine(id: NodeId, name: &str, kind: &MachineKind, catalogue: &Catalogue) -> Machine {
    let is_mac = kind.family == Family::Mac;
    let chip = catalogue.chips.iter().find(|chip| Some(&chip.name) == kind.chip.as_ref());
    let title = chip.map_or(kind.title.as_str(), |chip| chip.title.as_str());
    Machine {
        node: Node {
            id,
            name: name.to_owned(),
            memory: kind.gpu_memory,
            n_cores: 1, // nobody is pinned on a machine that is only described
            backends: vec![if is_mac { BackendKind::Mlx } else { BackendKind::Cpu }],
            is_mac,
        },
        bandwidth: Some(kind.compute.bandwidth_gb_s.value * GIGA),
        constants: fitted::constants(title),
        prefill: rates(&kind.compute),
        n_ports: kind.thunderbolt.and_then(|t| t.n_ports),
        n_rdma_ports: kind.thunderbolt.and_then(|t| t.n_rdma_ports),
        idle_w: value(kind.idle_w),
        active_w: value(kind.decode_w).or(value(kind.max_w)),
        price_usd: value(kind.price_usd),
    }
}

/// Measured rates of prefill, else what chips with rows reach of their peak.
fn rates(compute: &Compute) -> PrefillRates {
    let measured = |figure: Option<Figure>| value(figure).map(|tflops| tflops * 1e12);
    let peak = measured(compute.fp16_tflops);
    let (dense_part, experts_part) = fitted::PREFILL_OF_PEAK;
    let (dense, experts) = (measured(compute.prefill_dense_tflops), measured(compute.prefill_moe_tflops));
    PrefillRates {
        dense: dense.or(peak.map(|peak| peak * dense_part)),
        experts: experts.or(peak.map(|peak| peak * experts_part)),
        is_measured: dense.is_some() && experts.is_some(),
    }
}

/// A link of the catalogue. Over IP a small sum takes about a one-way trip, both directions at once, where it was not measured.
pub(crate) fn link_kind(kind: &LinkKind) -> plan::LinkKind {
    let micro = |figure: Option<Figure>| value(figure).map(|us| us * 1e-6);
    let one_way = micro(kind.latency_us).filter(|_| kind.carries == Carries::Ip);
    let two = micro(kind.all_reduce_two_us).or(one_way);
    let four = micro(kind.all_reduce_four_us);
    let more = two.map(|two| match four {
        Some(four) => (four - two).max(0.0) / 2.0,
        None => two * fitted::ALL_REDUCE_GROWTH,
    });
    plan::LinkKind {
        name: kind.name.clone(),
        is_rdma: kind.carries == Carries::Rdma,
        is_point_to_point: kind.is_point_to_point,
        bandwidth: value(kind.bandwidth_gb_s).map(|gb| gb * GIGA),
        all_reduce_two_s: two,
        all_reduce_more_s: more.unwrap_or(0.0),
        hop_s: value(kind.hop_ms).map(|ms| ms * 1e-3),
    }
}

fn value(figure: Option<Figure>) -> Option<f64> {
    figure.map(|figure| figure.value)
}

#[cfg(test)]
mod tests {
    use plan::cost::{Load, ONEFOLD};
    use plan::search::{Aim, Ask, search};

    use super::*;
    use crate::models::{Catalog, FetchConfig, Fetcher};

    #[test]
    fn the_catalogue_becomes_a_cluster() {
        let catalogue = Catalogue::embedded().unwrap();
        let text = "4x mac-studio-m3-ultra-512 over tb5-rdma";
        let cluster =
            described(&cluster::Cluster::from_short(text, &catalogue).unwrap(), &catalogue).unwrap();
        cluster.check().unwrap();
        let studio = &cluster.machines[3];
        assert_eq!((studio.bandwidth, studio.n_rdma_ports), (Some(819e9), Some(5)));
        assert!(studio.constants.is_fitted && studio.prefill.is_measured);
        let link = cluster.links.between(0, 3).unwrap();
        assert!(link.is_rdma && (link.all_reduce_s(4).unwrap() - 26e-6).abs() < 1e-12);
    }

    #[test]
    fn the_faster_of_two_links_counts() {
        let catalogue = Catalogue::embedded().unwrap();
        let text = "over = \"10gbe\"\n[[machine]]\nkind = \"mac-studio-m3-ultra-512\"\ncount = 3\nname = \"s\"\n\
                    [[link]]\nkind = \"tb5-rdma\"\nbetween = [\"s-1\", \"s-2\"]";
        let cluster = described(&cluster::Cluster::from_toml(text, &catalogue).unwrap(), &catalogue).unwrap();
        assert_eq!(cluster.links.between(0, 1).unwrap().name, "tb5-rdma");
        assert_eq!(cluster.links.between(0, 2).unwrap().name, "10gbe");
    }

    #[test]
    fn this_machine_can_be_searched_even_if_its_speed_is_unknown() {
        let cluster = this_machine(&Catalogue::embedded().unwrap());
        let fetcher = Fetcher::new(FetchConfig::new("/nonexistent".into()));
        let small = crate::planning::subject("qwen3-4b", &Catalog::default(), &fetcher).unwrap();
        let ask = Ask { load: Load { context_len: 64, n_sequences: 1 }, aim: Aim::Speed, max_watts: None };
        match search(&cluster, &small.cost, ONEFOLD, &ask) {
            Ok(choice) => assert_eq!(choice.best.prediction.memory.len(), 1),
            Err(error) => assert!(error.to_string().contains("expected room for"), "{error}"),
        }
    }
}
