//! Commands and their options.

use std::{net::SocketAddr, path::PathBuf};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
    value_parser,
};
use plan::{BackendKind, Collectives, Fence};

use crate::field_test::Part;

/// Time a step may take unless asked for otherwise, in seconds: more than a long prompt's chunk takes on a slow machine.
pub(crate) const STEP_DEADLINE_S: u64 = 60;
/// Longest time a step may be given, in seconds: a day.
const MAX_STEP_DEADLINE_S: u64 = 86_400;

/// The machines you own, folded into one AI computer.
#[derive(Parser)]
#[command(name = "onefold", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Fetch the default model, share it over two rank processes, and answer a question.
    #[command(after_help = "Example:\n  onefold quickstart --serve")]
    Quickstart(QuickstartArgs),
    /// Chat with a model in this terminal, or answer one prompt.
    #[command(
        after_help = "Examples:\n  onefold run smollm2\n  onefold run ./model.gguf \"Why is the sky blue?\""
    )]
    Run(RunArgs),
    /// Serve a model over an OpenAI-compatible HTTP API.
    #[command(after_help = "Example:\n  onefold serve qwen3-8b --tp 2 --port 8080")]
    Serve(ServeArgs),
    /// Fetch a model's files into the cache.
    #[command(after_help = "Example:\n  onefold pull llama-3.2-1b-instruct")]
    Pull(PullArgs),
    /// List the models that have a card, and what is in the cache.
    #[command(after_help = "Example:\n  onefold models --json")]
    Models(ModelsArgs),
    /// Measure prefill and decode speed.
    #[command(
        after_help = "Example:\n  onefold bench ./model.gguf -p 512 -n 128 --repeat 5 --tp 2 --threads 1"
    )]
    Bench(BenchArgs),
    /// Say what stands between this machine and full speed, and which command mends it. Changes no setting.
    #[command(
        after_help = "Examples:\n  onefold doctor\n  onefold doctor --json > studio-1.json\n  onefold doctor --beside studio-1.json\n\nFindings are no failure: the exit code is 0 whenever the machine could be looked at."
    )]
    Doctor(DoctorArgs),
    /// Look at the links of this machine, and measure them.
    #[command(
        after_help = "Examples:\n  onefold fabric links\n  onefold fabric bench\n  onefold fabric listen --secret-file secret                    # on one machine\n  onefold fabric bench 192.168.1.10:7710 --secret-file secret   # on the other"
    )]
    Fabric(FabricArgs),
    /// Check and measure this machine, and write one report to send back. Sends nothing and changes no setting.
    #[command(after_help = "Example:\n  onefold field-test --output report.md")]
    FieldTest(FieldTestArgs),
    /// Predict how a model runs on this machine, on machines you describe, or on machines to be bought. Starts nothing.
    #[command(
        after_help = "Examples:\n  onefold plan qwen3-4b\n  onefold plan kimi-k2-thinking --on \"4x mac-studio-m3-ultra-512 over tb5-rdma\"\n  onefold plan --buy kimi-k2-thinking --min-tok-s 20 --max-watts 1200 --max-usd 40000"
    )]
    Plan(PlanArgs),
    /// One rank of a replica; started by the other commands, or by hand on another machine.
    #[command(
        hide = true,
        after_help = "Example:\n  onefold rank --connect 192.168.1.10:7700 --rank 1 --secret-file ./secret --model ./model.gguf"
    )]
    Rank(RankArgs),
}

/// How a model is shared out.
#[derive(Args, Clone)]
pub(crate) struct PlacementArgs {
    /// Ranks that share every layer (tensor parallel).
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) tp: u32,
    /// Stages that share out the layers (pipeline parallel).
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) pp: u32,
    /// Weights of the ranks of a tensor group, such as 3,1; as even as possible when absent.
    #[arg(long, value_delimiter = ',', value_name = "W,W,…")]
    pub(crate) split: Option<Vec<u32>>,
    /// Weights of the stages, such as 2,1; as even as possible when absent.
    #[arg(long, value_delimiter = ',', value_name = "W,W,…")]
    pub(crate) stage_split: Option<Vec<u32>>,
    /// Threads of each rank; all cores shared out when absent.
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<u32>,
    /// Longest sequence in tokens; the model's own limit, at most 8192, when absent.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<u32>,
    /// Tokens the KV cache holds over all requests.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) kv_tokens: Option<u32>,
    #[command(flatten)]
    pub(crate) compute: ComputeArgs,
}

