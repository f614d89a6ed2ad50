//! What only some places may do: `unsafe`, reading the environment, serialising.

use super::layers::{NODE_LAYER, layer_of};
use super::source::{Source, is_word};
use super::{Finding, Package};

/// Paths that may hold `unsafe`: a folder, or a module as a file or a folder.
const UNSAFE_PLACES: [&str; 6] = [
    "crates/backend/src/mlx",
    "crates/kernels",
    "crates/mlx-sys",
    "crates/transport/src/shm",
    "crates/transport/src/verbs",
    "crates/weights/src/map",
];

/// Functions of `std::env` that read or change the environment.
const ENVIRONMENT: [&str; 7] = ["var", "var_os", "vars", "vars_os", "set_var", "remove_var", "home_dir"];

/// Crates at the border, where values take a form that others read.
const BORDER: [&str; 8] = ["api", "cli", "hw", "node", "text", "weights", "wire", "xtask"];

/// Serialising dependencies and who may have them beside the border crates.
const SERIALISERS: [(&str, &[&str]); 3] = [
    ("serde", &[]),
    ("serde_json", &["models"]), // reads a checkpoint's config.json as an untyped value
    ("postcard", &[]),
];

/// `unsafe` outside its places.
pub(super) fn check_unsafe(source: &Source) -> Vec<Finding> {
    let is_in = |place: &&str| {
        source.path.strip_prefix(*place).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    };
    if UNSAFE_PLACES.iter().any(is_in) {
        return Vec::new();
    }
    let finding = |(at, _): (usize, &str)| Finding {
        file: source.path.clone(),
        line: source.line_of(at),
        what: "unsafe code".into(),
        found: "`unsafe`".into(),
        allowed: format!("in {}", UNSAFE_PLACES.join(", ")),
    };
    names(&source.code).filter(|(_, name)| *name == "unsafe").map(finding).collect()
}

/// Reads of the environment below `node`, tests apart.
pub(super) fn check_environment(source: &Source) -> Vec<Finding> {
    // a build script is told everything by its environment
    let is_build_script = source.path.ends_with("build.rs");
    if is_build_script || layer_of(&source.package).is_none_or(|layer| layer >= NODE_LAYER) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (at, _) in names(&source.code).filter(|(_, name)| *name == "env") {
        let line = source.line_of(at);
        let Some(rest) = source.code[at + "env".len()..].trim_start().strip_prefix("::") else { continue };
        if let Some(read) = imported(rest).find(|name| ENVIRONMENT.contains(name))
            && !source.is_test_line(line)
        {
            findings.push(Finding {
                file: source.path.clone(),
                line,
                what: "environment read".into(),
                found: format!("`env::{read}`"),
                allowed: "in node and above; hand the value in".into(),
            });
        }
    }
    findings
}

/// The names that directly follow a path: one, or all within its braces.
fn imported(rest: &str) -> impl Iterator<Item = &str> {
    let rest = rest.trim_start();
    let (group, n) = match rest.strip_prefix('{') {
        Some(group) => (group.split('}').next().unwrap_or(group), usize::MAX),
        None => (rest, 1),
    };
    names(group).map(|(_, name)| name).take(n)
}

/// Serialising dependencies of crates that are not at the border; those of tests are free.
pub(super) fn check_serde(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        for dep in package.deps.iter().filter(|dep| !dep.dev) {
            let Some((_, others)) = SERIALISERS.iter().find(|(name, _)| *name == dep.name) else { continue };
            let name = package.name.as_str();
            if !BORDER.contains(&name) && !others.contains(&name) {
                findings.push(Finding {
                    file: package.manifest.clone(),
                    line: 1,
                    what: "serialising dependency".into(),
                    found: format!("`{}`", dep.name),
                    allowed: format!("in {}", [&BORDER, *others].concat().join(", ")),
                });
            }
        }
    }
    findings
}

/// Identifiers and keywords with their places.
fn names(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    code.split(|c| !is_word(c)).filter_map(move |name| {
        let start = at;
        at = start + name.len() + code[start + name.len()..].chars().next().map_or(0, char::len_utf8);
        (!name.is_empty()).then_some((start, name))
    })
}

#[cfg(test)]
mod tests {
    use super::super::Dep;
    use super::*;

    fn source(path: &str, package: &str, text: &str) -> Source {
        Source::new(path.into(), package.into(), text.into())
    }

    #[test]
    fn unsafe_has_its_places() {
        let n = |path: &str, text: &str| check_unsafe(&source(path, "x", text)).len();
        let block = "fn f() { unsafe { g() } }";
        assert_eq!(n("crates/plan/src/lib.rs", block), 1);
        assert_eq!(n("crates/plan/src/lib.rs", "unsafe impl Send for X {}"), 1);
        assert_eq!(n("crates/plan/tests/t.rs", block), 1, "tests too");
        assert_eq!(n("crates/weights/src/mapping.rs", block), 1);
        assert_eq!(n("crates/weights/src/map.rs", block), 0);
        assert_eq!(n("crates/kernels/src/a/b.rs", block), 0);
        assert_eq!(
            n("crates/plan/src/lib.rs", "#![deny(unsafe_code)] // unsafe\nconst X: &str = \"unsafe\";"),
            0
        );
        assert_eq!(check_unsafe(&source("a.rs", "x", "// é\n\n unsafe fn f() {}"))[0].line, 3);
    }

    #[test]
    fn the_environment_is_read_in_node() {
        let n = |package: &str, text: &str| check_environment(&source("a.rs", package, text)).len();
        for bad in [
            "fn f() { std::env::var(\"X\"); }",
            "use std::env;\nfn f() { env :: vars_os(); }",
            "use std::env::{self, var};",
            "use std::env::{\n    args,\n    var_os as v,\n};",
        ] {
            assert_eq!(n("engine", bad), 1, "{bad}");
            assert_eq!(n("node", bad), 0, "{bad}");
            assert_eq!(n("cli", bad), 0, "{bad}");
        }
        for good in [
            "fn f() { std::env::args(); }",
            "const X: &str = env!(\"X\"); // env::var",
            "fn f(env: Env) { env.var(); environment::var(); }",
            "use std::env::{args}; fn var() {}",
            "#[cfg(test)]\nmod tests {\n    fn f() { std::env::var(\"X\"); }\n}",
        ] {
            assert_eq!(n("engine", good), 0, "{good}");
        }
    }

    #[test]
    fn serde_stays_at_the_border() {
        let n = |package: &str, dep: &str, dev: bool| {
            let deps = vec![Dep { name: dep.into(), dev }];
            check_serde(&[Package { name: package.into(), manifest: String::new(), deps }]).len()
        };
        assert_eq!(n("engine", "serde", false), 1);
        assert_eq!(n("models", "serde", false), 1);
        assert_eq!(n("plan", "postcard", false), 1);
        assert_eq!(n("models", "serde_json", false), 0);
        assert_eq!(n("engine", "serde", true), 0);
        assert_eq!(n("wire", "postcard", false), 0);
    }
}
