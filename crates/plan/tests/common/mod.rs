//! Models and machines for the tests of the cost model and the search, as numbers from their configurations.
#![allow(clippy::unwrap_used)] // all of it is tests
#![allow(dead_code)] // every test takes what it needs

use base::{Bytes, NodeId};
use plan::cost::{Layout, Member, StageLayout};
use plan::fitted::{self, Constants};
use plan::shape::{AttentionShape, ExpertShape, Format, Formats, IndexerShape, Shape};
use plan::{BackendKind, Cluster, Experts, LinkKind, Links, Machine, ModelCost, Node, PrefillRates, shards};

pub(crate) const GB: f64 = 1e9;

/// MLX's affine format: a scale and a bias of 16 bits for each group.
pub(crate) fn affine(bits: u32, group_size: u32) -> Format {
    Format::grouped(bits, group_size, 32)
}

fn grouped(n_layers: u32, hidden: u32, heads: [u32; 3], ffn: u32, vocab: u32, format: Format) -> Shape {
    let [n_heads, n_kv_heads, head_dim] = heads;
    Shape {
        n_layers,
        hidden,
        n_heads,
        n_kv_heads,
        attention: AttentionShape::Grouped { head_dim },
        indexer: None,
        ffn,
        experts: None,
        vocab,
        is_tied: false,
        max_context: 131_072,
        formats: Formats::all(format),
    }
}

fn routed(n: u32, n_active: u32, ffn: u32, shared_ffn: u32, n_dense_layers: u32) -> Option<ExpertShape> {
    Some(ExpertShape { count: Experts { n, n_active }, ffn, shared_ffn, n_dense_layers })
}

pub(crate) fn qwen3_235b(format: Format) -> ModelCost {
    let shape = grouped(94, 4096, [64, 4, 128], 12_288, 151_936, format);
    Shape { experts: routed(128, 8, 1536, 0, 0), ..shape }.cost()
}

pub(crate) fn qwen3_30b(format: Format) -> ModelCost {
    let shape = grouped(48, 2048, [32, 4, 128], 6144, 151_936, format);
    Shape { experts: routed(128, 8, 768, 0, 0), ..shape }.cost()
}

pub(crate) fn qwen3_4b(format: Format) -> ModelCost {
    Shape { is_tied: true, ..grouped(36, 2560, [32, 8, 128], 9728, 151_936, format) }.cost()
}

pub(crate) fn llama_8b(format: Format) -> ModelCost {
    grouped(32, 4096, [32, 8, 128], 14_336, 128_256, format).cost()
}

pub(crate) fn llama_70b(format: Format) -> ModelCost {
    grouped(80, 8192, [64, 8, 128], 28_672, 128_256, format).cost()
}

fn deepseek_shape(format: Format) -> Shape {
    Shape {
        attention: AttentionShape::Latent {
            q_rank: 1536,
            kv_rank: 512,
            nope_dim: 128,
            rope_dim: 64,
            v_dim: 128,
        },
        experts: routed(256, 8, 2048, 2048, 3),
        ..grouped(61, 7168, [128, 128, 128], 18_432, 129_280, format)
    }
}

pub(crate) fn deepseek(format: Format) -> ModelCost {
    let shape = deepseek_shape(format);
    Shape { formats: Formats { gate: Format::BF16, ..shape.formats }, ..shape }.cost()
}

/// Only the routed experts are quantised.
pub(crate) fn kimi(experts: Format) -> ModelCost {
    let formats = Formats { experts, ..Formats::all(Format::BF16) };
    kimi_shape(formats).cost()
}

/// Everything is.
pub(crate) fn kimi_all(format: Format) -> ModelCost {
    kimi_shape(Formats::all(format)).cost()
}

fn kimi_shape(formats: Formats) -> Shape {
    Shape {
        n_heads: 64,
        n_kv_heads: 64,
        experts: routed(384, 8, 2048, 2048, 1),
        vocab: 163_840,
        max_context: 262_144,
        formats,
        ..deepseek_shape(Format::BF16)
    }
}

pub(crate) fn kimi_native() -> ModelCost {
    kimi(Format::grouped(4, 32, 16))
}