/// What ranks compute with.
#[derive(Args, Clone)]
pub(crate) struct ComputeArgs {
    /// What ranks compute with: one for all, or a list with one for each; what their machines do best when absent.
    #[arg(long, value_delimiter = ',', value_name = "BACKEND,…", value_parser = one_of(BackendKind::ALL, BackendKind::name))]
    pub(crate) backend: Option<Vec<BackendKind>>,
    /// Who sums over the ranks of a stage; MLX's own where all ranks are Macs with MLX, else onefold when absent.
    #[arg(long, value_name = "WHO", value_parser = one_of(Collectives::ALL, Collectives::name))]
    pub(crate) collectives: Option<Collectives>,
    /// How sums inside a graph wait for a Mac's GPU; the fast way has been seen to wedge GPUs until a restart.
    #[arg(long, default_value = Fence::Safe.name(), value_name = "KIND", value_parser = one_of(Fence::ALL, Fence::name))]
    pub(crate) fence: Fence,
    /// File that says which RDMA device leads from which rank to which: a JSON list for each rank, with a device or null
    /// for each rank.
    #[arg(long, value_name = "FILE")]
    pub(crate) jaccl_devices: Option<PathBuf>,
    /// Time one step may take before its rank is taken to hang and is killed. A long prompt on a slow machine may need
    /// more.
    #[arg(long, default_value_t = STEP_DEADLINE_S, value_name = "SECONDS", value_parser = value_parser!(u64).range(1..=MAX_STEP_DEADLINE_S))]
    pub(crate) step_deadline: u64,
}

