//! Who sums inside a graph: our collectives, called back from MLX, or one of MLX's own engines.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use collective::{CollectiveError, Group};
use mlx_sys::{Array, Dtype, Engine, Mlx};

use crate::BackendError;

/// Ranks over which [`crate::MlxBackend`] sums.
pub enum MlxGroup {
    /// Our own collectives, over any links.
    Onefold(Box<dyn Group>),
    /// MLX's ring over TCP: where each rank listens.
    Ring {
        /// This rank's place.
        rank: usize,
        /// Addresses of all ranks.
        hosts: Vec<SocketAddr>,
    },
    /// MLX's RDMA over Thunderbolt.
    Jaccl {
        /// This rank's place.
        rank: usize,
        /// File with the matrix of devices: JSON, for each rank the device that leads to each other one.
        devices: PathBuf,
        /// Where rank 0 listens.
        coordinator: SocketAddr,
    },
}

/// The same, ready.
pub(super) struct Sums {
    group: Option<mlx_sys::Group>,
    /// Why our own collective failed, which MLX cannot say.
    failure: Arc<Mutex<Option<CollectiveError>>>,
    /// Our collectives add floats of 32 bits, MLX's any.
    only_f32: bool,
}

impl Sums {
    pub(super) fn new(mlx: Mlx, group: MlxGroup) -> Result<Sums, BackendError> {
        let failure = Arc::new(Mutex::new(None));
        let engine = match group {
            MlxGroup::Onefold(group) if group.size() == 1 => {
                return Ok(Sums { group: None, failure, only_f32: false });
            }
            MlxGroup::Onefold(group) => {
                let group = own(mlx, group, failure.clone())?;
                return Ok(Sums { group: Some(group), failure, only_f32: true });
            }
            MlxGroup::Ring { rank, hosts } => Engine::Ring { rank, hosts: write_hosts(rank, &hosts)? },
            MlxGroup::Jaccl { rank, devices, coordinator } => Engine::Jaccl {
                rank,
                devices: devices.display().to_string(),
                coordinator: coordinator.to_string(),
            },
        };
        let group = mlx_sys::Group::of_engine(mlx, &engine);
        if let Engine::Ring { hosts, .. } = &engine {
            let _ = fs::remove_file(hosts); // it has been read, or was of no use
        }
        Ok(Sums { group: Some(group?), failure, only_f32: false })
    }

    pub(super) fn all_reduce(&self, mlx: Mlx, x: Array) -> Result<Array, BackendError> {
        let Some(group) = &self.group else { return Ok(x) };
        let dtype = x.dtype().unwrap_or(Dtype::F32);
        if !self.only_f32 {
            return Ok(group.all_reduce(&x)?);
        }
        let sum = group.all_reduce(&mlx.astype(&x, Dtype::F32)?)?;
        Ok(mlx.astype(&sum, dtype)?)
    }

    /// The collective's own error, if it was one that made an evaluation fail.
    pub(super) fn explain(&self, error: mlx_sys::Error) -> BackendError {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or_else(|| error.into(), BackendError::Collective)
    }
}

fn own(
    mlx: Mlx,
    mut group: Box<dyn Group>,
    failure: Arc<Mutex<Option<CollectiveError>>>,
) -> Result<mlx_sys::Group, BackendError> {
    let (rank, size) = (group.rank(), group.size());
    let sum = move |values: &mut [f32]| {
        group.all_reduce(values.into()).map_err(|error| {
            let mut first = failure.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error);
        })
    };
    Ok(mlx_sys::Group::of(mlx, rank, size, sum)?)
}

/// The ring's list of hosts, which it reads from a file: for each rank its addresses.
fn write_hosts(rank: usize, hosts: &[SocketAddr]) -> Result<String, BackendError> {
    let list: Vec<String> = hosts.iter().map(|host| format!("[\"{host}\"]")).collect();
    let path = std::env::temp_dir().join(format!("onefold-ring-{}-{rank}.json", std::process::id()));
    // left behind by a process that was killed and had the same number; a new file is nobody else's
    let _ = fs::remove_file(&path);
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(format!("[{}]", list.join(",")).as_bytes()));
    written.map_err(|e| BackendError::Device {
        op: "ring",
        message: format!("cannot write {}: {e}", path.display()),
    })?;
    Ok(path.display().to_string())
}