pub(crate) fn glm_5() -> ModelCost {
    Shape {
        attention: AttentionShape::Latent {
            q_rank: 2048,
            kv_rank: 512,
            nope_dim: 192,
            rope_dim: 64,
            v_dim: 256,
        },
        indexer: Some(IndexerShape { n_heads: 32, head_dim: 128 }),
        experts: routed(256, 8, 2048, 2048, 3),
        ..grouped(78, 6144, [64, 64, 256], 12_288, 154_880, Format::grouped(8, 32, 8))
    }
    .cost()
}

pub(crate) fn machine(name: &str, memory_gb: f64, bandwidth_gb_s: f64, constants: Constants) -> Machine {
    Machine {
        node: Node {
            id: NodeId(0),
            name: name.to_owned(),
            memory: Bytes((memory_gb * GB) as u64),
            n_cores: 8,
            backends: vec![BackendKind::Mlx],
            is_mac: true,
        },
        bandwidth: Some(bandwidth_gb_s * GB),
        constants,
        prefill: PrefillRates { dense: Some(22e12), experts: Some(13e12), is_measured: true },
        n_ports: Some(6),
        n_rdma_ports: Some(5),
        idle_w: Some(9.0),
        active_w: Some(258.0),
        price_usd: Some(9499.0),
    }
}

pub(crate) fn m3_ultra() -> Machine {
    machine("studio", 384.0, 819.0, fitted::M3_ULTRA)
}

pub(crate) fn m4_max() -> Machine {
    Machine {
        prefill: PrefillRates { dense: Some(15e12), experts: Some(12e12), is_measured: true },
        ..machine("studio", 96.0, 546.0, fitted::M4_MAX)
    }
}

pub(crate) fn rdma() -> LinkKind {
    LinkKind {
        name: "tb5-rdma".into(),
        is_rdma: true,
        is_point_to_point: true,
        bandwidth: Some(9.4 * GB),
        all_reduce_two_s: Some(19e-6),
        all_reduce_more_s: 3.5e-6,
        hop_s: Some(3.5e-3),
    }
}

/// TCP over Thunderbolt; the hop is that of the engine in the measured rows.
pub(crate) fn tcp() -> LinkKind {
    LinkKind {
        name: "tb5-ip".into(),
        is_rdma: false,
        bandwidth: Some(6.9 * GB),
        all_reduce_two_s: Some(300e-6),
        all_reduce_more_s: 55e-6,
        hop_s: Some(2.5e-3),
        ..rdma()
    }
}

/// Machines that are all linked to each other.
pub(crate) fn mesh(machines: Vec<Machine>, kind: LinkKind) -> Cluster {
    let mut links = Links::none(machines.len());
    let kind = links.add_kind(kind).unwrap();
    links.connect_rest(kind).unwrap();
    let number = |(i, mut m): (usize, Machine)| {
        m.node.id = NodeId(i as u32);
        m.node.name = format!("{}-{}", m.node.name, i + 1);
        m
    };
    let cluster = Cluster { machines: machines.into_iter().enumerate().map(number).collect(), links };
    cluster.check().unwrap();
    cluster
}

/// All machines share every layer evenly.
pub(crate) fn tensor(model: &ModelCost, n: usize) -> Layout {
    let members = shards(&model.spec, &vec![1; n]).unwrap().into_iter().enumerate();
    let members = members.map(|(machine, shard)| Member { machine, shard }).collect();
    Layout { stages: vec![StageLayout { layers: 0..model.spec.n_layers(), members }] }
}

/// Every machine has its run of layers, of even number.
pub(crate) fn pipeline(model: &ModelCost, n: usize) -> Layout {
    let n_layers = model.spec.n_layers();
    let at = |i: usize| (n_layers as usize * i / n) as u32;
    let whole = shards(&model.spec, &[1]).unwrap();
    let stage = |i: usize| StageLayout {
        layers: at(i)..at(i + 1),
        members: vec![Member { machine: i, shard: whole[0].clone() }],
    };
    Layout { stages: (0..n).map(stage).collect() }
}