/// Ranks on other machines.
#[derive(Args, Clone)]
pub(crate) struct RemoteArgs {
    /// Wait for this many ranks to be started by hand on other machines; they take the last ranks of the plan.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "listen")]
    pub(crate) remote: u32,
    /// Address on which this machine waits for them. The connection is authenticated but not encrypted.
    #[arg(long, value_name = "IP:PORT", requires = "remote")]
    pub(crate) listen: Option<SocketAddr>,
    /// File that holds the replica's secret on every machine (at least 32 characters).
    #[arg(long, value_name = "FILE", requires = "listen")]
    pub(crate) secret_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct QuickstartArgs {
    /// Keep the HTTP API open afterwards.
    #[arg(long)]
    pub(crate) serve: bool,
    /// Port of the API.
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// A model card's name, a .gguf file, or a directory with config.json and safetensors.
    pub(crate) model: String,
    /// Answer this and exit; without it, chat.
    pub(crate) prompt: Option<String>,
    /// System message.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// 0 is greedy.
    #[arg(long, default_value_t = 0.7, value_parser = temperature, allow_negative_numbers = true)]
    pub(crate) temperature: f32,
    /// Fixes every random choice.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Tokens of an answer at most.
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_tokens: u32,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

#[derive(Args)]
pub(crate) struct ServeArgs {
    /// A model card's name, a .gguf file, or a directory with config.json and safetensors.
    pub(crate) model: String,
    /// Port of the API.
    #[arg(long, default_value_t = 8080)]
    pub(crate) port: u16,
    /// Address the API binds to; there is no authentication yet, so anything but loopback is open to your network.
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: std::net::IpAddr,
    /// Requests open at once; more are answered with 429.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) max_requests: u32,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
}

#[derive(Args)]
pub(crate) struct PullArgs {
    /// A model card's name.
    pub(crate) model: String,
}

#[derive(Args)]
pub(crate) struct ModelsArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// A model card's name, a .gguf file, or a directory with config.json and safetensors.
    pub(crate) model: String,
    /// Tokens of the prompt in the prefill test; 0 leaves it out.
    #[arg(short = 'p', long, default_value_t = 512, value_name = "N")]
    pub(crate) prompt: u32,
    /// Tokens generated in the decode test; 0 leaves it out.
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N")]
    pub(crate) generate: u32,
    /// Runs of each test, after one that is not counted.
    #[arg(short = 'r', long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub(crate) repeat: u32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Also print what the backend hands to its device for a token of decode.
    #[arg(short = 'v', long)]
    pub(crate) verbose: bool,
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
}

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// What another machine of the cluster printed with --json, to judge the pair too; may be given several times.
    #[arg(long, value_name = "FILE")]
    pub(crate) beside: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct FabricArgs {
    #[command(subcommand)]
    pub(crate) command: FabricCommand,
}

#[derive(Subcommand)]
pub(crate) enum FabricCommand {
    /// This machine's interfaces: what they are, and what limits them. Changes no setting.
    #[command(after_help = "Example:\n  onefold fabric links --json")]
    Links(FabricLinksArgs),
    /// Measure the link to another machine, or this machine with itself.
    #[command(after_help = "Example:\n  onefold fabric bench 192.168.1.10:7710 --secret-file secret")]
    Bench(FabricBenchArgs),
    /// Wait for the benchmarks of other machines, until interrupted.
    #[command(after_help = "Example:\n  onefold fabric listen --secret-file secret")]
    Listen(FabricListenArgs),
}

#[derive(Args)]
pub(crate) struct FabricLinksArgs {
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct FabricBenchArgs {
    /// Where the other machine listens; without it, this machine with itself.
    #[arg(value_name = "HOST:PORT", requires = "secret_file")]
    pub(crate) peer: Option<String>,
    /// File that holds the same secret on both machines (at least 32 characters).
    #[arg(long, value_name = "FILE", requires = "peer")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Only shows that everything runs; the numbers mean little.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args)]
pub(crate) struct FabricListenArgs {
    /// Where to listen. Who calls must know the secret; what is sent is not encrypted.
    #[arg(value_name = "IP:PORT", default_value_t = SocketAddr::from(([0, 0, 0, 0], node::fabric::DEFAULT_BENCH_PORT)))]
    pub(crate) address: SocketAddr,
    /// File that holds the same secret on both machines (at least 32 characters).
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: PathBuf,
}

#[derive(Args)]
pub(crate) struct FieldTestArgs {
    /// Where the report goes; onefold-field-test-HOST-DATE.md in this folder when absent.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Small sizes: shows that everything runs; the speeds mean nothing.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Model of the benchmark, as for bench; the default model when absent, or one made on the spot if that cannot be had.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// Measure with MLX's fast fence too, at the end. It has been seen to wedge GPUs until a restart: save your work first.
    #[arg(long)]
    pub(crate) fast_fence: bool,
    /// Only this part, its outcome as JSON on standard output.
    #[arg(long, hide = true, value_name = "NAME", value_parser = one_of(Part::ALL, Part::name))]
    pub(crate) part: Option<Part>,
}

#[derive(Args)]
pub(crate) struct PlanArgs {
    /// A model card's name, a .gguf file, a directory with config.json, a config.json, or a name whose sizes are known.
    pub(crate) model: String,
    /// Machines, such as "4x mac-studio-m3-ultra-512 over tb5-rdma", or a .toml file that describes a cluster; this machine when
    /// absent.
    #[arg(long, value_name = "CLUSTER", conflicts_with = "buy")]
    pub(crate) on: Option<String>,
    /// Longest sequence in tokens; the model's own limit, at most 8192, when absent.
    #[arg(long, value_name = "TOKENS")]
    pub(crate) context: Option<u32>,
    /// Requests served at once, whose caches must fit together.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) requests: u32,
    /// Prefer memory left over to speed.
    #[arg(long, conflicts_with = "buy")]
    pub(crate) headroom: bool,
    /// Watts that all machines may draw while decoding.
    #[arg(long, value_name = "W", value_parser = positive)]
    pub(crate) max_watts: Option<f64>,
    /// Search the catalogue for machines that meet the limits, cheapest first.
    #[arg(long)]
    pub(crate) buy: bool,
    /// Tokens of decode a second that are wanted.
    #[arg(long, value_name = "N", requires = "buy", value_parser = positive)]
    pub(crate) min_tok_s: Option<f64>,
    /// Price of all machines, in US dollars.
    #[arg(long, value_name = "USD", requires = "buy", value_parser = positive)]
    pub(crate) max_usd: Option<f64>,
    /// Price of energy.
    #[arg(long, default_value_t = 0.15, value_name = "USD", value_parser = positive)]
    pub(crate) usd_per_kwh: f64,
    /// Years over which the machines' price is spread.
    #[arg(long, default_value_t = 3.0, value_name = "N", value_parser = positive)]
    pub(crate) years: f64,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
    /// Draw topology and timeline into this file.
    #[arg(long, value_name = "FILE", conflicts_with = "buy")]
    pub(crate) svg: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct RankArgs {
    /// Address of the serving process.
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) connect: SocketAddr,
    /// Which rank of the plan this is.
    #[arg(long, value_name = "N")]
    pub(crate) rank: u32,
    /// File with the replica's secret; read from standard input when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Path of the model on this machine; the serving process's own path when absent.
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
}

/// Takes the name of one of these values.
fn one_of<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    let names = PossibleValuesParser::new(all.iter().map(|value| name(*value)));
    names.try_map(move |text| {
        all.iter().copied().find(|value| name(*value) == text).ok_or_else(|| format!("unknown: {text}"))
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let is_sound = |n: &f64| n.is_finite() && *n > 0.0;
    text.parse().ok().filter(is_sound).ok_or_else(|| "expected a number above 0".to_owned())
}

fn temperature(text: &str) -> Result<f32, String> {
    let is_sound = |t: &f32| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(is_sound).ok_or_else(|| "expected a number of 0 or more".to_owned())
}
