//! Lengths of files and functions, tests apart. A file that does not parse is a finding too.

use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::Source;

/// Lines of a function, from `fn` to its closing brace.
const MAX_FUNCTION_LINES: usize = 70;
/// Lines of a file without its tests.
const MAX_FILE_LINES: usize = 600;

/// What is too long.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let finding = |line, what: String, found: String, allowed: String| Finding {
        file: source.path.clone(),
        line,
        what,
        found,
        allowed,
    };
    let mut findings = Vec::new();
    let n_lines = source.is_test.iter().filter(|is_test| !**is_test).count();
    if n_lines > MAX_FILE_LINES {
        let (found, allowed) = (format!("{n_lines} lines"), format!("{MAX_FILE_LINES} without tests"));
        findings.push(finding(1, "long file".into(), found, allowed));
    }
    match &source.ast {
        Ok(file) => {
            let mut functions = Functions::default();
            functions.visit_file(file);
            for (name, start, end) in functions.found {
                let n_lines = end + 1 - start;
                if n_lines > MAX_FUNCTION_LINES && !source.is_test_line(start) {
                    let (found, allowed) = (format!("{n_lines} lines"), MAX_FUNCTION_LINES.to_string());
                    findings.push(finding(start, format!("long function `{name}`"), found, allowed));
                }
            }
        }
        Err(why) => {
            let line = why.span().start().line;
            findings.push(finding(line, "unreadable Rust".into(), why.to_string(), "what parses".into()));
        }
    }
    findings
}

/// Name, first and last line of every function with a body.
#[derive(Default)]
struct Functions {
    found: Vec<(String, usize, usize)>,
}

impl Functions {
    fn add(&mut self, signature: &syn::Signature, body: &syn::Block) {
        let lines = (signature.span().start().line, body.span().end().line);
        self.found.push((signature.ident.to_string(), lines.0, lines.1));
    }
}

impl<'a> Visit<'a> for Functions {
    fn visit_item_fn(&mut self, function: &'a syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'a syn::TraitItemFn) {
        if let Some(body) = &function.default {
            self.add(&function.sig, body);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(text: &str) -> Vec<(usize, String, String)> {
        let source = Source::new("crates/x/src/a.rs".into(), "x".into(), text.into());
        check(&source).into_iter().map(|f| (f.line, f.what, f.found)).collect()
    }

    /// A function of `n_lines` lines.
    fn function(name: &str, n_lines: usize) -> String {
        format!("/// Says nothing.\n#[inline]\npub fn {name}() {{\n{}}}\n", "    g();\n".repeat(n_lines - 2))
    }

    #[test]
    fn functions_stop_at_seventy() {
        assert_eq!(check_text(&function("f", 70)), []);
        let found = check_text(&function("f", 71));
        assert_eq!(found, [(3, "long function `f`".to_owned(), "71 lines".to_owned())]);
        assert_eq!(check_text(&format!("impl X {{ {} }}", function("f", 71))).len(), 1);
        assert_eq!(check_text(&format!("trait X {{ {} }}", function("f", 71).replace("pub ", ""))).len(), 1);
        assert_eq!(check_text(&format!("mod m {{ {} }}", function("f", 71))).len(), 1);
        assert_eq!(check_text(&format!("#[cfg(test)]\nmod m {{\n{}}}", function("f", 71))), []);
    }

    #[test]
    fn files_stop_at_six_hundred() {
        assert_eq!(check_text(&"// x\n".repeat(600)), []);
        let found = check_text(&"// x\n".repeat(601));
        assert_eq!(found, [(1, "long file".to_owned(), "601 lines".to_owned())]);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "// x\n".repeat(100));
        assert_eq!(check_text(&("// x\n".repeat(600) + &tests)), []);
    }

    #[test]
    fn what_does_not_parse_is_found() {
        let found = check_text("fn f() {}\nfn (");
        assert_eq!((found.len(), found[0].1.as_str()), (1, "unreadable Rust"));
    }
}
