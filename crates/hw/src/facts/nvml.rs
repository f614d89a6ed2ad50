//! NVIDIA's GPUs, as the driver's own library tells them; it is loaded at run time, and where it is not there, there are none.
//! It changes nothing.

use base::Bytes;
use nvml_wrapper::Nvml;

use super::NvidiaGpu;

/// The GPUs; those that do not answer are left out.
pub(super) fn gpus() -> Vec<NvidiaGpu> {
    let Ok(library) = Nvml::init() else { return Vec::new() };
    let n_gpus = library.device_count().unwrap_or(0);
    let gpu = |index| {
        let device = library.device_by_index(index).ok()?;
        let memory = device.memory_info().ok();
        Some(NvidiaGpu {
            name: device.name().ok()?,
            memory: memory.as_ref().map(|memory| Bytes(memory.total)),
            memory_used: memory.as_ref().map(|memory| Bytes(memory.used)),
            watts: device.power_usage().ok().map(|milliwatts| f64::from(milliwatts) / 1e3),
        })
    };
    (0..n_gpus).filter_map(gpu).collect()
}
