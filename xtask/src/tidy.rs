//! `cargo xtask tidy`: the rules of STYLE.md that a machine can check, over every crate of the workspace. Each check
//! is a function from what it reads to findings; only this file reads files and runs cargo.

mod access;
mod layers;
mod size;
mod source;
mod texts;
mod words;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use source::Source;

/// Something to put right: `file:line: what, found …, allowed …`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    what: String,
    found: String,
    allowed: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, line, what, found, allowed } = self;
        write!(f, "{file}:{line}: {what}, found {found}, allowed {allowed}")
    }
}

/// A crate of the workspace as its manifest describes it.
struct Package {
    name: String,
    /// Its manifest, relative to the root.
    manifest: String,
    deps: Vec<Dep>,
}

/// One entry of a manifest.
struct Dep {
    name: String,
    /// Whether only tests use it.
    dev: bool,
}

/// Prints every finding and returns how many there are.
pub(crate) fn run() -> Result<usize> {
    let metadata = metadata()?;
    let root = PathBuf::from(metadata["workspace_root"].as_str().context("cargo names no workspace_root")?);
    let packages = packages(&metadata, &root)?;
    let sources = sources(&packages, &root)?;
    let text = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
    let findings = check(&packages, &sources, &text("ARCHITECTURE.md"), &text("GLOSSARY.md"));
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => println!("tidy: {} files, nothing to put right", sources.len()),
        n => println!("tidy: {} files, {n} to put right", sources.len()),
    }
    Ok(findings.len())
}

/// Every check over everything, in the order of files and lines.
fn check(packages: &[Package], sources: &[Source], architecture: &str, glossary: &str) -> Vec<Finding> {
    let mut findings = layers::check(packages);
    findings.extend(access::check_serde(packages));
    findings.extend(texts::check_architecture(packages, architecture));
    let (banned, unreadable) = words::banned(glossary);
    findings.extend(unreadable);
    for source in sources {
        findings.extend(texts::check_header(source));
        findings.extend(size::check(source));
        findings.extend(words::check(source, &banned));
        findings.extend(access::check_unsafe(source));
        findings.extend(access::check_environment(source));
    }
    findings.sort();
    findings
}

/// The workspace as cargo describes it.
pub(crate) fn metadata() -> Result<Value> {
    let mut cargo = std::process::Command::new("cargo");
    let output = cargo
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("cargo does not run")?;
    ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn packages(metadata: &Value, root: &Path) -> Result<Vec<Package>> {
    let package = |p: &Value| {
        let name = p["name"].as_str()?.to_owned();
        let manifest = relative(Path::new(p["manifest_path"].as_str()?), root);
        let deps = p["dependencies"].as_array()?.iter().map(dep).collect::<Option<_>>()?;
        Some(Package { name, manifest, deps })
    };
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    packages.iter().map(|p| package(p).context("cargo describes a package oddly")).collect()
}

fn dep(d: &Value) -> Option<Dep> {
    Some(Dep { name: d["name"].as_str()?.to_owned(), dev: d["kind"].as_str() == Some("dev") })
}

/// Every Rust file beside or below the manifests.
fn sources(packages: &[Package], root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for package in packages {
        let mut files = BTreeSet::new();
        let dir = root.join(&package.manifest).parent().map(Path::to_path_buf).unwrap_or_default();
        rust_files(&dir, &mut files)?;
        for file in files {
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            sources.push(Source::new(relative(&file, root), package.name.clone(), text));
        }
    }
    source::mark_test_files(&mut sources);
    Ok(sources)
}

fn rust_files(dir: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            rust_files(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.insert(path);
        }
    }
    Ok(())
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_itself_can_be_read() {
        let metadata = metadata().unwrap();
        let root = PathBuf::from(metadata["workspace_root"].as_str().unwrap());
        let packages = packages(&metadata, &root).unwrap();
        let base = packages.iter().find(|p| p.name == "base").unwrap();
        assert_eq!(base.manifest, "crates/base/Cargo.toml");
        assert!(base.deps.iter().any(|d| d.name == "proptest" && d.dev));
        let sources = sources(&packages, &root).unwrap();
        assert!(sources.iter().any(|s| s.path == "crates/base/src/lib.rs" && s.package == "base"));
        assert!(sources.iter().any(|s| s.path == "xtask/src/tidy/source.rs"));
    }

    #[test]
    fn findings_of_all_checks_come_in_order() {
        let bad = "fn f() { unsafe { g() } } // TODO: the worker\n";
        let mut sources = [Source::new("crates/plan/src/lib.rs".into(), "plan".into(), bad.into())];
        source::mark_test_files(&mut sources);
        let glossary = "## Not\n| not | but |\n|---|---|\n| worker | rank |\n";
        let findings = check(&[], &sources, "", glossary);
        let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert_eq!(lines.len(), 4, "{lines:#?}");
        assert!(lines.iter().all(|l| l.starts_with("crates/plan/src/lib.rs:1: ")), "{lines:#?}");
        assert!(findings.is_sorted());
    }
}
