//! A model card: one TOML file that says what a model is called, which files it consists of and where they can be
//! fetched. Parsing is checking: a [`Card`] that exists has usable names, sums and sources. Knows nothing of caches
//! or networks.

use std::{fmt, ops::Range, path::Path, str::FromStr};

use base::Bytes;
use serde::{Deserialize, Deserializer, de::Error as _};

/// Longest id, alias or file name in a card.
const MAX_NAME_CHARS: usize = 200;

/// What a model is and where its files come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// Short unique name, also the name of the model's directory in the cache.
    pub id: CardId,
    /// Other names a user may type.
    #[serde(default)]
    pub aliases: Vec<CardId>,
    /// Name for people.
    pub name: String,
    /// Family of the architecture, free text for listings.
    pub family: String,
    /// Number of parameters as people say it, "135M".
    pub parameters: String,
    /// Longest context in tokens the model was trained for.
    pub context: u32,
    /// SPDX identifier or the licence's own name.
    pub licence: String,
    /// Kind of checkpoint.
    pub format: Format,
    /// Number format of the weights as files name it, "Q4_K_M".
    pub quantisation: String,
    /// How the model calls tools, where its chat template does not show it: a name of `text::STYLE_NAMES`.
    #[serde(default, deserialize_with = "tool_style")]
    pub tool_style: Option<String>,
    /// All files of the checkpoint; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub files: Vec<CardFile>,
}

/// Kind of checkpoint a card describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One `.gguf` file.
    Gguf,
    /// A directory with `config.json` and `*.safetensors`.
    Safetensors,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardFile {
    /// Name in the cache.
    pub name: FileName,
    /// Exact size, where known.
    #[serde(default, deserialize_with = "size")]
    pub bytes: Option<Bytes>,
    /// Sum that decides whether a file is the right one, where known.
    pub sha256: Option<Sha256Sum>,
    /// Where to fetch it, in the order to try; at least one.
    #[serde(deserialize_with = "at_least_one")]
    pub sources: Vec<Source>,
}

/// One place a file can be fetched from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A file in a repository of the Hugging Face hub or a mirror of it.
    #[serde(rename = "hf")]
    Hub {
        /// `owner/name`.
        repo: RepoId,
        /// Commit, tag or branch.
        revision: Word,
        /// File inside the repository.
        path: RelativePath,
    },
    /// A file inside a wheel of a Python package.
    Pypi {
        /// Package name.
        package: Word,
        /// Exact version.
        version: Word,
        /// File inside the wheel.
        member: RelativePath,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Hub { repo, .. } => write!(f, "Hugging Face {repo}"),
            Source::Pypi { package, version, .. } => write!(f, "PyPI {package} {version}"),
        }
    }
}

impl Card {
    /// Parses a card; `file` only names it in the error.
    pub fn parse(file: &Path, text: &str) -> Result<Card, CardProblem> {
        toml::from_str(text).map_err(|error| CardProblem {
            file: file.display().to_string(),
            line: error.span().map(|span| line_of(text, span.start)),
            field: error.span().and_then(|span| field_at(text, span)),
            message: error.message().to_owned(),
        })
    }

    /// Size of all files, `None` if the card does not know all of them.
    pub fn bytes(&self) -> Option<Bytes> {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Whether every file has a sum to check it against.
    pub fn is_verifiable(&self) -> bool {
        self.files.iter().all(|file| file.sha256.is_some())
    }

    /// Whether `name` is the id or an alias, whatever its case.
    pub fn answers_to(&self, name: &str) -> bool {
        self.names().any(|own| own.eq_ignore_ascii_case(name))
    }

    /// The id and all aliases.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.id).chain(&self.aliases).map(CardId::as_str)
    }
}

/// Why a card file cannot be used; other cards are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model card {file}{}{}: {message}", at_line(.line), at_field(.field))]
pub struct CardProblem {
    /// The file.
    pub file: String,
    /// Line counted from 1, where one is to blame.
    pub line: Option<usize>,
    /// The field to blame, where one is.
    pub field: Option<String>,
    /// What was expected and found.
    pub message: String,
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}

