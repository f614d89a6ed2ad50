//! The benchmark of the report: which model, which setups, and `onefold bench` in a process of its own for each of them. It
//! measures nothing itself.

use std::fmt;

use anyhow::{Context, Result};
use node::models::DEFAULT_MODEL;
use plan::{BackendKind, Collectives, Fence};
use serde_json::{Value, json};
use weights::synthetic::{Arch, Quant, Recipe};

use super::{
    child::{self, Scratch},
    outcome::{Outcome, Status},
};
use crate::{args::FieldTestArgs, start};

/// How a model is shared out and computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setup {
    backend: BackendKind,
    /// Ranks that share every layer.
    tp: u32,
    collectives: Collectives,
    fence: Fence,
}

/// How long a benchmark is.
pub(super) struct Sizes {
    n_prompt: u32,
    n_generate: u32,
    n_runs: u32,
}

/// The model to measure with, as the commands take it, and where it comes from.
pub(super) fn model(args: &FieldTestArgs, scratch: &Scratch) -> Result<(String, Outcome)> {
    let asked = args.model.as_deref();
    if asked.is_none() && args.quick {
        return made(&Recipe::tiny(Arch::Llama), "this is a quick test", scratch);
    }
    let name = asked.unwrap_or(DEFAULT_MODEL);
    let error = match start::open_model(name) {
        Ok(model) => {
            let path = model.path.to_str().context("the model's path is no Unicode")?.to_owned();
            let result =
                json!({"model": model.id, "weight_bytes": model.weight_bytes().0, "synthetic": false});
            return Ok((path, Outcome::passed(result)));
        }
        Err(error) => format!("{error:#}"),
    };
    let (path, mut outcome) = made(&like_the_default(), &error, scratch)?;
    if asked.is_some() {
        // somebody wanted it; the default is no more than usual
        outcome = Outcome { status: Status::Failed, why: Some(error), ..outcome };
    }
    Ok((path, outcome))
}

/// A model with random weights.
fn made(recipe: &Recipe, why: &str, scratch: &Scratch) -> Result<(String, Outcome)> {
    let path = scratch.folder().join("synthetic.gguf");
    recipe.write_gguf(&path)?;
    let result = json!({
        "model": "synthetic", "weight_bytes": recipe.n_bytes().0, "synthetic": true, "because": why,
    });
    Ok((path.to_str().context("the folder's path is no Unicode")?.to_owned(), Outcome::passed(result)))
}

/// The default model's sizes, so that the numbers can be compared.
fn like_the_default() -> Recipe {
    Recipe {
        n_layers: 30,
        hidden: 576,
        n_heads: 9,
        n_kv_heads: 3,
        head_dim: 64,
        ffn: 1536,
        vocab: 49_152,
        quant: Quant::Uniform(base::DType::Q4_1),
        context: 8192,
        tied: true,
        ..Recipe::tiny(Arch::Llama)
    }
}

impl Setup {
    fn new(backend: BackendKind, tp: u32, collectives: Collectives, fence: Fence) -> Setup {
        Setup { backend, tp, collectives, fence }
    }

    /// Every backend with one rank and with two, the sums of two in every way there is on one machine.
    pub(super) fn safe(has_mlx: bool) -> Vec<Setup> {
        let (cpu, mlx) = (BackendKind::Cpu, BackendKind::Mlx);
        let (ours, ring) = (Collectives::Onefold, Collectives::MlxRing);
        let all = [(cpu, 1, ours), (cpu, 2, ours), (mlx, 1, ours), (mlx, 2, ours), (mlx, 2, ring)];
        let all = all.into_iter().filter(|(backend, ..)| has_mlx || *backend != mlx);
        all.map(|(backend, tp, sums)| Setup::new(backend, tp, sums, Fence::Safe)).collect()
    }

    /// What the fast fence changes.
    pub(super) fn fast() -> Vec<Setup> {
        let sums = [Collectives::Onefold, Collectives::MlxRing];
        sums.into_iter().map(|sums| Setup::new(BackendKind::Mlx, 2, sums, Fence::Fast)).collect()
    }

    /// MLX's build for CPUs is there for tests, and slow.
    pub(super) fn sizes(&self, quick: bool, has_gpu: bool) -> Sizes {
        let (n_prompt, n_generate, n_runs) = match (quick, self.backend, has_gpu) {
            (true, ..) => (16, 4, 2),
            (false, BackendKind::Mlx, false) => (32, 16, 3),
            (false, ..) => (512, 128, 5),
        };
        Sizes { n_prompt, n_generate, n_runs }
    }

    /// Measures in a process of its own.
    pub(super) fn run(&self, model: &str, sizes: &Sizes, scratch: &Scratch) -> Result<Outcome> {
        let mut command = child::this_program()?;
        command.args(self.arguments(model, sizes));
        let mut result: Value = serde_json::from_str(&child::said(&mut command, scratch)?)?;
        result["backend"] = self.backend.name().into();
        result["collectives"] = (self.tp > 1).then(|| self.collectives.name()).into();
        result["fence"] = self.has_fence().then(|| self.fence.name()).into();
        result["runs"] = sizes.n_runs.into();
        Ok(Outcome::passed(result))
    }

    /// Whether sums wait for a device.
    fn has_fence(&self) -> bool {
        self.tp > 1 && self.backend == BackendKind::Mlx
    }

    fn arguments(&self, model: &str, sizes: &Sizes) -> Vec<String> {
        let Sizes { n_prompt, n_generate, n_runs } = sizes;
        let mut line = format!(
            "bench --json --verbose -p {n_prompt} -n {n_generate} -r {n_runs} --backend {} --tp {}",
            self.backend, self.tp
        );
        if self.tp > 1 {
            line += &format!(" --collectives {} --fence {}", self.collectives, self.fence);
        }
        line.split(' ').map(str::to_owned).chain(["--".to_owned(), model.to_owned()]).collect()
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setup { backend, tp, collectives, fence } = self;
        match (tp, self.has_fence()) {
            (1, _) => write!(f, "benchmark of {backend}, 1 rank"),
            (_, false) => write!(f, "benchmark of {backend}, {tp} ranks, {collectives}"),
            (_, true) => write!(f, "benchmark of {backend}, {tp} ranks, {collectives}, {fence} fence"),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    #[test]
    fn every_setup_is_a_command_that_is_understood() {
        let all = [Setup::safe(true), Setup::fast()].concat();
        assert_eq!(all.len(), 7);
        for setup in &all {
            let arguments = setup.arguments("-odd name.gguf", &setup.sizes(true, false));
            let cli = Cli::try_parse_from(["onefold".to_owned()].into_iter().chain(arguments)).unwrap();
            let Command::Bench(args) = cli.command else { panic!("{setup}") };
            assert_eq!((args.model.as_str(), args.prompt, args.repeat), ("-odd name.gguf", 16, 2));
            assert_eq!((args.placement.tp, args.placement.compute.fence), (setup.tp, setup.fence));
            assert_eq!(args.placement.compute.backend, Some(vec![setup.backend]));
        }
        let names: std::collections::BTreeSet<String> = all.iter().map(Setup::to_string).collect();
        assert_eq!(names.len(), all.len(), "each has its own name");
        assert!(Setup::safe(false).iter().all(|setup| setup.backend == BackendKind::Cpu));
    }

    #[test]
    fn the_made_model_is_as_large_as_the_default() {
        let n = like_the_default().n_parameters();
        assert!((130_000_000..140_000_000).contains(&n), "{n}");
    }
}
