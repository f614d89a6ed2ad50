//! What has to be written down: a header paragraph in every file, a description of every crate.

use super::source::{Source, is_word};
use super::{Finding, Package};

/// Characters of a header paragraph, at least: less is not a sentence.
const MIN_HEADER_CHARS: usize = 20;

/// The file's first line starts a `//!` paragraph of at least one sentence.
pub(super) fn check_header(source: &Source) -> Option<Finding> {
    let lines = source.text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    let is_sentence =
        paragraph.chars().count() >= MIN_HEADER_CHARS && paragraph.contains(['.', ':', '!', '?']);
    (!is_sentence).then(|| Finding {
        file: source.path.clone(),
        line: 1,
        what: "header paragraph".into(),
        found: if paragraph.is_empty() { "none".into() } else { format!("`{paragraph}`") },
        allowed: "a `//!` sentence or more on what the file is".into(),
    })
}

/// Every crate has a heading or a bold name in ARCHITECTURE.md.
pub(super) fn check_architecture(packages: &[Package], architecture: &str) -> Vec<Finding> {
    let is_described = |name: &str| {
        let bold = [format!("**`{name}`**"), format!("**{name}**")];
        let in_heading = |line: &str| {
            line.starts_with('#') && line.split(|c| !is_word(c) && c != '-').any(|word| word == name)
        };
        architecture.lines().any(|line| in_heading(line) || bold.iter().any(|b| line.contains(b.as_str())))
    };
    let missing = packages.iter().filter(|p| !is_described(&p.name));
    let finding = |p: &Package| Finding {
        file: "ARCHITECTURE.md".into(),
        line: 1,
        what: format!("description of crate {}", p.name),
        found: "none".into(),
        allowed: format!("a heading or **`{}`**", p.name),
    };
    missing.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_opens_with_a_sentence() {
        let header = |text: &str| {
            check_header(&Source::new("a.rs".into(), "x".into(), text.into())).map(|finding| finding.found)
        };
        assert_eq!(header("//! What this machine is.\nfn f() {}"), None);
        assert_eq!(header("//! What this\n//! machine is.\nfn f() {}"), None);
        assert_eq!(header("fn f() {}\n//! What this machine is."), Some("none".into()));
        assert_eq!(header("// What this machine is not."), Some("none".into()));
        assert_eq!(header("//! plan\n//!\n//! What this machine is."), Some("`plan`".into()));
        assert_eq!(header(""), Some("none".into()));
    }

    #[test]
    fn every_crate_is_described() {
        let package = |name: &str| Package { name: name.into(), manifest: String::new(), deps: vec![] };
        let text =
            "# Architecture\n### plan\nThe `hw` crate.\n- **`base`**: types\n## mlx-sys, FFI\n### planner\n";
        let packages = ["plan", "hw", "base", "mlx-sys", "mlx"].map(package);
        let found: Vec<_> = check_architecture(&packages, text).into_iter().map(|f| f.what).collect();
        assert_eq!(found, ["description of crate hw", "description of crate mlx"]);
    }
}
