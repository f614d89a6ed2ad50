//! The wire's picture of every message, field by field in wire order: changing one changes golden bytes. Turns
//! into the real types only what is consistent.

use std::{ffi::OsString, net::SocketAddr, os::unix::ffi::OsStringExt, time::Duration};

use base::{
    Batch, BlockId, Bytes, FinishReason, Output, RankId, Request, RequestId, SampleSpec, Sampled,
    SamplingParams, SeqId, SeqSlice, Step, TokenId, Usage,
};
use plan::Plan;
use serde::{Deserialize, Serialize};

use crate::{
    FromRank, Init, Message, MlxPeers, Stats, ToRank, WireError,
    mirror_plan::{NodeWire, PlanWire},
};

/// The messages that are frames of their own, with their pictures.
macro_rules! message {
    ($message:ty, $kind:literal, $mirror:ty) => {
        impl Message for $message {
            const KIND: u16 = $kind;

            fn append_body(&self, frame: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
                postcard::to_extend(&<$mirror>::from(self), frame)
            }

            fn parse_body(body: &[u8]) -> Result<(Self, &[u8]), WireError> {
                let malformed = |source| WireError::Malformed { kind: $kind, source };
                let (mirror, rest) = postcard::take_from_bytes::<$mirror>(body).map_err(malformed)?;
                Ok((mirror.try_into()?, rest))
            }
        }
    };
}

message!(ToRank, 1, ToRankWire);
message!(FromRank, 2, FromRankWire);
message!(Step, 3, StepWire);
message!(Vec<Sampled>, 4, SampledListWire);

#[derive(Serialize, Deserialize)]
enum ToRankWire {
    Init(Box<InitWire>),
    Submit(RequestWire),
    Cancel(u64),
    Shutdown,
}

#[derive(Serialize, Deserialize)]
struct InitWire {
    plan: PlanWire,
    rank: u32,
    /// A path is bytes, not always text.
    model: Vec<u8>,
    peers: Vec<(u32, SocketAddr)>,
    mlx: Option<MlxPeersWire>,
    step_deadline_ms: u64,
    incarnation: u32,
}

#[derive(Serialize, Deserialize)]
enum MlxPeersWire {
    Ring { hosts: Vec<SocketAddr> },
    Jaccl { devices: String, coordinator: SocketAddr },
}

#[derive(Serialize, Deserialize)]
enum FromRankWire {
    Listening { addr: SocketAddr, mlx_addr: Option<SocketAddr>, node: NodeWire },
    Ready { weights: u64, load_ms: u64, links: Vec<(u32, String)> },
    Outputs(Vec<OutputWire>),
    Failed { message: String },
    Stats(StatsWire),
    Beat { busy_ms: Option<u64> },
}

#[derive(Serialize, Deserialize)]
struct StatsWire {
    n_running: u32,
    n_waiting: u32,
    n_blocks_used: u32,
    n_blocks: u32,
    n_preemptions: u64,
    n_prefix_hit_tokens: u64,
    n_steps: u64,
    n_prefill_tokens: u64,
    prefill_us: u64,
    n_decode_tokens: u64,
    decode_us: u64,
    n_graph_nodes: u64,
    n_graph_launches: u64,
    n_graph_evals: u64,
}

#[derive(Serialize, Deserialize)]
struct RequestWire {
    id: u64,
    prompt: Vec<u32>,
    max_tokens: u32,
    stop_tokens: Vec<u32>,
    sampling: ParamsWire,
}

#[derive(Serialize, Deserialize)]
struct ParamsWire {
    temperature: f32,
    top_k: Option<u32>,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    presence_penalty: f32,
    frequency_penalty: f32,
    logit_bias: Vec<(u32, f32)>,
    seed: u64,
    n_logprobs: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct StepWire {
    tokens: Vec<u32>,
    seqs: Vec<SeqWire>,
    samples: Vec<SampleWire>,
}

#[derive(Serialize, Deserialize)]
struct SeqWire {
    seq: u64,
    n_rows: u32,
    context_len: u32,
    n_logits: u32,
    blocks: Vec<u32>,
}

#[derive(Serialize, Deserialize)]
struct SampleWire {
    params: ParamsWire,
    position: u32,
    prompt_tokens: Vec<u32>,
    answer_counts: Vec<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct SampledListWire(Vec<SampledWire>);

#[derive(Serialize, Deserialize)]
struct SampledWire {
    token: u32,
    logprob: Option<f32>,
    top: Vec<(u32, f32)>,
}

#[derive(Serialize, Deserialize)]
enum OutputWire {
    Token { id: u64, sampled: SampledWire },
    Finished { id: u64, reason: FinishWire, usage: UsageWire },
    Failed { id: u64, message: String },
}

#[derive(Serialize, Deserialize)]
enum FinishWire {
    Stop,
    Length,
    Cancelled,
}

#[derive(Serialize, Deserialize)]
struct UsageWire {
    prompt_tokens: u32,
    cached_tokens: u32,
    completion_tokens: u32,
}

impl From<&ToRank> for ToRankWire {
    fn from(message: &ToRank) -> ToRankWire {
        match message {
            ToRank::Init(init) => ToRankWire::Init(Box::new(init.as_ref().into())),
            ToRank::Submit(request) => ToRankWire::Submit(request.into()),
            ToRank::Cancel(id) => ToRankWire::Cancel(id.0),
            ToRank::Shutdown => ToRankWire::Shutdown,
        }
    }
}

impl TryFrom<ToRankWire> for ToRank {
    type Error = WireError;

