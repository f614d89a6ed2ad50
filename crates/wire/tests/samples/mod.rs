//! One of every message, and generators of any.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use base::{
    Batch, BlockId, Bytes, FinishReason, LayerBytes, ModelSpec, NodeId, Output, RankId, Request, RequestId,
    SampleSpec, Sampled, SamplingParams, SeqId, SeqSlice, Step, TokenId, Usage,
};
use plan::{BackendKind, Collectives, Fence, Goal, Node, Plan, Topology};
use proptest::{collection::vec, option, prelude::*};
use wire::{FromRank, Init, MlxPeers, Stats, ToRank};

/// A plan over one node; MLX's own collectives need ranks on mlx.
pub(crate) fn plan(tp: u32, pp: u32, collectives: Collectives) -> Plan {
    let layer = LayerBytes { attention: Bytes(1000), ffn: Bytes(2000), replicated: Bytes(16) };
    let model = ModelSpec {
        hidden: 64,
        n_heads: 8,
        n_kv_heads: 4,
        head_dim: 8,
        ffn: 128,
        vocab: 256,
        max_context: 512,
        head_unit: 1,
        ffn_unit: 32,
        layers: vec![layer; 4],
        embedding: Bytes(8192),
        head: None,
        latent: Some(48),
    };
    let nodes = vec![Node {
        id: NodeId(3),
        name: "büro".into(),
        memory: Bytes(1 << 30),
        n_cores: 8,
        backends: vec![BackendKind::Cpu, BackendKind::Mlx],
        is_mac: true,
    }];
    let backend = if collectives == Collectives::Onefold { BackendKind::Cpu } else { BackendKind::Mlx };
    let goal = Goal {
        tp,
        pp,
        split: None,
        stage_split: None,
        context_len: 64,
        n_kv_tokens: Some(128),
        threads_per_rank: 1,
        ranks_per_node: None,
        backends: Some(vec![backend]),
        collectives: Some(collectives),
        has_jaccl_devices: true,
        fence: Fence::Fast,
    };
    Plan::make(&Topology { nodes }, &model, &goal).unwrap()
}

pub(crate) fn init() -> Init {
    let peers = vec![(RankId(0), "127.0.0.1:4000".parse().unwrap()), (RankId(2), "[::1]:5".parse().unwrap())];
    Init {
        plan: plan(2, 2, Collectives::Onefold),
        rank: RankId(1),
        model: PathBuf::from("/m/a.gguf"),
        peers,
        mlx: None,
        step_deadline: Duration::from_secs(60),
        incarnation: 300,
    }
}

/// The same, to meet the other rank of its stage in MLX's ring.
pub(crate) fn ring_init() -> Init {
    let hosts = ["127.0.0.1:4100", "[::1]:6"].map(|host| host.parse().unwrap()).to_vec();
    Init { plan: plan(2, 2, Collectives::MlxRing), mlx: Some(MlxPeers::Ring { hosts }), ..init() }
}

/// The same, to meet it over RDMA.
pub(crate) fn jaccl_init() -> Init {
    let devices = r#"[[null,"rdma_en5"],["rdma_en3",null]]"#.to_owned();
    let coordinator = "127.0.0.1:4100".parse().unwrap();
    let mlx = Some(MlxPeers::Jaccl { devices, coordinator });
    Init { plan: plan(2, 2, Collectives::MlxJaccl), mlx, ..init() }
}

pub(crate) fn request() -> Request {
    let sampling = SamplingParams {
        temperature: 0.5,
        top_k: Some(40),
        logit_bias: vec![(TokenId(5), -1.0)],
        seed: 300,
        ..SamplingParams::default()
    };
    let prompt = vec![TokenId(1), TokenId(200), TokenId(49_151)];
    Request { id: RequestId(9), prompt, max_tokens: 64, stop_tokens: vec![TokenId(2)], sampling }
}

