//! The conformance suite over MLX, and what MLX alone has to show: failures that leave it usable, memory that does not grow. Tests
//! of one process follow each other on its main thread, to which MLX belongs.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::{sync::mpsc, thread, time::Duration};

use backend::{
    Backend, BackendError, ExpertParts, MlxBackend, MlxGroup, MlxMemory, MlxOptions, conformance::run,
};
use base::{Bytes, DType, MatrixView, RankId, TokenId, WeightView};
use collective::{Group, Mesh, Solo, World};
use libtest_mimic::{Arguments, Trial};
use transport::{Link, MemoryLink};

/// Time for a collective.
const DEADLINE: Duration = Duration::from_millis(500);

fn main() {
    let arguments = Arguments { test_threads: Some(1), ..Arguments::from_args() };
    let trial = |name: &str, test: fn()| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let tests = vec![
        trial("mlx_conforms", || conforms(DType::F32, false, 40)),
        trial("mlx_conforms_fused", || conforms(DType::F32, true, 40)),
        trial("mlx_conforms_in_f16", || conforms(DType::F16, true, 10)),
        trial("mlx_conforms_in_bf16", || conforms(DType::BF16, true, 10)),
        trial("out_of_memory_is_an_error_of_the_step", out_of_memory),
        trial("a_peer_that_ends_is_an_error_of_the_evaluation", || lost_peer(Loss::Ends)),
        trial("a_peer_that_hangs_is_an_error_within_the_deadline", || lost_peer(Loss::Hangs)),
        trial("a_draw_that_fails_is_an_error_of_its_step", failed_draw),
        trial("experts_of_several_formats_are_refused", mixed_experts),
        trial("a_second_thread_is_refused", second_thread),
    ];
    libtest_mimic::run(&arguments, tests).exit();
}

fn options(activations: DType, fuse: bool) -> MlxOptions {
    MlxOptions { memory: None, activations, fuse }
}

/// All that is promised without a GPU, which is more than `n_checks` checks.
fn conforms(activations: DType, fuse: bool, n_checks: usize) {
    let options = options(activations, fuse);
    let mut make = || MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo)));
    let mut outcomes = run(&mut make, &MlxBackend::tolerance(activations));
    outcomes.retain(|o| MlxBackend::promises(activations, false, o.name));
    assert!(outcomes.len() > n_checks, "{} checks", outcomes.len());
    let failures: Vec<String> =
        outcomes.iter().filter_map(|o| Some(format!("{}: {}", o.name, o.error.as_ref()?))).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// An array that the plan's memory has no room for fails the step; the next one is computed.
fn out_of_memory() {
    let memory = Some(MlxMemory { resident: Bytes(1 << 30), step: Bytes(1 << 30) });
    let options = MlxOptions { memory, ..options(DType::F32, true) };
    let mut b = MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo))).unwrap();
    let row = b.tensor(&[1.0; 1 << 12], 1 << 12).unwrap();
    let wide = b.select_rows(&row, &[0; 1 << 20]).unwrap(); // 16 GiB
    let mut out = Vec::new();
    let error = b.eval(&wide, &mut out).unwrap_err();
    assert!(matches!(error, BackendError::OutOfMemory { .. }), "{error}");
    b.eval(&row, &mut out).unwrap();
    assert!(out.iter().all(|&v| v == 1.0));
}

/// What the host does inside a graph fails: waiting for it says so and does not hang, and the next step is computed.
fn failed_draw() {
    let mut b = MlxBackend::new(&options(DType::F32, true), MlxGroup::Onefold(Box::new(Solo))).unwrap();
    let logits = b.tensor(&[0.5; 20], 10).unwrap();
    let beyond = |_: &[f32], tokens: &mut [TokenId]| tokens.fill(TokenId(10)); // there are words 0..10
    let panics = |_: &[f32], _: &mut [TokenId]| -> () { panic!("a defect of a sampler") };
    // often, for what a failure leaves behind depends on who is first
    for i in 0..300 {
        let fails: backend::Draw = if i == 0 { Box::new(panics) } else { Box::new(beyond) };
        // the host may have failed before all of the graph is queued
        let error = b.draw(&logits, fails).and_then(|drawn| b.finish(&drawn)).unwrap_err();
        assert!(error.to_string().contains("could not choose"), "{error}");
        let drawn = b.draw(&logits, Box::new(|_, tokens| tokens.fill(TokenId(3)))).unwrap();
        b.finish(&drawn).unwrap();
    }
    let mut out = Vec::new();
    b.eval(&logits, &mut out).unwrap();
    assert_eq!(out, [0.5; 20]);
}

