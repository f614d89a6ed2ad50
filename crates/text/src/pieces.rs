//! The vocabulary seen from its other side: which bytes each token stands for. It knows nothing of how text is cut
//! into tokens.

use base::TokenId;

/// How a vocabulary writes bytes as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spelling {
    /// Each character stands for one byte.
    ByteLevel,
    /// `▁` is a space and `<0x0A>` a byte.
    SentencePiece,
}

/// What a token is to someone who reads or writes text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A piece of text in the vocabulary's spelling.
    Text,
    /// A piece of text as it stands.
    Verbatim,
    /// One byte, written `<0xHH>`.
    Byte,
    /// A mark between pieces of text; decoding leaves it out.
    Control,
}

/// token → bytes, in one block of memory.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    control: Vec<bool>,
    /// Encoding puts a space before a text, so decoding takes one away.
    pub(crate) strips_space: bool,
}

impl Pieces {
    pub(crate) fn new(strips_space: bool) -> Pieces {
        Pieces { strips_space, ..Pieces::default() }
    }

    /// Appends the next token.
    pub(crate) fn push(&mut self, text: &str, role: Role, spelling: Spelling) {
        match (role, spelling) {
            (Role::Text, Spelling::ByteLevel) => match byte_level(text) {
                Some(bytes) => self.bytes.extend(bytes),
                None => self.bytes.extend(text.as_bytes()),
            },
            (Role::Text, Spelling::SentencePiece) => self.bytes.extend(text.replace('▁', " ").bytes()),
            (Role::Byte, _) => match byte_piece(text) {
                Some(byte) => self.bytes.push(byte),
                None => self.bytes.extend(text.as_bytes()),
            },
            (Role::Verbatim | Role::Control, _) => self.bytes.extend(text.as_bytes()),
        }
        self.close(role);
    }

    /// Appends a token that is spelled as it is.
    pub(crate) fn push_bytes(&mut self, bytes: &[u8], role: Role) {
        self.bytes.extend(bytes);
        self.close(role);
    }

    fn close(&mut self, role: Role) {
        self.ends.push(self.bytes.len());
        self.control.push(role == Role::Control);
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(crate) fn bytes(&self, token: TokenId) -> Option<&[u8]> {
        let i = token.0 as usize;
        let end = *self.ends.get(i)?;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        Some(&self.bytes[start..end])
    }

    pub(crate) fn is_control(&self, token: TokenId) -> bool {
        self.control.get(token.0 as usize).copied().unwrap_or(false)
    }
}

/// The byte that `<0xHH>` names.
pub(crate) fn byte_piece(text: &str) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && !hex.starts_with('+')).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// Bytes of a byte-level token: printable Latin-1 characters stand for themselves, the others were moved up to
/// U+0100 in order. `None` if a character stands for no byte.
fn byte_level(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| byte_of(u32::from(c))).collect()
}

fn byte_of(c: u32) -> Option<u8> {
    // The moved ones are 0..=32, 127..=160 and 173.
    let byte = match c {
        0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF => c,
        0x100..=0x120 => c - 0x100,
        0x121..=0x142 => c - 0x121 + 127,
        0x143 => 173,
        _ => return None,
    };
    u8::try_from(byte).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    #[test]
    fn the_alphabet_names_every_byte_once() {
        let mut bytes: Vec<u8> =
            ByteLevel::alphabet().into_iter().map(|c| byte_of(u32::from(c)).unwrap()).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of(u32::from('Ġ')), Some(b' '));
        assert_eq!(byte_of(u32::from('Ċ')), Some(b'\n'));
    }

    #[test]
    fn byte_pieces() {
        assert_eq!(byte_piece("<0x0A>"), Some(10));
        for not in ["<0x0>", "<0x+A>", "<0xGG>", "0x0A", "<0x0A0>"] {
            assert_eq!(byte_piece(not), None, "{not}");
        }
    }
}
