//! Watts of a layout while it decodes. A machine draws its active watts while its stage computes and for a while after, so short
//! turns cost more than their share of the time:
//! `P = idle + min(1, BUSY_TAIL · turn / step) · (active − idle)`.
//! Source: four M3 Ultra in a pipeline draw 526 W together, two 545 W, one of them alone 227 to 290 W.

use crate::Machine;

/// How much longer than its turn a machine draws its active watts. Fitted on the two pipelines above.
const BUSY_TAIL: f64 = 2.25;

/// Watts of one machine whose stage computes for `turn_s` of every `step_s`; `None` if its figures are not known.
pub(crate) fn watts(machine: &Machine, turn_s: f64, step_s: f64) -> Option<f64> {
    let (idle, active) = (machine.idle_w?, machine.active_w?);
    let busy = if step_s > 0.0 { (BUSY_TAIL * turn_s / step_s).min(1.0) } else { 0.0 };
    Some(idle + busy * (active - idle).max(0.0))
}
