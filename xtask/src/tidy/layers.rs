//! The layer table: a crate may use crates of lower layers only. It reads manifests, not sources.

use super::{Finding, Package};

/// Every crate and its layer, highest first.
const LAYERS: [(&str, u32); 20] = [
    ("xtask", 9), // automation: uses what it likes, nothing uses it
    ("cli", 8),
    ("sim", 8),
    ("node", NODE_LAYER),
    ("api", 6),
    ("engine", 5),
    ("models", 4),
    ("backend", 3),
    ("cluster", 3),
    ("fabric-c", 3),
    ("collective", 2),
    ("weights", 2),
    ("wire", 2),
    ("kernels", 1),
    ("transport", 1),
    ("plan", 1),
    ("text", 1),
    ("hw", 1),
    ("base", 0),
    ("mlx-sys", 0),
];

/// The composition root: below it nothing reads the environment.
pub(super) const NODE_LAYER: u32 = 7;

/// Layer of a crate; `None` if the table does not name it.
pub(super) fn layer_of(name: &str) -> Option<u32> {
    LAYERS.iter().find(|(n, _)| *n == name).map(|(_, layer)| *layer)
}

/// Dependencies, those of tests included, that do not point down.
pub(super) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let mut add = |what: String, found: String, allowed: String| {
            findings.push(Finding { file: package.manifest.clone(), line: 1, what, found, allowed });
        };
        let Some(own) = layer_of(&package.name) else {
            add(
                "crate without a layer".into(),
                package.name.clone(),
                "those of xtask/src/tidy/layers.rs".into(),
            );
            continue;
        };
        let ours = package.deps.iter().filter(|d| packages.iter().any(|p| p.name == d.name));
        for dep in ours {
            let Some(theirs) = layer_of(&dep.name) else { continue }; // reported where it is defined
            if theirs >= own {
                let what = format!("dependency of {} (layer {own}) that does not point down", package.name);
                add(what, format!("{} (layer {theirs})", dep.name), format!("layers below {own}"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Dep;
    use super::*;

    fn package(name: &str, deps: &[(&str, bool)]) -> Package {
        let dep = |&(name, dev): &(&str, bool)| Dep { name: name.into(), dev };
        Package {
            name: name.into(),
            manifest: format!("crates/{name}/Cargo.toml"),
            deps: deps.iter().map(dep).collect(),
        }
    }

    #[test]
    fn arrows_point_down() {
        let good = [package("base", &[("serde", false)]), package("plan", &[("base", false)])];
        assert_eq!(check(&good), []);
    }

    #[test]
    fn arrows_up_and_sideways_are_found_also_in_tests() {
        let bad = [
            package("base", &[("plan", true)]),
            package("plan", &[("hw", false), ("base", false)]),
            package("hw", &[]),
        ];
        let found: Vec<_> = check(&bad).into_iter().map(|f| (f.file, f.found)).collect();
        let expected = [
            ("crates/base/Cargo.toml".to_owned(), "plan (layer 1)".to_owned()),
            ("crates/plan/Cargo.toml".to_owned(), "hw (layer 1)".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_crate_without_a_layer_is_found() {
        let findings = check(&[package("misc", &[])]);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].found, "misc");
    }
}
