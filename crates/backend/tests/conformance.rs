//! The conformance suite over every backend of this build, in every form it can take on this machine.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use backend::{CpuBackend, Isa, conformance::run};
use collective::Solo;

#[test]
fn cpu_conforms_with_plain_rust() {
    conforms(Isa::Scalar);
}

#[test]
fn cpu_conforms_with_vector_instructions() {
    let families = Isa::ALL.into_iter().filter(|isa| *isa != Isa::Scalar && isa.is_available());
    families.for_each(conforms);
}

fn conforms(isa: Isa) {
    let mut make = || Ok(CpuBackend::new(kernels::Pool::unpinned(2), isa, Box::new(Solo)));
    let outcomes = run(&mut make, &CpuBackend::TOLERANCE);
    let failures: Vec<String> =
        outcomes.iter().filter_map(|o| Some(format!("{}: {}", o.name, o.error.as_ref()?))).collect();
    assert!(failures.is_empty(), "{isa}:\n{}", failures.join("\n"));
    assert!(outcomes.len() > 40, "{} checks", outcomes.len());
}