    fn try_from(message: ToRankWire) -> Result<ToRank, WireError> {
        Ok(match message {
            ToRankWire::Init(init) => ToRank::Init(Box::new(Init::try_from(*init)?)),
            ToRankWire::Submit(request) => ToRank::Submit(request.try_into()?),
            ToRankWire::Cancel(id) => ToRank::Cancel(RequestId(id)),
            ToRankWire::Shutdown => ToRank::Shutdown,
        })
    }
}

impl From<&Init> for InitWire {
    fn from(init: &Init) -> InitWire {
        let mlx = |peers: &MlxPeers| match peers {
            MlxPeers::Ring { hosts } => MlxPeersWire::Ring { hosts: hosts.clone() },
            MlxPeers::Jaccl { devices, coordinator } => {
                MlxPeersWire::Jaccl { devices: devices.clone(), coordinator: *coordinator }
            }
        };
        InitWire {
            plan: PlanWire::from(&init.plan),
            rank: init.rank.0,
            model: init.model.clone().into_os_string().into_vec(),
            peers: init.peers.iter().map(|(rank, addr)| (rank.0, *addr)).collect(),
            mlx: init.mlx.as_ref().map(mlx),
            step_deadline_ms: u64::try_from(init.step_deadline.as_millis()).unwrap_or(u64::MAX),
            incarnation: init.incarnation,
        }
    }
}

impl TryFrom<InitWire> for Init {
    type Error = WireError;

    fn try_from(init: InitWire) -> Result<Init, WireError> {
        let mlx = |peers| match peers {
            MlxPeersWire::Ring { hosts } => MlxPeers::Ring { hosts },
            MlxPeersWire::Jaccl { devices, coordinator } => MlxPeers::Jaccl { devices, coordinator },
        };
        let init = Init {
            plan: Plan::try_from(init.plan)?,
            rank: RankId(init.rank),
            model: OsString::from_vec(init.model).into(),
            peers: init.peers.into_iter().map(|(rank, addr)| (RankId(rank), addr)).collect(),
            mlx: init.mlx.map(mlx),
            step_deadline: Duration::from_millis(init.step_deadline_ms),
            incarnation: init.incarnation,
        };
        init.check()
    }
}

impl From<&FromRank> for FromRankWire {
    fn from(message: &FromRank) -> FromRankWire {
        match message {
            FromRank::Listening { addr, mlx_addr, node } => {
                FromRankWire::Listening { addr: *addr, mlx_addr: *mlx_addr, node: node.into() }
            }
            FromRank::Ready { weights, load_ms, links } => {
                let links = links.iter().map(|(peer, over)| (peer.0, over.clone())).collect();
                FromRankWire::Ready { weights: weights.0, load_ms: *load_ms, links }
            }
            FromRank::Outputs(outputs) => {
                FromRankWire::Outputs(outputs.iter().map(OutputWire::from).collect())
            }
            FromRank::Failed { message } => FromRankWire::Failed { message: message.clone() },
            FromRank::Stats(stats) => FromRankWire::Stats(stats.into()),
            FromRank::Beat { busy_ms } => FromRankWire::Beat { busy_ms: *busy_ms },
        }
    }
}

impl From<FromRankWire> for FromRank {
    fn from(message: FromRankWire) -> FromRank {
        match message {
            FromRankWire::Listening { addr, mlx_addr, node } => {
                FromRank::Listening { addr, mlx_addr, node: node.into() }
            }
            FromRankWire::Ready { weights, load_ms, links } => {
                let links = links.into_iter().map(|(peer, over)| (RankId(peer), over)).collect();
                FromRank::Ready { weights: Bytes(weights), load_ms, links }
            }
            FromRankWire::Outputs(outputs) => {
                FromRank::Outputs(outputs.into_iter().map(Output::from).collect())
            }
            FromRankWire::Failed { message } => FromRank::Failed { message },
            FromRankWire::Stats(stats) => FromRank::Stats(stats.into()),
            FromRankWire::Beat { busy_ms } => FromRank::Beat { busy_ms },
        }
    }
}

/// Both directions of a struct whose fields have the same names and types on the wire.
macro_rules! same_fields {
    ($real:ident, $mirror:ident { $($field:ident),* }) => {
        impl From<&$real> for $mirror {
            fn from(real: &$real) -> $mirror {
                let $real { $($field),* } = *real;
                $mirror { $($field),* }
            }
        }

        impl From<$mirror> for $real {
            fn from(mirror: $mirror) -> $real {
                let $mirror { $($field),* } = mirror;
                $real { $($field),* }
            }
        }
    };
}

same_fields!(
    Stats,
    StatsWire {
        n_running,
        n_waiting,
        n_blocks_used,
        n_blocks,
        n_preemptions,
        n_prefix_hit_tokens,
        n_steps,
        n_prefill_tokens,
        prefill_us,
        n_decode_tokens,
        decode_us,
        n_graph_nodes,
        n_graph_launches,
        n_graph_evals
    }
);
same_fields!(Usage, UsageWire { prompt_tokens, cached_tokens, completion_tokens });

impl From<&Request> for RequestWire {
    fn from(request: &Request) -> RequestWire {
        RequestWire {
            id: request.id.0,
            prompt: numbers(&request.prompt),
            max_tokens: request.max_tokens,
            stop_tokens: numbers(&request.stop_tokens),
            sampling: (&request.sampling).into(),
        }
    }
}

impl TryFrom<RequestWire> for Request {
    type Error = WireError;

