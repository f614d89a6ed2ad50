//! Stop strings in a stream of text. It holds back only what could still become one; it does not know where the
//! text comes from.

/// Passes text on until a stop string is complete. Of several, the one that is complete first counts (of two that
/// end together, the longer), so the result does not depend on how the text is cut into chunks.
#[derive(Clone, Debug)]
pub struct StopFilter {
    stops: Vec<Stop>,
    held: String,
    stopped: bool,
}

/// What is known after a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// Text that can be shown.
    pub text: String,
    /// A stop string is complete: nothing follows.
    pub stopped: bool,
}

/// One stop string with its Knuth-Morris-Pratt table.
#[derive(Clone, Debug)]
struct Stop {
    bytes: Vec<u8>,
    /// `fallback[n]`: longest proper prefix that also ends the first `n + 1` bytes.
    fallback: Vec<usize>,
    /// Bytes of the string that the text ends with so far.
    n_matched: usize,
}

impl StopFilter {
    /// A filter for `stops`; empty strings are ignored.
    pub fn new(stops: Vec<String>) -> StopFilter {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).map(Stop::new).collect();
        StopFilter { stops, held: String::new(), stopped: false }
    }

    /// Takes the next chunk. After a stop everything is swallowed.
    pub fn push(&mut self, chunk: &str) -> Filtered {
        if self.stopped {
            return Filtered { text: String::new(), stopped: true };
        }
        let n_before = self.held.len();
        self.held.push_str(chunk);
        for (i, byte) in chunk.bytes().enumerate() {
            if let Some(len) = self.advance(byte) {
                self.held.truncate(n_before + i + 1 - len);
                self.stopped = true;
                return Filtered { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let n_hold = self.stops.iter().map(|stop| stop.n_matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - n_hold);
        Filtered { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The text has ended: what was held back is no stop string after all.
    pub fn finish(self) -> String {
        self.held
    }

    /// Length of the longest stop string that `byte` completes.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.stops.iter_mut().filter_map(|stop| stop.advance(byte).then_some(stop.bytes.len())).max()
    }
}

impl Stop {
    fn new(text: String) -> Stop {
        let bytes = text.into_bytes();
        let mut fallback = vec![0; bytes.len()];
        for n in 1..bytes.len() {
            let mut k = fallback[n - 1];
            while k > 0 && bytes[k] != bytes[n] {
                k = fallback[k - 1];
            }
            fallback[n] = k + usize::from(bytes[k] == bytes[n]);
        }
        Stop { bytes, fallback, n_matched: 0 }
    }

    /// Whether `byte` completes the string; not called again after that.
    fn advance(&mut self, byte: u8) -> bool {
        while self.n_matched > 0 && self.bytes[self.n_matched] != byte {
            self.n_matched = self.fallback[self.n_matched - 1];
        }
        self.n_matched += usize::from(self.bytes[self.n_matched] == byte);
        self.n_matched == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(stops: &[&str]) -> StopFilter {
        StopFilter::new(stops.iter().map(|s| (*s).to_owned()).collect())
    }

    fn show(filtered: Filtered) -> (String, bool) {
        (filtered.text, filtered.stopped)
    }

    #[test]
    fn holds_back_only_what_could_become_a_stop() {
        let mut f = filter(&["END"]);
        assert_eq!(show(f.push("one E")), ("one ".into(), false));
        assert_eq!(show(f.push("N")), (String::new(), false));
        assert_eq!(show(f.push("E")), ("EN".into(), false));
        assert_eq!(show(f.push("ND and more")), (String::new(), true));
        assert_eq!(show(f.push("more")), (String::new(), true));
        assert_eq!(f.finish(), "");
    }

    #[test]
    fn the_held_tail_comes_out_at_the_end() {
        let mut f = filter(&["\n\n", "你好"]);
        assert_eq!(show(f.push("a\n")), ("a".into(), false));
        assert_eq!(show(f.push("你")), ("\n".into(), false));
        assert_eq!(f.finish(), "你");
    }

    #[test]
    fn a_stop_that_repeats_itself_is_found_at_its_second_beginning() {
        assert_eq!(show(filter(&["aabaaa"]).push("aabaabaaa")), ("aab".into(), true));
        assert_eq!(show(filter(&["aabaaac"]).push("aabaaabaaac")), ("aaba".into(), true));
    }

    #[test]
    fn no_stops_hold_nothing() {
        let mut f = filter(&["", ""]);
        assert_eq!(show(f.push("text")), ("text".into(), false));
    }

    #[test]
    fn what_is_complete_first_counts() {
        assert_eq!(show(filter(&["abc", "b"]).push("xabc")), ("xa".into(), true));
        assert_eq!(show(filter(&["bc", "abc"]).push("xabc")), ("x".into(), true));
    }

    /// The definition, by search over the whole text: earliest end, then longest.
    fn naive(text: &str, stops: &[String]) -> (String, bool) {
        for end in 0..=text.len() {
            let hit =
                stops.iter().filter(|s| !s.is_empty() && text.as_bytes()[..end].ends_with(s.as_bytes()));
            if let Some(stop) = hit.max_by_key(|s| s.len()) {
                return (text[..end - stop.len()].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn chunks_do_not_matter(
            chunks in prop::collection::vec("[ab]{0,8}|[abé👍]{0,4}", 0..12),
            stops in prop::collection::vec("[ab]{5,9}|[abé👍]{0,4}", 0..4),
        ) {
            let mut f = StopFilter::new(stops.clone());
            let (mut text, mut stopped) = (String::new(), false);
            for chunk in &chunks {
                let out = f.push(chunk);
                prop_assert!(!stopped || out.text.is_empty());
                text += &out.text;
                stopped = out.stopped;
                // Nothing is held longer than needed: the rest is the beginning of a stop.
                let held = f.clone().finish();
                prop_assert!(held.is_empty() || stops.iter().any(|s| s.starts_with(&held)));
            }
            text += &f.finish();
            prop_assert_eq!((text, stopped), naive(&chunks.concat(), &stops));
        }
    }
}
