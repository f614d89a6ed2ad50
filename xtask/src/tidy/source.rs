//! A Rust file as the checks see it: its lines without literals, without comments, and which lines are tests. It
//! knows how Rust is written, not what is allowed.

use proc_macro2::LineColumn;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// One file.
pub(super) struct Source {
    /// Relative to the root, with slashes.
    pub(super) path: String,
    /// Name of its crate.
    pub(super) package: String,
    /// As it is.
    pub(super) text: String,
    /// The text with string and character literals blanked.
    pub(super) words: String,
    /// The text with literals and comments blanked.
    pub(super) code: String,
    /// The parsed file, or why it does not parse.
    pub(super) ast: Result<syn::File, syn::Error>,
    /// For every line, whether it belongs to a test.
    pub(super) is_test: Vec<bool>,
}

impl Source {
    /// Parses `text`. Test files that only their parent marks as such are found by `mark_test_files`.
    pub(super) fn new(path: String, package: String, text: String) -> Source {
        let (words, code) = blank(&text);
        let ast = syn::parse_file(&text);
        let mut is_test = vec![is_test_dir(&path); text.lines().count()];
        if let Ok(file) = &ast {
            let mut found = Tests::default();
            found.visit_file(file);
            for (start, end) in found.lines {
                is_test[start - 1..end].fill(true);
            }
        }
        Source { path, package, text, words, code, ast, is_test }
    }

    /// Number of the line that holds byte `at` of `code`, from 1.
    pub(super) fn line_of(&self, at: usize) -> usize {
        self.code[..at].matches('\n').count() + 1
    }

    /// Whether line `line`, counted from 1, belongs to a test.
    pub(super) fn is_test_line(&self, line: usize) -> bool {
        self.is_test.get(line - 1).copied().unwrap_or(false)
    }
}

/// Marks the files of modules that another file declares as `#[cfg(test)] mod name;`, and all below them.
pub(super) fn mark_test_files(sources: &mut [Source]) {
    let mut modules = Vec::new();
    for source in sources.iter() {
        let mut found = Tests::default();
        if let Ok(file) = &source.ast {
            found.visit_file(file);
        }
        let stem = source.path.trim_end_matches(".rs");
        let root = ["/lib", "/main", "/mod"].iter().find_map(|name| stem.strip_suffix(name));
        modules.extend(found.modules.iter().map(|name| format!("{}/{name}", root.unwrap_or(stem))));
    }
    for source in sources {
        let is_in =
            |m: &String| source.path.strip_prefix(m).is_some_and(|r| r == ".rs" || r.starts_with('/'));
        if modules.iter().any(is_in) {
            source.is_test.fill(true);
        }
    }
}

/// Cargo's own places for tests, directly below a crate.
fn is_test_dir(path: &str) -> bool {
    let below = path.strip_prefix("crates/").and_then(|p| p.split_once('/')).map(|(_, below)| below);
    let below = below.or(path.strip_prefix("xtask/")).unwrap_or(path);
    ["tests/", "benches/", "examples/"].iter().any(|dir| below.starts_with(dir))
}

/// Collects what is marked `#[cfg(test)]`: line ranges, and names of modules in other files.
#[derive(Default)]
struct Tests {
    lines: Vec<(usize, usize)>,
    modules: Vec<String>,
}

impl Tests {
    fn add(&mut self, attributes: &[syn::Attribute], span: proc_macro2::Span) {
        if attributes.iter().any(is_cfg_test) {
            let LineColumn { line: start, .. } = span.start();
            self.lines.push((start, span.end().line));
        }
    }
}

impl<'a> Visit<'a> for Tests {
    fn visit_file(&mut self, file: &'a syn::File) {
        self.add(&file.attrs, file.span());
        visit::visit_file(self, file);
    }

    fn visit_item(&mut self, item: &'a syn::Item) {
        use syn::Item::*;
        let attributes = match item {
            Const(i) => &i.attrs,
            Enum(i) => &i.attrs,
            Fn(i) => &i.attrs,
            Impl(i) => &i.attrs,
            Macro(i) => &i.attrs,
            Mod(i) => &i.attrs,
            Static(i) => &i.attrs,
            Struct(i) => &i.attrs,
            Trait(i) => &i.attrs,
            Type(i) => &i.attrs,
            Use(i) => &i.attrs,
            _ => return,
        };
        self.add(attributes, item.span());
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if module.content.is_none() && module.attrs.iter().any(is_cfg_test) {
            self.modules.push(module.ident.to_string());
        }
        visit::visit_item_mod(self, module);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.add(&function.attrs, function.span());
        visit::visit_impl_item_fn(self, function);
    }
}

/// `#[cfg(test)]`, also within `all` or `any`, but not within `not`.
fn is_cfg_test(attribute: &syn::Attribute) -> bool {
    let syn::Meta::List(list) = &attribute.meta else { return false };
    let tokens = list.tokens.to_string();
    let names: Vec<&str> = tokens.split(|c| !is_word(c)).collect();
    list.path.is_ident("cfg") && names.contains(&"test") && !names.contains(&"not")
}

