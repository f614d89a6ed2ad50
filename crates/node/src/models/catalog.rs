//! All model cards this machine knows: those shipped with the program and the user's own, and what a user means by
//! the text typed for a model. Does not fetch anything.

use std::{
    fs,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};

use super::card::{Card, CardProblem};

/// Id of the model that is used when none is named.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

/// Largest card file that is read, in bytes.
const MAX_CARD_BYTES: u64 = 64 * 1024;
/// Most card files that are read from the user's directory.
const MAX_USER_CARDS: usize = 1000;
/// Most ids proposed for an unknown name.
const MAX_PROPOSALS: usize = 3;
/// Longest text that is compared with the known names, in characters.
const MAX_COMPARED_CHARS: usize = 100;

macro_rules! shipped {
    ($($name:literal),* $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("../../cards/", $name, ".toml")))),*]
    };
}

/// The cards of the program, in the order of the listing.
const SHIPPED: &[(&str, &str)] = shipped![
    "smollm2-135m-instruct",
    "smollm2-360m-instruct",
    "smollm2-1.7b-instruct",
    "llama-3.2-1b-instruct",
    "llama-3.2-3b-instruct",
    "llama-3.1-8b-instruct",
    "llama-3.3-70b-instruct",
    "qwen2.5-0.5b-instruct",
    "qwen2.5-1.5b-instruct",
    "qwen2.5-7b-instruct",
    "qwen3-0.6b",
    "qwen3-4b",
    "qwen3-8b",
    "qwen3-32b",
    "mistral-7b-instruct-v0.3",
];

/// The known model cards.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    cards: Vec<Card>,
}

/// What a user's text for a model means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// A checkpoint that is on this machine.
    Path(PathBuf),
    /// A model to be fetched or found in the cache.
    Card(Box<Card>),
}

/// A text that means no model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Neither a path nor a known name.
    #[error("no model is called {text:?} and no file of that name exists\nhint: {hint}")]
    Unknown {
        /// What was typed.
        text: String,
        /// Names that are close, or how to list them.
        hint: String,
    },
    /// A directory that holds no checkpoint.
    #[error(
        "the directory {path} has no config.json, so it holds no model\nhint: name a .gguf file or a directory with config.json and *.safetensors"
    )]
    NoModelInside {
        /// The directory.
        path: PathBuf,
    },
}

impl Catalog {
    /// The shipped cards and those in `user_dir` (`*.toml`; the directory may be missing). A user's card replaces a
    /// shipped one with the same id. Cards that cannot be used are reported and left out.
    pub fn load(user_dir: Option<&Path>) -> (Catalog, Vec<CardProblem>) {
        let mut catalog = Catalog::default();
        let mut problems = Vec::new();
        for (name, text) in SHIPPED {
            match Card::parse(Path::new(name), text) {
                Ok(card) => catalog.cards.push(card),
                Err(problem) => problems.push(problem),
            }
        }
        if let Some(dir) = user_dir {
            catalog.add_directory(dir, &mut problems);
        }
        (catalog, problems)
    }

    /// Every card, the default first, the user's additional ones last.
    pub fn list(&self) -> &[Card] {
        &self.cards
    }

    /// The card with this id or alias, whatever its case; an id goes before an alias, the user's alias before ours.
    pub fn find(&self, name: &str) -> Option<&Card> {
        let by_id = self.cards.iter().find(|card| card.id.as_str().eq_ignore_ascii_case(name));
        by_id.or_else(|| self.cards.iter().rev().find(|card| card.answers_to(name)))
    }

    /// What a user means by `text`: a checkpoint on disk, else a card's id or alias.
    pub fn resolve(&self, text: &str) -> Result<Resolved, ResolveError> {
        let path = Path::new(text);
        if is_checkpoint(path) {
            return Ok(Resolved::Path(path.to_owned()));
        }
        if let Some(card) = self.find(text) {
            return Ok(Resolved::Card(Box::new(card.clone())));
        }
        if path.is_file() {
            return Ok(Resolved::Path(path.to_owned()));
        }
        if path.is_dir() {
            return Err(ResolveError::NoModelInside { path: path.to_owned() });
        }
        Err(ResolveError::Unknown { text: text.to_owned(), hint: self.hint(text) })
    }

