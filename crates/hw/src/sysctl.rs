//! What the answer of macOS's `sysctl` says about the machine. It runs nothing, so it is tested on every system.

use base::Bytes;

use crate::{Machine, known, vectors};

/// What is asked for.
pub(crate) const NAMES: [&str; 8] = [
    "kern.hostname",
    "hw.memsize",
    "machdep.cpu.brand_string",
    "hw.pagesize",
    "vm.page_free_count",
    "vm.page_pageable_external_count", // file contents: given up without being written anywhere
    "vm.page_purgeable_count",
    "kern.osproductversion",
];

/// The machine out of lines `name: value`, in any order.
pub(crate) fn machine(answer: &str) -> Machine {
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

    const ANSWER: &str = "\
kern.hostname: studio.local
hw.memsize: 137438953472
machdep.cpu.brand_string: Apple M5 Max
hw.pagesize: 16384
vm.page_free_count: 4000000
vm.page_pageable_external_count: 1500000
vm.page_purgeable_count: 20000
kern.osproductversion: 26.2
";

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
            assert_ne!(machine(&without), machine(ANSWER), "{name}");
        }
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
