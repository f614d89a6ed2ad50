//! The backend that a plan's entry names, made on this machine. What a build lacks is an error that says how to get it.
//! Knows which of MLX's settings are read from a process's environment, and nothing of how any backend computes.

use backend::{CpuBackend, Isa};
use collective::{CollectiveError, Group, Mesh, SharedWorld, Solo};
use hw::Machine;
use plan::{BackendKind, Fence, Plan, RankPlan};

/// MLX reads from here, once, whether its fence is the fast one; so it is set when a rank's process is started.
const FENCE_VARIABLE: &str = "MLX_METAL_FAST_SYNCH";

/// The setting that a rank's process needs in its environment.
pub(crate) fn fence_setting(fence: Fence) -> (&'static str, &'static str) {
    (FENCE_VARIABLE, if fence == Fence::Fast { "1" } else { "0" })
}

/// What else a rank's process gets: larger command buffers, with which an M3 Ultra is reported to decode 5 to 8 % faster.
pub(crate) const SETTINGS: [(&str, &str); 2] =
    [("MLX_MAX_OPS_PER_BUFFER", "1000"), ("MLX_MAX_MB_PER_BUFFER", "400")];

/// What this build can compute with on this system, preferred first.
pub(crate) fn offered() -> Vec<BackendKind> {
    match (cfg!(feature = "mlx"), cfg!(target_os = "macos")) {
        (true, true) => vec![BackendKind::Mlx, BackendKind::Cpu],
        // MLX has no GPU to use there
        (true, false) => vec![BackendKind::Cpu, BackendKind::Mlx],
        (false, _) => vec![BackendKind::Cpu],
    }
}

/// The ranks that share this rank's layers.
pub(super) fn group(
    plan: &Plan,
    me: &RankPlan,
    world: &SharedWorld,
) -> Result<Box<dyn Group>, CollectiveError> {
    Ok(match plan.tp_size() {
        1 => Box::new(Solo),
        _ => Box::new(mesh(plan, me, world)?),
    })
}

/// The same for sums, which finds out how these links add quickest: all of the ranks make it at once.
pub(super) fn summing_group(
    plan: &Plan,
    me: &RankPlan,
    world: &SharedWorld,
) -> Result<Box<dyn Group>, CollectiveError> {
    if plan.tp_size() == 1 {
        return Ok(Box::new(Solo));
    }
    let mut mesh = mesh(plan, me, world)?;
    mesh.measure()?;
    Ok(Box::new(mesh))
}

fn mesh(plan: &Plan, me: &RankPlan, world: &SharedWorld) -> Result<Mesh, CollectiveError> {
    Mesh::new(world.clone(), plan.stage_ranks(me.stage))
}

/// Our own kernels, on the entry's cores.
pub(super) fn cpu(machine: &Machine, me: &RankPlan, group: Box<dyn Group>) -> CpuBackend {
    let usable = machine.cores.as_deref().unwrap_or_default();
    let cores: Vec<usize> = me.cores.iter().filter_map(|&c| usable.get(c as usize).copied()).collect();
    CpuBackend::new(kernels::Pool::new(&cores), Isa::detect(), group)
}

#[cfg(feature = "mlx")]
pub(super) use with_mlx::mlx;

#[cfg(feature = "mlx")]
mod with_mlx {
    use std::{
        env,
        fs::{self, OpenOptions},
        io::Write,
        os::unix::fs::OpenOptionsExt,
        path::PathBuf,
        process,
    };

    use backend::{MlxBackend, MlxGroup, MlxMemory, MlxOptions};
    use base::{Bytes, DType};
    use collective::Group;
    use plan::{Fence, Plan, RankPlan};
    use weights::Checkpoint;
    use wire::MlxPeers;

    use super::{FENCE_VARIABLE, fence_setting};
    use crate::RankError;