pub(crate) fn step() -> Step {
    let seq = |seq, n_rows, context_len, n_logits| SeqSlice {
        seq: SeqId(seq),
        n_rows,
        context_len,
        n_logits,
        blocks: vec![BlockId(7), BlockId(300)],
    };
    let sample = SampleSpec {
        position: 20,
        prompt_tokens: vec![TokenId(1)],
        answer_counts: vec![(TokenId(4), 2)],
        ..SampleSpec::default()
    };
    let batch =
        Batch { tokens: [11, 12, 13].map(TokenId).to_vec(), seqs: vec![seq(1, 1, 20, 1), seq(2, 2, 2, 0)] };
    Step { batch, samples: vec![sample] }
}

pub(crate) fn sampled() -> Sampled {
    Sampled { token: TokenId(42), logprob: Some(-0.25), top: vec![(TokenId(42), -0.25), (TokenId(7), -2.0)] }
}

pub(crate) fn outputs() -> Vec<Output> {
    let usage = Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 200 };
    vec![
        Output::Token { id: RequestId(9), sampled: sampled() },
        Output::Finished { id: RequestId(9), reason: FinishReason::Length, usage },
        Output::Failed { id: RequestId(1), message: "no".into() },
    ]
}

pub(crate) fn stats() -> Stats {
    Stats {
        n_running: 1,
        n_waiting: 2,
        n_blocks_used: 3,
        n_blocks: 4,
        n_preemptions: 5,
        n_prefix_hit_tokens: 6,
        n_steps: 7,
        n_prefill_tokens: 8,
        prefill_us: 9,
        n_decode_tokens: 10,
        decode_us: 11,
        n_graph_nodes: 12,
        n_graph_launches: 13,
        n_graph_evals: 14,
    }
}

fn tokens() -> impl Strategy<Value = Vec<TokenId>> {
    vec(any::<u32>().prop_map(TokenId), 0..20)
}

fn pairs<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<(TokenId, T)>> {
    vec((any::<u32>().prop_map(TokenId), value), 0..4)
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let numbers = (-9f32..9., option::of(any::<u32>()), 0f32..1., 0f32..1., -2f32..2., -2f32..2., -2f32..2.);
    (numbers, pairs(-100f32..100.), any::<u64>(), option::of(any::<u32>())).prop_map(
        |((temperature, top_k, top_p, min_p, rep, presence, frequency), logit_bias, seed, n_logprobs)| {
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                repetition_penalty: rep,
                presence_penalty: presence,
                frequency_penalty: frequency,
                logit_bias,
                seed,
                n_logprobs,
            }
        },
    )
}

pub(crate) fn any_request() -> impl Strategy<Value = Request> {
    (any::<u64>(), any::<u32>(), tokens(), any::<u32>(), tokens(), params()).prop_map(
        |(id, first, mut prompt, max_tokens, stop_tokens, sampling)| {
            prompt.push(TokenId(first));
            Request { id: RequestId(id), prompt, max_tokens, stop_tokens, sampling }
        },
    )
}

pub(crate) fn any_sampled() -> impl Strategy<Value = Sampled> {
    (any::<u32>(), option::of(-50f32..0.), pairs(-50f32..0.)).prop_map(|(token, logprob, top)| Sampled {
        token: TokenId(token),
        logprob,
        top,
    })
}

fn any_output() -> impl Strategy<Value = Output> {
    let reason =
        prop_oneof![Just(FinishReason::Stop), Just(FinishReason::Length), Just(FinishReason::Cancelled)];
    let id = || any::<u64>().prop_map(RequestId);
    prop_oneof![
        (id(), any_sampled()).prop_map(|(id, sampled)| Output::Token { id, sampled }),
        (id(), reason, any::<[u32; 3]>()).prop_map(
            |(id, reason, [prompt_tokens, cached_tokens, completion_tokens])| {
                let usage = Usage { prompt_tokens, cached_tokens, completion_tokens };
                Output::Finished { id, reason, usage }
            }
        ),
        (id(), ".*").prop_map(|(id, message)| Output::Failed { id, message }),
    ]
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let sample = (params(), any::<u32>(), tokens(), pairs(any::<u32>())).prop_map(
        |(params, position, prompt_tokens, answer_counts)| SampleSpec {
            params,
            position,
            prompt_tokens,
            answer_counts,
        },
    );
    let blocks = vec(any::<u32>().prop_map(BlockId), 0..5);
    let seq = (any::<u64>(), 0..5u32, 0..1000u32, 0..2u32, blocks, sample);
    (vec(seq, 0..6), any::<u32>()).prop_map(|(seqs, first)| {
        let mut step = Step::default();
        for (seq, n_rows, before, wants, blocks, sample) in seqs {
            let n_logits = wants.min(n_rows);
            let context_len = before + n_rows;
            step.batch.tokens.extend((0..n_rows).map(|i| TokenId(first.wrapping_add(i))));
            step.batch.seqs.push(SeqSlice { seq: SeqId(seq), n_rows, context_len, n_logits, blocks });
            step.samples.extend((0..n_logits).map(|_| sample.clone()));
        }
        step
    })
}

