//! `onefold quickstart`: fetch, share, answer, in one command.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::Result;
use base::SamplingParams;
use plan::Fence;

use crate::{
    args::{ComputeArgs, PlacementArgs, QuickstartArgs, STEP_DEADLINE_S},
    chat::Chat,
    serve, start,
};

const QUESTION: &str = "Why is the sky blue? Answer in two sentences.";
const MAX_TOKENS: u32 = 128;

/// Fetches the default model, shares it over two ranks, answers a question.
pub(crate) fn run(args: &QuickstartArgs) -> Result<()> {
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), args.port);
    let listener = args.serve.then(|| node::bind(address)).transpose()?;
    let model = start::open_model(node::models::DEFAULT_MODEL)?;
    let placement = PlacementArgs {
        tp: 2,
        pp: 1,
        split: None,
        stage_split: None,
        threads: Some(1),
        context: None,
        kv_tokens: None,
        compute: ComputeArgs {
            backend: None,
            collectives: None,
            fence: Fence::Safe,
            jaccl_devices: None,
            step_deadline: STEP_DEADLINE_S,
        },
    };
    eprintln!("\n{} shared by two rank processes, tensor parallel:", model.id);
    let (replica, text) = start::replica_and_text(&model, &placement, None, start::MAX_LOCAL_REQUESTS)?;

    println!("\n> {QUESTION}\n");
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let client = replica.client();
    let context_len = replica.plan().context_len();
    let mut chat =
        Chat { text: &text, client, sampling, max_tokens: MAX_TOKENS, context_len, messages: vec![] };
    let answer = chat.ask(QUESTION)?;
    println!("\n{}", answer.summary());

    if let Some(listener) = listener {
        return serve::open_api(model, text, replica, listener);
    }
    replica.stop();
    println!("\nNext:");
    println!("  cargo run --release -- run {}                 # chat", model.id);
    println!("  cargo run --release -- serve {} --tp 2        # the OpenAI-compatible API", model.id);
    println!("  cargo run --release -- models                               # other models");
    Ok(())
}