    fn try_from(request: RequestWire) -> Result<Request, WireError> {
        if request.prompt.is_empty() {
            return Err(WireError::invalid("tokens of a prompt", "at least 1", 0));
        }
        Ok(Request {
            id: RequestId(request.id),
            prompt: tokens(request.prompt),
            max_tokens: request.max_tokens,
            stop_tokens: tokens(request.stop_tokens),
            sampling: request.sampling.into(),
        })
    }
}

impl From<&SamplingParams> for ParamsWire {
    fn from(params: &SamplingParams) -> ParamsWire {
        ParamsWire {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            logit_bias: number_pairs(&params.logit_bias),
            seed: params.seed,
            n_logprobs: params.n_logprobs,
        }
    }
}

impl From<ParamsWire> for SamplingParams {
    fn from(params: ParamsWire) -> SamplingParams {
        SamplingParams {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            logit_bias: token_pairs(params.logit_bias),
            seed: params.seed,
            n_logprobs: params.n_logprobs,
        }
    }
}

impl From<&Step> for StepWire {
    fn from(step: &Step) -> StepWire {
        StepWire {
            tokens: numbers(&step.batch.tokens),
            seqs: step.batch.seqs.iter().map(SeqWire::from).collect(),
            samples: step.samples.iter().map(SampleWire::from).collect(),
        }
    }
}

impl TryFrom<StepWire> for Step {
    type Error = WireError;

    fn try_from(step: StepWire) -> Result<Step, WireError> {
        let seqs = step.seqs.into_iter().map(SeqSlice::try_from).collect::<Result<Vec<_>, _>>()?;
        let sum = |count: fn(&SeqSlice) -> u32| seqs.iter().map(|seq| u64::from(count(seq))).sum::<u64>();
        let (n_rows, n_logits) = (sum(|seq| seq.n_rows), sum(|seq| seq.n_logits));
        if n_rows != step.tokens.len() as u64 {
            return Err(WireError::invalid("rows of a step's sequences", step.tokens.len(), n_rows));
        }
        if n_logits != step.samples.len() as u64 {
            return Err(WireError::invalid("logits of a step's sequences", step.samples.len(), n_logits));
        }
        let samples = step.samples.into_iter().map(SampleSpec::from).collect();
        Ok(Step { batch: Batch { tokens: tokens(step.tokens), seqs }, samples })
    }
}

impl From<&SeqSlice> for SeqWire {
    fn from(seq: &SeqSlice) -> SeqWire {
        SeqWire {
            seq: seq.seq.0,
            n_rows: seq.n_rows,
            context_len: seq.context_len,
            n_logits: seq.n_logits,
            blocks: seq.blocks.iter().map(|block| block.0).collect(),
        }
    }
}

impl TryFrom<SeqWire> for SeqSlice {
    type Error = WireError;

