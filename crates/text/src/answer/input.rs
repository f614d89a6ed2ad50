//! Text that has arrived and is not understood yet, and the search for marks in it. A mark counts only when it is
//! complete, and text that could still become one stays; so results do not depend on how the text was cut.

/// Text from where reading stands.
#[derive(Debug, Default)]
pub(super) struct Input {
    text: String,
    is_ended: bool,
}

/// What stands before the next mark.
#[derive(Debug, PartialEq)]
pub(super) enum Found {
    /// Text, and then the mark of this number. Both are taken.
    Mark(String, usize),
    /// Text without a mark; what remains could be the beginning of one.
    Text(String),
}

impl Input {
    pub(super) fn push(&mut self, chunk: &str) {
        self.text.push_str(chunk);
    }

    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    pub(super) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// All that is there.
    pub(super) fn peek(&self) -> &str {
        &self.text
    }

    /// Takes the first `n_bytes`.
    pub(super) fn take(&mut self, n_bytes: usize) -> String {
        let rest = self.text.split_off(n_bytes);
        std::mem::replace(&mut self.text, rest)
    }

    /// Takes the text up to the next of `marks`, and the mark. No mark may be the beginning of another.
    pub(super) fn until(&mut self, marks: &[&str]) -> Found {
        let (start, mark) = self.find(marks);
        let text = self.take(start);
        match mark {
            Some(i) => {
                self.take(marks[i].len());
                Found::Mark(text, i)
            }
            None => Found::Text(text),
        }
    }

    /// Where the next of `marks` begins and which it is, or else where it could begin.
    pub(super) fn find(&self, marks: &[&str]) -> (usize, Option<usize>) {
        for (at, _) in self.text.char_indices() {
            let rest = &self.text[at..];
            if let Some(i) = marks.iter().position(|mark| rest.starts_with(mark)) {
                return (at, Some(i));
            }
            if !self.is_ended && marks.iter().any(|mark| mark.starts_with(rest)) {
                return (at, None);
            }
        }
        (self.text.len(), None)
    }

    /// Takes blanks; the first character after them, if it is there.
    pub(super) fn skip_blanks(&mut self) -> Option<char> {
        let n_blank = self.text.len() - self.text.trim_start().len();
        self.text.drain(..n_blank);
        self.text.chars().next()
    }

    /// Takes `mark` if it comes next; `None` while that is open.
    pub(super) fn take_mark(&mut self, mark: &str) -> Option<bool> {
        if self.text.starts_with(mark) {
            self.take(mark.len());
            return Some(true);
        }
        (self.is_ended || !mark.starts_with(&self.text)).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(text: &str) -> Input {
        let mut input = Input::default();
        input.push(text);
        input
    }

    #[test]
    fn a_mark_is_found_whole_and_its_beginning_is_kept() {
        let marks = ["<a>", "</a>"];
        let mut found = input("x<y</a>z</");
        assert_eq!(found.until(&marks), Found::Mark("x<y".into(), 1));
        assert_eq!(found.until(&marks), Found::Text("z".into()));
        assert_eq!(found.until(&marks), Found::Text("".into()));
        found.push("b");
        assert_eq!(found.until(&marks), Found::Text("</b".into()));
        found.push("<");
        found.end();
        assert_eq!(found.until(&marks), Found::Text("<".into()));
        assert_eq!(input("é").until(&[]), Found::Text("é".into()));
    }

    #[test]
    fn the_first_place_counts_even_when_a_later_one_is_complete() {
        assert_eq!(input("abc").find(&["abcd", "bc"]), (0, None));
        assert_eq!(input("abcx").find(&["abcd", "bc"]), (1, Some(1)));
    }

    #[test]
    fn one_mark_may_come_next() {
        assert_eq!(input("<").take_mark("<a>"), None);
        assert_eq!(input("<a>b").take_mark("<a>"), Some(true));
        assert_eq!(input("<b").take_mark("<a>"), Some(false));
        let mut at_end = input("<a");
        at_end.end();
        assert_eq!(at_end.take_mark("<a>"), Some(false));
    }
}
