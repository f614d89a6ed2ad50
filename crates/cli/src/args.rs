//! Commands and their options.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, value_parser};

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
    #[command(flatten)]
    pub(crate) placement: PlacementArgs,
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

fn temperature(text: &str) -> Result<f32, String> {
    let is_sound = |t: &f32| t.is_finite() && *t >= 0.0;
    text.parse().ok().filter(is_sound).ok_or_else(|| "expected a number of 0 or more".to_owned())
}
