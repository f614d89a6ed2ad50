//! `sysctl`: a Mac's cores, memory, model and settings. A name that it leaves out is unknown, and no error.

use base::Bytes;

use crate::{Machine, known, vectors};

/// Where the system keeps it, whatever the search path says.
pub const PROGRAM: &str = "/usr/sbin/sysctl";
/// What is asked for; what some systems do not know comes last.
pub const NAMES: [&str; 12] = [
    "kern.hostname",
    "hw.memsize",
    "machdep.cpu.brand_string",
    "hw.pagesize",
    "vm.page_free_count",
    "vm.page_pageable_external_count", // file contents: given up without being written anywhere
    "vm.page_purgeable_count",
    "kern.osproductversion",
    "kern.osversion",
    "hw.model",
    "vm.swapusage",
    "iogpu.wired_limit_mb",
];

/// What a Mac is and how it is set, beyond the machine itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MacSettings {
    /// As in `Mac15,14`.
    pub model: Option<String>,
    /// The system's build, as in `25C56`.
    pub build: Option<String>,
    /// Memory that is written to disk for want of room.
    pub swap_used: Option<Bytes>,
    /// What the GPU may use, where somebody has said so.
    pub wired_limit: Option<Bytes>,
}

/// The machine out of lines `name: value`, in any order.
pub fn machine(answer: &str) -> Machine {
    let total_memory = number(answer, "hw.memsize").filter(|total| *total > 0).map(Bytes);
    Machine {
        name: value(answer, "kern.hostname"),
        cores: None, // threads cannot be pinned
        total_memory,
        available_memory: available(answer)
            .map(|available| total_memory.map_or(available, |total| available.min(total))),
        cpu: value(answer, "machdep.cpu.brand_string"),
        vectors: vectors(),
        os: value(answer, "kern.osproductversion").map(|version| format!("macOS {version}")),
    }
}

/// Model, build and settings out of the same lines.
pub fn settings(answer: &str) -> MacSettings {
    let megabytes = number(answer, "iogpu.wired_limit_mb").filter(|limit| *limit > 0); // 0: the system decides
    MacSettings {
        model: value(answer, "hw.model"),
        build: value(answer, "kern.osversion"),
        swap_used: value(answer, "vm.swapusage").as_deref().and_then(swap_used),
        wired_limit: megabytes.and_then(|limit| limit.checked_mul(1 << 20)).map(Bytes),
    }
}

/// `total = 2048.00M  used = 1024.50M  free = 1023.50M`.
fn swap_used(usage: &str) -> Option<Bytes> {
    let (_, rest) = usage.split_once("used =")?;
    let megabytes: f64 = rest.split_whitespace().next()?.strip_suffix('M')?.parse().ok()?;
    (megabytes.is_finite() && megabytes >= 0.0).then_some(Bytes((megabytes * (1 << 20) as f64) as u64))
}

/// Pages that are free, or become so without swapping or compressing.
fn available(answer: &str) -> Option<Bytes> {
    let n_pages = ["vm.page_free_count", "vm.page_pageable_external_count", "vm.page_purgeable_count"]
        .into_iter()
        .try_fold(0_u64, |sum, name| sum.checked_add(number(answer, name)?))?;
    n_pages.checked_mul(number(answer, "hw.pagesize")?).map(Bytes)
}

fn number(answer: &str, name: &str) -> Option<u64> {
    value(answer, name)?.parse().ok()
}

fn value(answer: &str, name: &str) -> Option<String> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').and_then(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = include_str!("../../fixtures/sysctl.txt");

    #[test]
    fn an_answer_becomes_a_machine() {
        let machine = machine(ANSWER);
        assert_eq!(machine.name.as_deref(), Some("studio.local"));
        assert_eq!(machine.total_memory, Some(Bytes(128 << 30)));
        assert_eq!(machine.available_memory, Some(Bytes(5_520_000 * 16384)));
        assert_eq!(machine.cpu.as_deref(), Some("Apple M5 Max"));
        assert_eq!(machine.os.as_deref(), Some("macOS 26.2"));
        assert_eq!(machine.cores, None);
        assert!(machine.n_cores() >= 1);
    }

    #[test]
    fn every_name_asked_for_is_used() {
        for name in NAMES {
            let without: String =
                ANSWER.lines().filter(|line| !line.starts_with(name)).map(|l| format!("{l}\n")).collect();
            let both = |answer: &str| (machine(answer), settings(answer));
            let with = ANSWER.replace("wired_limit_mb: 0", "wired_limit_mb: 100000");
            let without = without.replace("wired_limit_mb: 0", "wired_limit_mb: 100000");
            assert_ne!(both(&without), both(&with), "{name}");
        }
    }

    #[test]
    fn settings_are_told() {
        let found = settings(ANSWER);
        assert_eq!((found.model.as_deref(), found.build.as_deref()), (Some("Mac17,14"), Some("25C56")));
        assert_eq!((found.swap_used, found.wired_limit), (Some(Bytes(1_074_266_112)), None));
        let set = settings(&ANSWER.replace("wired_limit_mb: 0", "wired_limit_mb: 458752"));
        assert_eq!(set.wired_limit, Some(Bytes(448 << 30)));
        assert_eq!(settings(""), MacSettings::default());
        let odd =
            settings("vm.swapusage: total = 1M used = infM\niogpu.wired_limit_mb: 18446744073709551615\n");
        assert_eq!((odd.swap_used, odd.wired_limit), (None, None));
    }

    #[test]
    fn what_is_missing_or_odd_stays_unknown() {
        let nothing = machine("");
        let all = (nothing.name, nothing.total_memory, nothing.available_memory, nothing.cpu, nothing.os);
        assert_eq!(all, (None, None, None, None, None));
        let odd = machine(
            "hw.memsize: 0\nhw.pagesize: 18446744073709551615\nkern.hostname:  \nhw.memsize_usable: 7\nvm.page_free_count: 9\nvm.page_pageable_external_count: 1\nvm.page_purgeable_count: 0\n",
        );
        assert_eq!((odd.name, odd.total_memory, odd.available_memory), (None, None, None));
        assert_eq!(
            machine(&ANSWER.replace("137438953472", "16384")).available_memory,
            Some(Bytes(16384)),
            "no more than there is"
        );
    }
}
