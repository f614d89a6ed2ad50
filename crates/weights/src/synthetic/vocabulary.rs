//! A byte-level BPE vocabulary made of nothing: the 256 bytes, merges of letters common in English and of those
//! pairs again, special tokens, unused entries up to the wanted size.

/// Bytes and special tokens, which every vocabulary has.
pub(super) const N_FIXED: u32 = 256 + 3;
/// Letters, the most frequent in English first.
const LETTERS: &str = "etaoinshrdlcumwfgypbvkjxqz";
/// One of this many entries that are not fixed stays unused, as in real vocabularies.
const UNUSED_SHARE: usize = 64;

/// Ends a text.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";
const TURN_START: &str = "<|im_start|>";
/// Ends a turn.
pub(super) const TURN_END: &str = "<|im_end|>";
/// The special tokens in the order of their ids.
pub(super) const SPECIAL: [&str; 3] = [END_OF_TEXT, TURN_START, TURN_END];

/// Every turn between its marks, as ChatML has it; what tools exist is not said.
pub(super) const CHAT_TEMPLATE: &str = "{% for message in messages %}\
    {{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// Token ids are: bytes, merges, special tokens, unused.
pub(super) struct Vocabulary {
    /// Texts of the bytes and of the merges, in the alphabet that gives each byte a printable character.
    pub(super) tokens: Vec<String>,
    /// The two parts of every merge, the most urgent first.
    pub(super) merges: Vec<(String, String)>,
    /// Entries after the special tokens.
    pub(super) n_unused: usize,
}

impl Vocabulary {
    /// A vocabulary of `size` entries, at least `N_FIXED`.
    pub(super) fn new(size: u32) -> Vocabulary {
        let free = size.saturating_sub(N_FIXED) as usize;
        let merges: Vec<_> = all_merges().take(free - free / UNUSED_SHARE).collect();
        let mut tokens: Vec<String> = byte_alphabet().map(String::from).collect();
        tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
        let n_unused = free - merges.len();
        Vocabulary { tokens, merges, n_unused }
    }

    /// Id of one of `SPECIAL`.
    pub(super) fn special_id(&self, token: &str) -> u32 {
        let i = SPECIAL.iter().position(|s| *s == token).unwrap_or(0);
        (self.tokens.len() + i) as u32
    }
}

/// One character per byte, printable bytes first and as themselves, the others from U+0100 on: the alphabet that
/// every byte-level BPE since GPT-2 uses.
fn byte_alphabet() -> impl Iterator<Item = char> {
    let printable = |b: &u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let others = (0u8..=255).filter(move |b| !printable(b)).zip('\u{100}'..).map(|(_, c)| c);
    (0u8..=255).filter(printable).map(char::from).chain(others)
}

/// A space and a letter, two letters, then two of these, common ones first: about half a million.
fn all_merges() -> impl Iterator<Item = (String, String)> {
    let letters: Vec<String> = LETTERS.chars().map(String::from).collect();
    let space = "\u{120}".to_owned(); // the space's character in the alphabet above
    let mut merges: Vec<(String, String)> = letters.iter().map(|c| (space.clone(), c.clone())).collect();
    merges.extend(
        diagonals(letters.len(), letters.len()).map(|(i, j)| (letters[i].clone(), letters[j].clone())),
    );
    let merged: Vec<String> = merges.iter().map(|(a, b)| format!("{a}{b}")).collect();
    let n = letters.len();
    let again = diagonals(merged.len(), merged.len() - n)
        .map(move |(i, j)| (merged[i].clone(), merged[n + j].clone()));
    merges.into_iter().chain(again)
}

/// Every `(i, j)` below `(n, m)`, those with a small sum first.
fn diagonals(n: usize, m: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n + m - 1)
        .flat_map(move |sum| (sum.saturating_sub(m - 1)..=sum.min(n - 1)).map(move |i| (i, sum - i)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn tokens_are_distinct_and_every_merge_has_its_parts() {
        for size in [N_FIXED, 300, 512, 32_768, 600_000] {
            let v = Vocabulary::new(size);
            assert_eq!(v.tokens.len() + SPECIAL.len() + v.n_unused, size as usize);
            let mut seen: HashSet<&str> = v.tokens[..256].iter().map(String::as_str).collect();
            assert_eq!(seen.len(), 256);
            for ((a, b), token) in v.merges.iter().zip(&v.tokens[256..]) {
                assert!(seen.contains(a.as_str()) && seen.contains(b.as_str()), "{a} {b}");
                assert!(seen.insert(token), "{token} twice");
            }
        }
    }

    #[test]
    fn the_alphabet_is_the_usual_one() {
        let alphabet: Vec<char> = byte_alphabet().collect();
        assert_eq!((alphabet[0], alphabet[93], alphabet[94], alphabet[188]), ('!', '~', '¡', 'Ā'));
        assert!(alphabet.contains(&'Ġ') && alphabet.contains(&'Ċ'));
    }
}