/// The text twice, with the same lines: without literals, and without literals and comments.
fn blank(text: &str) -> (String, String) {
    let (mut words, mut code) = (String::with_capacity(text.len()), String::with_capacity(text.len()));
    let mut rest = text;
    let mut before = ' '; // the character before `rest`
    while let Some(c) = rest.chars().next() {
        let (len, kind) = piece(rest, before);
        let (taken, left) = rest.split_at(len);
        let blanked = || taken.chars().map(|c| if c == '\n' { '\n' } else { ' ' });
        match kind {
            Kind::Code => (words.push_str(taken), code.push_str(taken)),
            Kind::Comment => (words.push_str(taken), code.extend(blanked())),
            Kind::Literal => (words.extend(blanked()), code.extend(blanked())),
        };
        before = taken.chars().last().unwrap_or(c);
        rest = left;
    }
    (words, code)
}

enum Kind {
    Code,
    Comment,
    Literal,
}

/// Length and kind of the piece that `rest` begins with.
fn piece(rest: &str, before: char) -> (usize, Kind) {
    let first = rest.chars().next().map_or(0, char::len_utf8);
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Kind::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment_len(rest), Kind::Comment);
    }
    if rest.starts_with('"') {
        return (string_len(rest), Kind::Literal);
    }
    if let Some(len) = raw_string_len(rest).filter(|_| !is_word(before) || "bc".contains(before)) {
        return (len, Kind::Literal);
    }
    if rest.starts_with('\'') {
        return char_len(rest).map_or((first, Kind::Code), |len| (len, Kind::Literal));
    }
    (first, Kind::Code)
}

fn block_comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_len(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"` and `r#"…"#`; a leading `b` or `c` was taken as code.
fn raw_string_len(rest: &str) -> Option<usize> {
    let hashes = rest.strip_prefix('r')?;
    let body = hashes.trim_start_matches('#');
    let n_hashes = hashes.len() - body.len();
    let inside = body.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(n_hashes));
    let len = inside.find(&end).map_or(inside.len(), |at| at + end.len());
    Some(rest.len() - inside.len() + len)
}

/// A character literal, as opposed to a lifetime.
fn char_len(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next(); // the escaped character, which may be a quote
        return chars.find(|&(_, c)| c == '\'').map(|(at, _)| at + 1);
    }
    let (at, second) = chars.next()?;
    (second == '\'').then_some(at + 1)
}

/// Part of an identifier.
pub(super) fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Source {
        Source::new(path.into(), "x".into(), text.into())
    }

    #[test]
    fn literals_and_comments_are_blanked() {
        let text = "a(\"x \\\" y\", 'q', '\\'', b\"z\", r#\"w \" v\"#); // note\nfn f<'a>(b: &'a u8) {} /* c /* d */ e */ g";
        let (words, code) = blank(text);
        let split =
            |s: &str| s.split(|c| !is_word(c)).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ");
        assert_eq!(split(&words), "a b note fn f a b a u8 c d e g");
        assert_eq!(split(&code), "a b fn f a b a u8 g");
        assert_eq!(code.lines().count(), 2);
        for broken in ["\"open", "r#\"open\"", "/* open", "'\\", "'", "r###"] {
            blank(broken); // no panic
        }
    }

    #[test]
    fn test_lines_are_those_of_marked_items() {
        let text = "//! x\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\n#[cfg(not(test))]\nfn c() {}\n\
                    impl X {\n    #[cfg(all(test, unix))]\n    fn d() {}\n}\n";
        let lines: Vec<usize> = source("crates/x/src/a.rs", text)
            .is_test
            .iter()
            .enumerate()
            .filter(|l| *l.1)
            .map(|l| l.0 + 1)
            .collect();
        assert_eq!(lines, [3, 4, 5, 6, 10, 11]);
    }

    #[test]
    fn test_files_are_found_by_place_and_by_their_parent() {
        let mut sources = [
            source("crates/x/tests/t.rs", "fn a() {}"),
            source("crates/x/src/lib.rs", "#[cfg(test)]\nmod suite;\nmod real;"),
            source("crates/x/src/suite.rs", "mod deep;"),
            source("crates/x/src/suite/deep.rs", "fn a() {}"),
            source("crates/x/src/real.rs", "#[cfg(test)] mod own;"),
            source("crates/x/src/real/own.rs", "fn a() {}"),
            source("crates/x/src/suites.rs", "fn a() {}"),
            source("crates/x/src/tests/real.rs", "fn a() {}"),
        ];
        mark_test_files(&mut sources);
        let all: Vec<bool> = sources.iter().map(|s| s.is_test.iter().all(|t| *t)).collect();
        assert_eq!(all, [true, false, true, true, true, true, false, false]);
    }
}
