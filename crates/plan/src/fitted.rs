//! What chips reach of their memory's bandwidth, and what engines cost beside it: the cost model's own parameters. They are fitted
//! on the rows in `tests/measured.rs`, a dozen constants for twenty-five points, so a model that is not among them may lie
//! 15 % off; a chip that is not among them takes its nearest relative's constants, and a wider band.

use crate::model::LayerKind;

/// Relative error to expect of a model that the fit has not seen, on a chip that it has.
pub const FITTED_BAND: f64 = 0.15;
/// The same on a chip whose constants are a relative's.
pub const CARRIED_BAND: f64 = 0.25;
/// Added for a kind of layer of which the fit has seen none.
pub const UNSEEN_KIND_BAND: f64 = 0.10;
/// Added where a prefill rate is derived from the chip's peak.
pub const DERIVED_RATE_BAND: f64 = 0.10;
/// Parts of a GPU's peak that prefill reaches, of dense models and of models with experts: the least of the chips measured.
pub const PREFILL_OF_PEAK: (f64, f64) = (0.77, 0.46);

/// Part of a small sum over two machines that each further machine adds: 3.5 of 19 µs over RDMA.
pub const ALL_REDUCE_GROWTH: f64 = 0.18;
/// Power that has been measured at the wall: chip, machines in a pipeline, watts of all together.
pub const MEASURED_PIPELINES: [(&str, usize, f64); 2] = [("M3 Ultra", 4, 526.0), ("M3 Ultra", 2, 545.0)];

/// How a chip and the engine on it behave. Shares are of the memory's bandwidth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Constants {
    /// Reached on quantised weights.
    pub quantised: f64,
    /// Reached on plain weights.
    pub plain: f64,
    /// Reached on cached keys and values of heads.
    pub kv_heads: f64,
    /// Reached on a latent cache.
    pub kv_latent: f64,
    /// What a layer costs beside the bytes, in seconds.
    pub layer_s: LayerSeconds,
    /// Whether they were fitted on rows of this chip.
    pub is_fitted: bool,
}

/// What a layer costs beside its bytes, in seconds: launches of kernels, mostly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSeconds {
    /// Dense feed-forward layers.
    pub dense: f64,
    /// Routed experts.
    pub experts: f64,
    /// A latent cache, mostly with experts.
    pub latent: f64,
}

impl LayerSeconds {
    /// Of one kind.
    pub fn of(&self, kind: LayerKind) -> f64 {
        match kind {
            LayerKind::Dense => self.dense,
            LayerKind::Experts => self.experts,
            LayerKind::Latent => self.latent,
        }
    }
}

/// A graph engine that shares layers over ranks, as measured on M3 Ultra.
pub const M3_ULTRA: Constants = Constants {
    quantised: 0.84,
    plain: 0.93,
    kv_heads: 0.84,
    kv_latent: 0.30,
    layer_s: LayerSeconds { dense: 65e-6, experts: 185e-6, latent: 275e-6 },
    is_fitted: true,
};
/// The same engine's arrays on one M4 Max, without ranks: its layers with experts cost less.
pub const M4_MAX: Constants = Constants {
    quantised: 0.91,
    plain: 0.91,
    kv_heads: 0.91,
    layer_s: LayerSeconds { dense: 65e-6, experts: 105e-6, latent: 275e-6 },
    ..M3_ULTRA
};
/// An engine whose stages follow each other over TCP, on M3 Ultra: it reaches less of the bandwidth and launches less.
pub const M3_ULTRA_REMOTE_LAYERS: Constants = Constants {
    quantised: 0.52,
    plain: 0.52,
    layer_s: LayerSeconds { dense: 65e-6, experts: 0.0, latent: 160e-6 },
    ..M3_ULTRA
};

/// This program's own kernels on processors, from `docs/log.md`: 22.0 of 31.3 and 30.0 of 37.5 GB/s with one and two threads, and
/// 0.9 ms beside the bytes in 30 layers of a small model. One small machine, so it counts as carried over.
pub const PROCESSORS: Constants = Constants {
    quantised: 0.75,
    plain: 0.75,
    kv_heads: 0.75,
    kv_latent: 0.30,
    layer_s: LayerSeconds { dense: 30e-6, experts: 105e-6, latent: 275e-6 },
    is_fitted: false,
};

/// The constants of a chip by the name its maker gives it; the nearest relative's, marked so, for one without rows.
/// A layer with experts costs what it costs under an engine that shares it over ranks, for that is what a search compares.
pub fn constants(chip: &str) -> Constants {
    let of = |constants: Constants, is_fitted| Constants {
        layer_s: LayerSeconds { experts: M3_ULTRA.layer_s.experts, ..constants.layer_s },
        is_fitted,
        ..constants
    };
    match chip {
        _ if chip.contains("M3 Ultra") => M3_ULTRA,
        _ if chip.contains("M4 Max") => of(M4_MAX, true),
        _ if chip.contains("Ultra") => of(M3_ULTRA, false),
        _ => of(M4_MAX, false),
    }
}