    /// What a step may take beside weights and KV cache, however little the node has left.
    const MIN_STEP_BYTES: Bytes = Bytes(512 << 20);

    /// MLX within the entry's memory; `group` sums inside a layer unless the plan leaves that to MLX.
    pub(in crate::rank) fn mlx(
        plan: &Plan,
        me: &RankPlan,
        checkpoint: &Checkpoint,
        peers: Option<&MlxPeers>,
        group: Box<dyn Group>,
    ) -> Result<MlxBackend, RankError> {
        check_fence(plan.fence())?;
        let activations = activations(checkpoint)?;
        // elsewhere fusing needs a compiler at run time
        let fuse = cfg!(target_os = "macos");
        let options = MlxOptions { memory: Some(memory(plan, me)), activations, fuse };
        let rank = me.tp_index as usize;
        match peers {
            None => Ok(MlxBackend::new(&options, MlxGroup::Onefold(group))?),
            Some(MlxPeers::Ring { hosts }) => {
                Ok(MlxBackend::new(&options, MlxGroup::Ring { rank, hosts: hosts.clone() })?)
            }
            Some(MlxPeers::Jaccl { devices, coordinator }) => {
                let file = DeviceFile::write(devices)?;
                let (devices, coordinator) = (file.path.clone(), *coordinator);
                Ok(MlxBackend::new(&options, MlxGroup::Jaccl { rank, devices, coordinator })?)
            }
        }
    }

    /// MLX's CPU build computes fastest in 32 bits. A GPU does in 16: in those of the checkpoint, which for GGUF's
    /// blocks are half floats, as their scales are.
    fn activations(checkpoint: &Checkpoint) -> Result<DType, RankError> {
        let mut activations = DType::F32;
        if !cfg!(target_os = "macos") {
            return Ok(activations);
        }
        for name in checkpoint.tensor_names() {
            activations = match checkpoint.tensor(name)?.dtype {
                DType::BF16 => return Ok(DType::BF16),
                DType::F32 => activations,
                _ => DType::F16,
            };
        }
        Ok(activations)
    }

    /// The entry's weights and KV cache, and for each step an even share of what the node has left.
    fn memory(plan: &Plan, me: &RankPlan) -> MlxMemory {
        let here = || plan.ranks().iter().filter(|r| r.node == me.node);
        let used: u64 = here().map(|r| (r.weights + r.kv).0).sum();
        let has = plan.node_of(me.rank).map_or(Bytes(0), |node| node.memory);
        let left = has.0.saturating_sub(used) / here().count().max(1) as u64;
        MlxMemory { resident: me.weights + me.kv, step: Bytes(left).max(MIN_STEP_BYTES) }
    }

    /// A process that somebody started by hand may have another environment than the plan needs.
    fn check_fence(fence: Fence) -> Result<(), RankError> {
        let (_, expected) = fence_setting(fence);
        let found = env::var(FENCE_VARIABLE).unwrap_or_else(|_| "0".to_owned());
        match found == expected {
            true => Ok(()),
            false => Err(RankError::FenceSetting { fence, variable: FENCE_VARIABLE, expected, found }),
        }
    }

    /// MLX reads its devices from a file; it is gone when this is dropped.
    struct DeviceFile {
        path: PathBuf,
    }

    impl DeviceFile {
        fn write(devices: &str) -> Result<DeviceFile, RankError> {
            let path = env::temp_dir().join(format!("onefold-jaccl-{}.json", process::id()));
            // left behind by a process that was killed and had the same number
            let _ = fs::remove_file(&path);
            let failed = |source| RankError::File { path: path.clone(), source };
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
            let written = DeviceFile { path: path.clone() };
            file.write_all(devices.as_bytes()).map_err(failed)?;
            Ok(written)
        }
    }

    impl Drop for DeviceFile {
        fn drop(&mut self) {
            // fails only if somebody else has removed it
            let _ = fs::remove_file(&self.path);
        }
    }
}
