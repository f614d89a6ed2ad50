//! A decode step on the CPU takes its memory from the steps before it: from the step's inputs to its logits nothing is
//! allocated. One thread, so that all of the work is counted.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use allocation_counter::measure;
use backend::{Backend, CpuBackend, Isa};
use base::{Batch, BlockId, Bytes, NodeId, SeqId, SeqSlice, TokenId};
use collective::Solo;
use kernels::Pool;
use models::{Description, Model};
use plan::{BackendKind, Fence, Goal, Node, Plan, Topology};
use weights::{
    Checkpoint,
    synthetic::{Arch, Quant, Recipe},
};

const PROMPT_LEN: u32 = 21;
const BLOCK_LEN: u32 = 16;

#[test]
fn a_decode_step_allocates_nothing() {
    for (arch, quant) in [(Arch::Llama, "Q4_K_M"), (Arch::Qwen2, "BF16"), (Arch::Qwen3, "Q8_0")] {
        let (model, mut backend) = load(arch, quant.parse().unwrap());
        for n_seqs in [1, 3] {
            let mut forward = |n_rows, context_len| {
                let batch = batch(n_seqs, n_rows, context_len);
                let inputs = backend.inputs(&batch).unwrap();
                measure(|| drop(model.forward(&mut backend, &batch, inputs, None).unwrap())).count_total
            };
            assert!(forward(PROMPT_LEN, PROMPT_LEN) > 0, "nothing is counted");
            forward(1, PROMPT_LEN + 1);
            for context_len in PROMPT_LEN + 2..PROMPT_LEN + 20 {
                assert_eq!(
                    forward(1, context_len),
                    0,
                    "{arch} {quant}, {n_seqs} sequences, {context_len} tokens"
                );
            }
        }
    }
}

fn load(arch: Arch, quant: Quant) -> (Box<dyn Model<CpuBackend>>, CpuBackend) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    let recipe = Recipe { quant, hidden: 256, ffn: 512, head_dim: 64, ..Recipe::tiny(arch) };
    recipe.write_gguf(&path).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    let description = Description::read(&checkpoint).unwrap();
    let plan = plan(&description);
    let mut backend = CpuBackend::new(Pool::new(&[]), Isa::detect(), Box::new(Solo));
    let model = models::load(&checkpoint, &description, &plan, &plan.ranks()[0], &mut backend).unwrap();
    (model, backend)
}

fn plan(description: &Description) -> Plan {
    let node = Node {
        id: NodeId(0),
        name: "here".to_owned(),
        memory: Bytes(1 << 30),
        n_cores: 1,
        backends: vec![BackendKind::Cpu],
        is_mac: false,
    };
    let goal = Goal {
        tp: 1,
        pp: 1,
        split: None,
        stage_split: None,
        context_len: 128,
        n_kv_tokens: Some(512),
        threads_per_rank: 1,
        ranks_per_node: None,
        backends: None,
        collectives: None,
        has_jaccl_devices: false,
        fence: Fence::Safe,
    };
    Plan::make(&Topology { nodes: vec![node] }, &description.spec, &goal).unwrap()
}

/// The last `n_rows` tokens of sequences of `context_len`.
fn batch(n_seqs: u32, n_rows: u32, context_len: u32) -> Batch {
    let n_blocks = context_len.div_ceil(BLOCK_LEN);
    let seq = |i: u32| SeqSlice {
        seq: SeqId(u64::from(i)),
        n_rows,
        context_len,
        n_logits: 1,
        blocks: (i * 8..i * 8 + n_blocks).map(BlockId).collect(),
    };
    let tokens = (0..n_seqs * n_rows).map(|i| TokenId((i * i * 11 + context_len) % 500)).collect();
    Batch { tokens, seqs: (0..n_seqs).map(seq).collect() }
}