fn at_field(field: &Option<String>) -> String {
    field.as_ref().map(|field| format!(", field `{field}`")).unwrap_or_default()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// The key the offending value belongs to: the word before the `=` in front of it, or the offending word itself.
fn field_at(text: &str, span: Range<usize>) -> Option<String> {
    let before = text.get(..span.start)?;
    let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let key = match before.trim_end().strip_suffix('=') {
        Some(before) => before.trim_end().rsplit(|c| !is_key(c)).next()?,
        None => text.get(span)?.trim(),
    };
    (!key.is_empty() && key.chars().all(is_key)).then(|| key.to_owned())
}

fn at_least_one<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    let items = Vec::deserialize(from)?;
    if items.is_empty() {
        Err(D::Error::custom("expected at least one entry, found none"))
    } else {
        Ok(items)
    }
}

fn tool_style<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(from)?;
    if text::STYLE_NAMES.contains(&&*name) {
        return Ok(Some(name));
    }
    let known = text::STYLE_NAMES.join(", ");
    Err(D::Error::custom(format!("expected one of: {known}, found {name:?}")))
}

fn size<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bytes>, D::Error> {
    match u64::deserialize(from)? {
        0 => Err(D::Error::custom("expected the size of the file, found 0")),
        bytes => Ok(Some(Bytes(bytes))),
    }
}

/// A SHA-256 sum; prints as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Sha256Sum(pub [u8; 32]);

impl fmt::Display for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Sha256Sum {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(|| {
            format!("expected 64 hexadecimal digits, found {} characters", text.chars().count())
        })?;
        Ok(Sha256Sum(std::array::from_fn(|at| digits[2 * at] << 4 | digits[2 * at + 1])))
    }
}

impl TryFrom<String> for Sha256Sum {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $is_good:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(text: String) -> Result<Self, String> {
                let is_good: fn(&str) -> bool = $is_good;
                if text.len() <= MAX_NAME_CHARS && is_good(&text) {
                    return Ok($name(text));
                }
                let shown: String = text.chars().take(MAX_NAME_CHARS).collect();
                Err(format!(concat!("expected ", $expected, ", found {:?}"), shown))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// The short name of a card; safe as the name of a directory.
    CardId,
    "lower-case letters, digits, '.', '-' and '_', beginning with a letter or digit",
    |text| is_word(text) && !text.chars().any(|c| c.is_ascii_uppercase())
);
checked_text!(
    /// The name of a file inside a model's directory.
    FileName,
    "a file name of letters, digits, '.', '-' and '_', beginning with a letter or digit",
    is_word
);
checked_text!(
    /// A revision, package name or version: never mistaken for an option or a path.
    Word,
    "letters, digits, '.', '-' and '_', beginning with a letter or digit",
    is_word
);
checked_text!(
    /// A repository of the hub, `owner/name`.
    RepoId,
    "a repository as owner/name",
    |text| text.split('/').count() == 2 && text.split('/').all(is_word)
);
checked_text!(
    /// A path below some root that never leaves it.
    RelativePath,
    "a relative path without '..' or control characters",
    |text| {
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        text.split('/').all(is_part) && !text.contains(['\\', ':']) && !text.chars().any(char::is_control)
    }
);

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"id = "tiny"
aliases = ["tiny-1"]
name = "Tiny"
family = "llama"
parameters = "1M"
context = 64
licence = "MIT"
format = "gguf"
quantisation = "Q8_0"
[[files]]
name = "tiny.gguf"
bytes = 5
sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
sources = [
    { hf = { repo = "who/tiny", revision = "main", path = "sub/tiny.gguf" } },
    { pypi = { package = "tiny", version = "1.0", member = "tiny/tiny.gguf" } },
]
"#;

    fn problem(from: &str, to: &str) -> CardProblem {
        assert!(GOOD.contains(from), "{from}");
        problem_of(&GOOD.replacen(from, to, 1))
    }

    fn problem_of(text: &str) -> CardProblem {
        Card::parse(Path::new("my.toml"), text).unwrap_err()
    }