    fn hint(&self, text: &str) -> String {
        let close = self.closest(text);
        if text.contains('/') || text.ends_with(".gguf") {
            "check the path; names of models to fetch are listed by `onefold models`".to_owned()
        } else if close.is_empty() {
            "list the known models with `onefold models`, or give a path to a .gguf file".to_owned()
        } else {
            format!("did you mean {}?", close.join(" or "))
        }
    }

    /// Ids whose names contain the text or differ from it in few letters, closest first.
    fn closest(&self, text: &str) -> Vec<&str> {
        let text: String = text.to_lowercase().chars().take(MAX_COMPARED_CHARS).collect();
        let n_chars = text.chars().count();
        let distance = |card: &Card| {
            let of_name = |name: &str| {
                if n_chars >= 3 && name.contains(&text) { 0 } else { edit_distance(name, &text) }
            };
            card.names().map(of_name).min().unwrap_or(usize::MAX)
        };
        let mut close: Vec<(usize, &str)> = self.cards.iter().map(|c| (distance(c), c.id.as_str())).collect();
        close.retain(|(distance, _)| *distance <= n_chars / 3);
        close.sort_by_key(|(distance, _)| *distance);
        close.into_iter().take(MAX_PROPOSALS).map(|(_, id)| id).collect()
    }

    fn add_directory(&mut self, dir: &Path, problems: &mut Vec<CardProblem>) {
        let mut from_user: Vec<(String, PathBuf)> = Vec::new();
        for path in card_files(dir, problems) {
            let card = match read_card(&path) {
                Ok(card) => card,
                Err(problem) => {
                    problems.push(problem);
                    continue;
                }
            };
            if let Some((id, other)) = from_user.iter().find(|(id, _)| id == card.id.as_str()) {
                problems.push(CardProblem {
                    field: Some("id".to_owned()),
                    ..of_file(&path, format!("{id:?} is already the id in {}", other.display()))
                });
                continue;
            }
            from_user.push((card.id.to_string(), path));
            match self.cards.iter_mut().find(|known| known.id == card.id) {
                Some(known) => *known = card,
                None => self.cards.push(card),
            }
        }
    }
}

/// The `*.toml` files of a directory in the order of their names; none if there is no such directory.
fn card_files(dir: &Path, problems: &mut Vec<CardProblem>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(of_file(dir, format!("cannot list the directory: {error}")));
            return Vec::new();
        }
    };
    let is_card = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_card).collect();
    files.sort();
    if files.len() > MAX_USER_CARDS {
        let message = format!("{} cards, of which only the first {MAX_USER_CARDS} are read", files.len());
        problems.push(of_file(dir, message));
        files.truncate(MAX_USER_CARDS);
    }
    files
}

fn read_card(path: &Path) -> Result<Card, CardProblem> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_CARD_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| of_file(path, format!("cannot read it: {error}")))?;
    if bytes.len() as u64 > MAX_CARD_BYTES {
        return Err(of_file(path, format!("expected at most {MAX_CARD_BYTES} bytes, found more")));
    }
    let text = String::from_utf8(bytes).map_err(|error| of_file(path, format!("not UTF-8: {error}")))?;
    Card::parse(path, &text)
}

fn of_file(path: &Path, message: String) -> CardProblem {
    CardProblem { file: path.display().to_string(), line: None, field: None, message }
}

/// Whether the path names a checkpoint by its looks: a weights file, or a directory with `config.json`.
fn is_checkpoint(path: &Path) -> bool {
    let is_weights = |extension: &std::ffi::OsStr| {
        extension.eq_ignore_ascii_case("gguf") || extension.eq_ignore_ascii_case("safetensors")
    };
    let is_directory = path.is_dir() && path.join("config.json").is_file();
    is_directory || (path.is_file() && path.extension().is_some_and(is_weights))
}