    fn try_from(seq: SeqWire) -> Result<SeqSlice, WireError> {
        let SeqWire { n_rows, context_len, n_logits, .. } = seq;
        if n_rows > context_len {
            return Err(WireError::invalid(
                "rows of a sequence",
                format!("at most its context of {context_len}"),
                n_rows,
            ));
        }
        if n_logits > n_rows {
            return Err(WireError::invalid(
                "logits of a sequence",
                format!("at most its {n_rows} rows"),
                n_logits,
            ));
        }
        let blocks = seq.blocks.into_iter().map(BlockId).collect();
        Ok(SeqSlice { seq: SeqId(seq.seq), n_rows, context_len, n_logits, blocks })
    }
}

impl From<&SampleSpec> for SampleWire {
    fn from(spec: &SampleSpec) -> SampleWire {
        SampleWire {
            params: (&spec.params).into(),
            position: spec.position,
            prompt_tokens: numbers(&spec.prompt_tokens),
            answer_counts: number_pairs(&spec.answer_counts),
        }
    }
}

impl From<SampleWire> for SampleSpec {
    fn from(spec: SampleWire) -> SampleSpec {
        SampleSpec {
            params: spec.params.into(),
            position: spec.position,
            prompt_tokens: tokens(spec.prompt_tokens),
            answer_counts: token_pairs(spec.answer_counts),
        }
    }
}

impl From<&Vec<Sampled>> for SampledListWire {
    fn from(sampled: &Vec<Sampled>) -> SampledListWire {
        SampledListWire(sampled.iter().map(SampledWire::from).collect())
    }
}

impl From<SampledListWire> for Vec<Sampled> {
    fn from(list: SampledListWire) -> Vec<Sampled> {
        list.0.into_iter().map(Sampled::from).collect()
    }
}

impl From<&Sampled> for SampledWire {
    fn from(sampled: &Sampled) -> SampledWire {
        let (token, logprob) = (sampled.token.0, sampled.logprob);
        SampledWire { token, logprob, top: number_pairs(&sampled.top) }
    }
}

impl From<SampledWire> for Sampled {
    fn from(sampled: SampledWire) -> Sampled {
        let (token, logprob) = (TokenId(sampled.token), sampled.logprob);
        Sampled { token, logprob, top: token_pairs(sampled.top) }
    }
}

impl From<&Output> for OutputWire {
    fn from(output: &Output) -> OutputWire {
        match output {
            Output::Token { id, sampled } => OutputWire::Token { id: id.0, sampled: sampled.into() },
            Output::Finished { id, reason, usage } => {
                let reason = match reason {
                    FinishReason::Stop => FinishWire::Stop,
                    FinishReason::Length => FinishWire::Length,
                    FinishReason::Cancelled => FinishWire::Cancelled,
                };
                OutputWire::Finished { id: id.0, reason, usage: usage.into() }
            }
            Output::Failed { id, message } => OutputWire::Failed { id: id.0, message: message.clone() },
        }
    }
}

impl From<OutputWire> for Output {
    fn from(output: OutputWire) -> Output {
        match output {
            OutputWire::Token { id, sampled } => Output::Token { id: RequestId(id), sampled: sampled.into() },
            OutputWire::Finished { id, reason, usage } => {
                let reason = match reason {
                    FinishWire::Stop => FinishReason::Stop,
                    FinishWire::Length => FinishReason::Length,
                    FinishWire::Cancelled => FinishReason::Cancelled,
                };
                Output::Finished { id: RequestId(id), reason, usage: usage.into() }
            }
            OutputWire::Failed { id, message } => Output::Failed { id: RequestId(id), message },
        }
    }
}

fn numbers(tokens: &[TokenId]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}

fn tokens(numbers: Vec<u32>) -> Vec<TokenId> {
    numbers.into_iter().map(TokenId).collect()
}

fn number_pairs<T: Copy>(pairs: &[(TokenId, T)]) -> Vec<(u32, T)> {
    pairs.iter().map(|(token, value)| (token.0, *value)).collect()
}

fn token_pairs<T>(pairs: Vec<(u32, T)>) -> Vec<(TokenId, T)> {
    pairs.into_iter().map(|(number, value)| (TokenId(number), value)).collect()
}
