//! Words the glossary rules out, in identifiers and comments, and notes of unfinished work. Literals are free: they
//! may quote other people's protocols.

use super::Finding;
use super::source::{Source, is_word};

/// Marks of unfinished work, as they are written.
const UNFINISHED: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// Heading in GLOSSARY.md of the table of words to avoid.
const HEADING: &str = "## Not";
/// A comment that lets one word pass on its own line and the next: `tidy: allow(word) reason`.
const MARKER: &str = "tidy: allow(";

/// A word to avoid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Banned {
    /// Its parts in lower case: `block_table` has two.
    parts: Vec<String>,
    /// What to say.
    instead: String,
}

/// The table of words to avoid, and a finding if there is none.
pub(super) fn banned(glossary: &str) -> (Vec<Banned>, Option<Finding>) {
    let table = glossary.lines().skip_while(|line| !line.starts_with(HEADING)).skip(1);
    let rows = table.take_while(|line| !line.starts_with('#')).filter(|line| line.starts_with('|')).skip(2);
    let entry = |row: &str| {
        let (word, instead) = row.trim_matches('|').split_once('|')?;
        let parts = parts(word.trim().trim_matches('`'));
        (!parts.is_empty()).then(|| Banned { parts, instead: instead.trim().to_owned() })
    };
    let banned: Vec<Banned> = rows.filter_map(entry).collect();
    let missing = banned.is_empty().then(|| Finding {
        file: "GLOSSARY.md".into(),
        line: 1,
        what: "words to avoid".into(),
        found: "none".into(),
        allowed: format!("a table under `{HEADING}`"),
    });
    (banned, missing)
}

/// Banned words and marks of unfinished work.
pub(super) fn check(source: &Source, banned: &[Banned]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut above = "";
    for (i, line) in source.words.lines().enumerate() {
        let mut add = |found: &str, allowed: String| {
            let (file, what) = (source.path.clone(), "word to avoid".to_owned());
            findings.push(Finding { file, line: i + 1, what, found: format!("`{found}`"), allowed });
        };
        for name in line.split(|c| !is_word(c)).filter(|name| !name.is_empty()) {
            if UNFINISHED.contains(&name) {
                add(name, "work that is done".into());
            }
            let parts = parts(name);
            for b in banned.iter().filter(|b| has(&parts, &b.parts)) {
                if !allows(line, b) && !allows(above, b) {
                    add(name, b.instead.clone());
                }
            }
        }
        above = line;
    }
    findings
}

/// Whether `line` lets the word pass and gives a reason.
fn allows(line: &str, banned: &Banned) -> bool {
    let marker = line.split_once(MARKER).and_then(|(_, rest)| rest.split_once(')'));
    marker.is_some_and(|(word, reason)| parts(word) == banned.parts && !reason.trim().is_empty())
}

/// Whether the parts of a name contain the word, in singular or plural.
fn has(name: &[String], word: &[String]) -> bool {
    let same = |(a, b): (&String, &String)| a == b || a.strip_suffix('s') == Some(b);
    name.windows(word.len()).any(|part| part.iter().zip(word).all(same))
}

/// The words within a name, in lower case: `HTTPHost_name` is http, host, name.
fn parts(name: &str) -> Vec<String> {
    let chars: Vec<char> = name.chars().collect();
    let mut parts = vec![String::new()];
    for (i, &c) in chars.iter().enumerate() {
        let before = i.checked_sub(1).map(|i| chars[i]);
        let starts = c.is_uppercase()
            && before.is_some_and(|b| {
                b.is_lowercase() || b.is_uppercase() && chars.get(i + 1).is_some_and(|n| n.is_lowercase())
            });
        if c == '_' || starts {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut().filter(|_| c != '_') {
            part.extend(c.to_lowercase());
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const GLOSSARY: &str = "# Glossary\n| a | b |\n|---|---|\n| job | fine here |\n\n## Not these\n\nBut:\n\n\
        | not | but |\n|---|---|\n| `worker` | rank |\n| `all_sum` | all_reduce |\n\n## More\n| x | y |\n";

    fn found(text: &str) -> Vec<(usize, String)> {
        let source = Source::new("crates/x/src/a.rs".into(), "x".into(), text.into());
        check(&source, &banned(GLOSSARY).0).into_iter().map(|f| (f.line, f.found)).collect()
    }

    #[test]
    fn the_table_is_read_from_its_section() {
        let (list, missing) = banned(GLOSSARY);
        let read: Vec<_> = list.iter().map(|b| (b.parts.join("_"), b.instead.as_str())).collect();
        assert_eq!(read, [("worker".to_owned(), "rank"), ("all_sum".to_owned(), "all_reduce")]);
        assert_eq!(missing, None);
        assert!(banned("").1.is_some());
        assert!(banned("## Not\nnothing").1.is_some());
    }

    #[test]
    fn names_and_comments_are_searched_for_whole_words() {
        for bad in [
            "fn worker() {}",
            "// the Workers",
            "struct WorkerPool;",
            "let x_worker_y = 1;",
            "/// all_sum",
            "allSum()",
        ] {
            assert_eq!(found(bad).len(), 1, "{bad}");
        }
        for good in [
            "let coworkership = 1;",
            "call(\"worker\")",
            "// all in all, sum",
            "r#\"worker\"#",
            "// sums of all",
        ] {
            assert_eq!(found(good), [], "{good}");
        }
        assert_eq!(found("\n\nmod worker;"), [(3, "`worker`".to_owned())]);
    }

    #[test]
    fn a_marker_with_a_reason_lets_one_word_pass() {
        assert_eq!(found("x.worker_threads(2) // tidy: allow(worker) tokio's own name"), []);
        assert_eq!(found("// tidy: allow(worker) tokio's own name\nx.worker_threads(2)"), []);
        assert_eq!(found("x.worker_threads(2) // tidy: allow(worker)").len(), 2, "no reason");
        assert_eq!(found("x.worker_threads(2) // tidy: allow(job) another word").len(), 1);
        assert_eq!(found("// tidy: allow(worker) too far off\n\nx.worker_threads(2)").len(), 1);
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(
            found("// TODO: later\n// FIXME\n// XXX\n"),
            [(1, "`TODO`".to_owned()), (2, "`FIXME`".to_owned()), (3, "`XXX`".to_owned()),]
        );
        assert_eq!(found("// a todo list of XXXL\nlet s = \"TODO\";"), []);
    }
}