/// How the ranks of a stage of `tp` meet, with the collectives that need it.
fn any_mlx(
    tp: u32,
    host: SocketAddr,
    devices: String,
) -> impl Strategy<Value = (Collectives, Option<MlxPeers>)> {
    let none = Just((Collectives::Onefold, None));
    let ring = MlxPeers::Ring { hosts: vec![host; tp as usize] };
    let jaccl = MlxPeers::Jaccl { devices, coordinator: host };
    let any = prop_oneof![
        none,
        Just((Collectives::MlxRing, Some(ring))),
        Just((Collectives::MlxJaccl, Some(jaccl)))
    ];
    any.prop_map(move |any| if tp > 1 { any } else { (Collectives::Onefold, None) })
}

fn any_init() -> impl Strategy<Value = Init> {
    let addresses = (any::<[u8; 4]>(), any::<u16>());
    (1..3u32, 1..5u32, addresses, "[^\0]{0,20}", any::<u32>()).prop_flat_map(|(tp, pp, host, model, ms)| {
        any_mlx(tp, host.into(), model.clone()).prop_map(move |(collectives, mlx)| {
            let peers = (1..tp * pp).map(|rank| (RankId(rank), host.into())).collect();
            let (plan, model) = (plan(tp, pp, collectives), PathBuf::from(model.clone()));
            let step_deadline = Duration::from_millis(ms.into());
            Init { plan, rank: RankId(0), model, peers, mlx, step_deadline, incarnation: ms }
        })
    })
}

pub(crate) fn any_to_rank() -> impl Strategy<Value = ToRank> {
    prop_oneof![
        any_init().prop_map(|init| ToRank::Init(Box::new(init))),
        any_request().prop_map(ToRank::Submit),
        any::<u64>().prop_map(|id| ToRank::Cancel(RequestId(id))),
        Just(ToRank::Shutdown),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![Just(BackendKind::Cpu), Just(BackendKind::Mlx)];
    (any::<u32>(), ".*", vec(kind, 0..4), any::<bool>()).prop_map(|(n, name, backends, is_mac)| Node {
        id: NodeId(n),
        name,
        memory: Bytes(u64::from(n)),
        n_cores: n,
        backends,
        is_mac,
    })
}

pub(crate) fn any_from_rank() -> impl Strategy<Value = FromRank> {
    let address = |(ip, port): ([u8; 16], u16)| SocketAddr::from((ip, port));
    prop_oneof![
        (any::<([u8; 16], u16)>(), option::of(any::<([u8; 16], u16)>()), any_node()).prop_map(
            move |(addr, mlx, node)| {
                FromRank::Listening { addr: address(addr), mlx_addr: mlx.map(address), node }
            }
        ),
        (any::<[u64; 2]>(), vec((any::<u32>(), ".*"), 0..4)).prop_map(|([w, load_ms], links)| {
            let links = links.into_iter().map(|(peer, over)| (RankId(peer), over)).collect();
            FromRank::Ready { weights: Bytes(w), load_ms, links }
        }),
        vec(any_output(), 0..5).prop_map(FromRank::Outputs),
        ".*".prop_map(|message| FromRank::Failed { message }),
        Just(FromRank::Stats(stats())),
        option::of(any::<u64>()).prop_map(|busy_ms| FromRank::Beat { busy_ms }),
    ]
}