    #[test]
    fn a_tool_style_is_a_known_one() {
        let style =
            |name: &str| GOOD.replacen("[[files]]", &format!("tool_style = \"{name}\"\n[[files]]"), 1);
        let card = Card::parse(Path::new("my.toml"), &style("kimi")).unwrap();
        assert_eq!(card.tool_style.as_deref(), Some("kimi"));
        let problem = problem_of(&style("klingon"));
        assert_eq!(problem.field.as_deref(), Some("tool_style"));
        assert!(problem.message.contains("hermes") && problem.message.contains("klingon"), "{problem}");
    }

    #[test]
    fn reads_every_field() {
        let card = Card::parse(Path::new("my.toml"), GOOD).unwrap();
        assert_eq!((card.id.as_str(), card.format, card.context), ("tiny", Format::Gguf, 64));
        assert_eq!(card.bytes(), Some(Bytes(5)));
        assert!(card.is_verifiable() && card.answers_to("TINY-1") && !card.answers_to("tin"));
        let sum = card.files[0].sha256.unwrap().to_string();
        assert_eq!(sum, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        let sources: Vec<String> = card.files[0].sources.iter().map(Source::to_string).collect();
        assert_eq!(sources, ["Hugging Face who/tiny", "PyPI tiny 1.0"]);
    }

    #[test]
    fn size_and_sum_may_be_unknown() {
        let text = GOOD.replace("bytes = 5\n", "").replace("sha256 =", "# sha256 =");
        let card = Card::parse(Path::new("my.toml"), &text).unwrap();
        assert_eq!((card.bytes(), card.is_verifiable()), (None, false));
    }

    #[test]
    fn a_problem_names_file_line_and_field() {
        let cases = [
            ("id = \"tiny\"", "id = \"../tiny\"", 1, "id"),
            ("\"tiny-1\"", "\"Tiny 1\"", 2, "aliases"),
            ("context = 64", "context = \"64\"", 6, "context"),
            ("context = 64", "context = -1", 6, "context"),
            ("\"gguf\"", "\"pth\"", 8, "format"),
            ("\"tiny.gguf\"", "\"a/b\"", 11, "name"),
            ("bytes = 5", "bytes = 0", 12, "bytes"),
            ("2cf24d", "2cf24", 13, "sha256"),
            ("2cf24d", "zcf24d", 13, "sha256"),
            ("who/tiny", "who", 15, "repo"),
            ("\"main\"", "\"-x\"", 15, "revision"),
            ("sub/tiny", "../tiny", 15, "path"),
            ("\"1.0\"", "\"1.0 --pre\"", 16, "version"),
            ("licence =", "license =", 7, "license"),
        ];
        for (from, to, line, field) in cases {
            let problem = problem(from, to);
            let shown = problem.to_string();
            assert_eq!(problem.line, Some(line), "{to}: {shown}");
            if field != "aliases" {
                assert_eq!(problem.field.as_deref(), Some(field), "{to}: {shown}");
            }
            assert!(shown.starts_with(&format!("model card my.toml, line {line}")), "{shown}");
        }
    }

    #[test]
    fn missing_and_empty_parts_are_named() {
        assert!(problem("name = \"Tiny\"\n", "").to_string().contains("`name`"));
        assert!(problem("[[files]]", "[files]").to_string().contains("my.toml"));
        let empty = format!("{}files = []\n", GOOD.split("[[files]]").next().unwrap());
        let problem = Card::parse(Path::new("my.toml"), &empty).unwrap_err();
        assert!(problem.to_string().contains("field `files`: expected at least one"), "{problem}");
        assert!(Card::parse(Path::new("my.toml"), "id = ").is_err());
    }

    proptest::proptest! {
        #[test]
        fn hostile_text_is_refused_without_panic(at in 0usize..600, junk in "\\PC{0,8}") {
            let at = (0..=at.min(GOOD.len())).rev().find(|at| GOOD.is_char_boundary(*at)).unwrap();
            let text = format!("{}{junk}{}", &GOOD[..at], &GOOD[at..]);
            if let Err(problem) = Card::parse(Path::new("x"), &text) {
                let _ = problem.to_string();
            }
        }
    }
}