/// Letters to insert, delete or replace between two texts (Levenshtein), by the two-row method.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect(); // [b.len() + 1]
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::card::Source;

    fn write(dir: &Path, name: &str, text: &str) {
        fs::write(dir.join(name), text).unwrap();
    }

    fn own_card(id: &str, name: &str) -> String {
        let (_, text) = SHIPPED[0];
        let text = text.replacen("smollm2-135m-instruct", id, 1);
        text.replacen("SmolLM2 135M Instruct", name, 1).replacen("\"smollm2\"", "\"mine\"", 1)
    }

    #[test]
    fn every_shipped_card_is_good_and_listed() {
        let (catalog, problems) = Catalog::load(None);
        assert_eq!(problems, []);
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("cards");
        let mut on_disk: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let mut shipped: Vec<String> =
            catalog.list().iter().map(|card| format!("{}.toml", card.id)).collect();
        on_disk.sort();
        shipped.sort();
        assert_eq!(on_disk, shipped);
        assert!(catalog.list().iter().all(|card| card.is_verifiable() && card.bytes().is_some()));
        let mut names: Vec<&str> = catalog.list().iter().flat_map(Card::names).collect();
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), n_names, "a name is given twice");
    }

    #[test]
    fn the_default_model_can_come_from_two_places() {
        let (catalog, _) = Catalog::load(None);
        let card = catalog.find(DEFAULT_MODEL).unwrap();
        assert_eq!(catalog.list()[0], *card);
        assert_eq!(card.bytes().unwrap().0, 98_362_432);
        let sources = &card.files[0].sources;
        assert!(matches!(sources[..], [Source::Hub { .. }, Source::Pypi { .. }]), "{sources:?}");
    }

    #[test]
    fn user_cards_override_and_bad_ones_do_not_hide_others() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.toml", &own_card(DEFAULT_MODEL, "Mine"));
        write(dir.path(), "b.toml", &own_card("new-one", "New"));
        write(dir.path(), "c.toml", &own_card("new-one", "Again"));
        write(dir.path(), "d.toml", "id = 7\n");
        write(dir.path(), "e.toml", &"#".repeat(70_000));
        fs::write(dir.path().join("f.toml"), [0xff, 0xfe]).unwrap();
        write(dir.path(), "readme.txt", "not a card");
        let (catalog, problems) = Catalog::load(Some(dir.path()));
        assert_eq!(catalog.list().len(), SHIPPED.len() + 1);
        assert_eq!(catalog.find(DEFAULT_MODEL).unwrap().name, "Mine");
        assert_eq!(catalog.find("New-One").unwrap().name, "New");
        assert_eq!(catalog.find("mine").unwrap().name, "New");
        let shown: Vec<String> = problems.iter().map(CardProblem::to_string).collect();
        assert_eq!(shown.len(), 4, "{shown:?}");
        for (problem, part) in
            shown.iter().zip(["c.toml, field `id`", "d.toml, line 1, field `id`", "e.toml", "f.toml"])
        {
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn a_missing_user_directory_is_no_problem() {
        let (_, problems) = Catalog::load(Some(Path::new("/nonexistent/models")));
        assert_eq!(problems, []);
    }

    #[test]
    fn a_checkpoint_on_disk_goes_before_a_name_and_a_name_before_other_files() {
        let (catalog, _) = Catalog::load(None);
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        write(dir.path(), "m.GGUF", "x");
        write(dir.path(), "blob", "x");
        fs::create_dir(dir.path().join("hf")).unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        write(&dir.path().join("hf"), "config.json", "{}");
        for name in ["m.GGUF", "blob", "hf"] {
            assert_eq!(catalog.resolve(&at(name)), Ok(Resolved::Path(at(name).into())));
        }
        assert!(matches!(catalog.resolve(&at("empty")), Err(ResolveError::NoModelInside { .. })));
        assert!(matches!(catalog.resolve(&at("none.gguf")), Err(ResolveError::Unknown { .. })));
        let Ok(Resolved::Card(card)) = catalog.resolve("SmolLM2") else { panic!("an alias is a model") };
        assert_eq!(card.id.as_str(), DEFAULT_MODEL);
    }

    #[test]
    fn an_unknown_name_proposes_close_ones() {
        let (catalog, _) = Catalog::load(None);
        let message = |text: &str| catalog.resolve(text).unwrap_err().to_string();
        assert!(message("smolm2-135m-instrukt").contains("did you mean smollm2-135m-instruct"));
        assert!(message("mistral").contains("mistral-7b-instruct-v0.3"));
        assert!(message("qwen3-9b").contains("qwen3-4b"));
        assert!(message("zzzzzzzzzz").ends_with("or give a path to a .gguf file"));
        assert!(message("./dir/x").contains("check the path"));
        assert!(message("").contains("hint: "));
    }

    #[test]
    fn edit_distance_counts_changes() {
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", "abc"), 0);
    }
}
