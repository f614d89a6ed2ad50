//! The conformance suite over one backend on this machine. What a backend promises is its own to say.

use backend::{
    Backend, BackendError, CpuBackend, Isa,
    conformance::{self, Tolerance},
};
use collective::Solo;
use serde_json::{Value, json};

use super::outcome::{Outcome, Status};

/// Threads of the CPU backend: enough to share work out.
const N_THREADS: usize = 2;

/// Our own kernels with the best instructions this machine has.
pub(super) fn cpu() -> Outcome {
    let isa = Isa::detect();
    let mut make = || Ok(CpuBackend::new(kernels::Pool::unpinned(N_THREADS), isa, Box::new(Solo)));
    hold(&format!("cpu with {isa}"), &mut make, &CpuBackend::TOLERANCE, &|_| true)
}

/// Runs every check. Those that are not `held` are only told.
pub(super) fn hold<B: Backend>(
    how: &str,
    make: &mut dyn FnMut() -> Result<B, BackendError>,
    tolerance: &Tolerance,
    held: &dyn Fn(&str) -> bool,
) -> Outcome {
    told(how, tolerance, &conformance::run(make, tolerance), held)
}

fn told(
    how: &str,
    tolerance: &Tolerance,
    checks: &[conformance::Outcome],
    held: &dyn Fn(&str) -> bool,
) -> Outcome {
    let failed: Vec<&str> =
        checks.iter().filter(|c| c.error.is_some() && held(c.name)).map(|c| c.name).collect();
    let n_held = checks.iter().filter(|c| held(c.name)).count();
    let check = |c: &conformance::Outcome| -> Value {
        json!({"name": c.name, "passed": c.error.is_none(), "held": held(c.name), "error": c.error})
    };
    let result = json!({
        "how": how,
        "tolerance": {"value": tolerance.value, "cache": tolerance.cache, "company": tolerance.company},
        "n_held": n_held,
        "n_failed": failed.len(),
        "checks": checks.iter().map(check).collect::<Vec<_>>(),
    });
    if failed.is_empty() && n_held > 0 {
        return Outcome::passed(result);
    }
    let why = format!("{} of {n_held} checks failed: {}", failed.len(), failed.join(", "));
    Outcome { status: Status::Failed, why: Some(why), result }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_promised_can_fail() {
        let check =
            |name, error: Option<&str>| conformance::Outcome { name, error: error.map(str::to_owned) };
        let checks = [check("norm", None), check("moe", Some("expected 1, found 2"))];
        let outcome = |held: &dyn Fn(&str) -> bool| told("x", &CpuBackend::TOLERANCE, &checks, held);
        let all = outcome(&|_| true);
        assert_eq!(all.why.as_deref(), Some("1 of 2 checks failed: moe"));
        assert_eq!(all.result["checks"][1]["error"], "expected 1, found 2");
        let some = outcome(&|name| name == "norm");
        assert_eq!((some.status, some.result["n_held"].as_u64()), (Status::Passed, Some(1)));
        assert_eq!(outcome(&|_| false).status, Status::Failed, "nothing was checked");
    }
}
