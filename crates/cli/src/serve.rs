//! `onefold serve`, and `onefold rank`, its other end.

use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use node::{ModelText, OpenModel, RankOptions, Replica, SecretLine};

use crate::{
    args::{RankArgs, ServeArgs},
    start,
};

/// Serves a model until interrupted.
pub(crate) fn run(args: &ServeArgs) -> Result<()> {
    let listener = node::bind(SocketAddr::new(args.host, args.port))?;
    let model = start::open_model(&args.model)?;
    let (replica, text) =
        start::replica_and_text(&model, &args.placement, Some(&args.remote), args.max_requests)?;
    open_api(model, text, replica, listener)
}

/// Opens the API and says how to use it.
pub(crate) fn open_api(
    model: OpenModel,
    text: ModelText,
    replica: Replica,
    listener: TcpListener,
) -> Result<()> {
    let id = model.id.clone();
    node::serve(model, text, replica, listener, move |address| {
        eprintln!("{id} is served at http://{address}/v1 (Ctrl-C ends it)");
        eprintln!("  curl http://{address}/v1/chat/completions -H 'content-type: application/json' \\");
        eprintln!(
            "    -d '{{\"model\": \"{id}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'"
        );
    })?;
    Ok(())
}

/// Runs one rank until the serving process goes away.
pub(crate) fn rank(args: &RankArgs) -> Result<()> {
    let secret = match &args.secret_file {
        Some(file) => SecretLine::read_file(file)?,
        None => SecretLine::read(std::io::stdin().lock())?,
    };
    node::run_rank(RankOptions {
        connect: args.connect,
        rank: base::RankId(args.rank),
        secret,
        model: args.model.clone(),
    })?;
    Ok(())
}