/// A stack of experts is one array: formats that lie differently in it are an error that names them.
fn mixed_experts() {
    let mut b = MlxBackend::new(&options(DType::F32, true), MlxGroup::Onefold(Box::new(Solo))).unwrap();
    let bytes = [0; 32 * 32 * 4];
    let view = |dtype: DType| {
        let n_bytes = 32 * dtype.row_bytes(32).unwrap();
        WeightView::Blocks(MatrixView::whole(dtype, 32, 32, &bytes[..n_bytes]).unwrap())
    };
    let one = [view(DType::Q4_0), view(DType::Q4_1)]; // both 4 bits, groups of 32
    b.experts(&ExpertParts { first: 0, gate: &one, up: &one, down: &one }).unwrap();
    for other in [DType::F32, DType::Q8_0] {
        let mixed = [view(DType::Q4_0), view(other)];
        let error = b.experts(&ExpertParts { first: 0, gate: &mixed, up: &one, down: &one }).err().unwrap();
        assert!(error.to_string().contains("bits: 4"), "{error}");
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Loss {
    Ends,
    Hangs,
}

/// Two ranks sum inside a graph until one is lost. The other's evaluation fails and says who is lost; then it computes on,
/// over the graph of a new group too.
fn lost_peer(loss: Loss) {
    let (mine, theirs) = MemoryLink::pair();
    let (lost, wait) = mpsc::channel::<()>();
    let peer = thread::spawn(move || {
        let mut group = mesh(RankId(1), RankId(0), theirs);
        group.all_reduce((&mut [10.0_f32; 8][..]).into()).unwrap();
        if loss == Loss::Hangs {
            let _ = wait.recv(); // with the link open
        }
    });
    let options = options(DType::F32, true);
    let group = MlxGroup::Onefold(Box::new(mesh(RankId(0), RankId(1), mine)));
    let mut b = MlxBackend::new(&options, group).unwrap();
    let sum = |b: &mut MlxBackend| {
        let x = b.tensor(&[1.0; 8], 8).unwrap();
        let x = b.all_reduce(x).and_then(|x| b.add(x.clone(), &x)).unwrap();
        let mut out = Vec::new();
        b.eval(&x, &mut out).map(|()| out)
    };
    assert_eq!(sum(&mut b).unwrap(), [22.0; 8]);
    let error = sum(&mut b).unwrap_err();
    assert!(matches!(error, BackendError::Collective(_)), "{error:?}");
    assert!(error.to_string().contains("rank 1"), "{error}");
    drop(lost);
    peer.join().unwrap();
    let x = b.tensor(&[2.0; 8], 8).unwrap();
    let mut out = Vec::new();
    b.eval(&x, &mut out).unwrap();
    let mut b = MlxBackend::new(&options, MlxGroup::Onefold(Box::new(Solo))).unwrap();
    assert_eq!(sum(&mut b).unwrap(), [2.0; 8], "the next request is served");
}

fn mesh(me: RankId, peer: RankId, link: MemoryLink) -> Mesh {
    let links: Vec<(RankId, Box<dyn Link>)> = vec![(peer, Box::new(link))];
    Mesh::whole(World::new(me, links, DEADLINE).unwrap().shared()).unwrap()
}

fn second_thread() {
    let solo = || MlxGroup::Onefold(Box::new(Solo));
    let _first = MlxBackend::new(&options(DType::F32, true), solo()).unwrap();
    let second = std::thread::spawn(move || MlxBackend::new(&options(DType::F32, true), solo()).err());
    let error = second.join().unwrap();
    assert!(matches!(error, Some(BackendError::Device { .. })), "{error:?}");
}
