//! How each family of byte-level vocabularies cuts a text into words before merging, by the name GGUF files give
//! it. The patterns are those of the families' published tokenizers. It knows no vocabulary.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::TextError;

/// One family.
pub(crate) struct Pre {
    names: &'static [&'static str],
    /// Applied in order; each cuts the pieces the one before it left.
    splits: &'static [&'static str],
    /// Text is composed (NFC) first.
    composes: bool,
    /// A word that is a token is not built from merges.
    pub(crate) ignore_merges: bool,
    /// Whether a text begins with BOS when the file does not say.
    pub(crate) add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DIGITS_BY_3: &str = r"\p{N}{1,3}";
const HAN_AND_KANA: &str = "[一-龥\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const PLAIN: Pre = Pre { names: &[], splits: &[GPT2], composes: false, ignore_merges: false, add_bos: false };

const FAMILIES: &[Pre] = &[
    Pre { names: &["default", "gpt-2"], ..PLAIN },
    Pre { names: &["smollm", "starcoder", "refact", "command-r"], splits: &[DIGIT, GPT2], ..PLAIN },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    Pre { names: &["qwen2", "deepseek-r1-qwen"], splits: &[QWEN2], composes: true, ..PLAIN },
    Pre { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, ..PLAIN },
    Pre { names: &["gpt-4o"], splits: &[GPT4O], ..PLAIN },
    Pre { names: &["deepseek-v3"], splits: &[DIGITS_BY_3, HAN_AND_KANA, DEEPSEEK3], ..PLAIN },
];

impl Pre {
    /// The family called `name`; a file that names none means `default`.
    pub(crate) fn named(name: &str) -> Result<&'static Pre, TextError> {
        let name = if name.is_empty() { "default" } else { name };
        FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
            TextError::UnknownPre { found: name.to_owned(), known: known.join(", ") }
        })
    }

    pub(crate) fn normalizer(&self) -> Option<NormalizerWrapper> {
        self.composes.then(|| NFC.into())
    }

    /// Cuts into words, then writes each byte as the character that stands for it in the vocabulary.
    pub(crate) fn pre_tokenizer(&self) -> Result<PreTokenizerWrapper, TextError> {
        let mut steps: Vec<PreTokenizerWrapper> = Vec::with_capacity(self.splits.len() + 1);
        for pattern in self.splits {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
                .map_err(|e| TextError::Vocabulary(format!("pre-tokenizer pattern: {e}")))?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_family_compiles() {
        for family in FAMILIES {
            family.pre_tokenizer().unwrap();
        }
    }

    #[test]
    fn an_unknown_name_is_named_with_the_known_ones() {
        let message = Pre::named("quux").err().unwrap().to_string();
        assert!(message.contains("\"quux\"") && message.contains("qwen2"), "{message}");
        assert!(Pre::named("").is_ok());
    }
}
