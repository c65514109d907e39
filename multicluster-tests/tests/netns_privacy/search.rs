//! Words in bytes: in any case, as they are and in base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use regex::bytes::{Regex, RegexBuilder};

/// Looks for words.
pub(crate) struct Search {
    words: Vec<(&'static str, Regex)>,
    any: Regex,
}

impl Search {
    pub(crate) fn new(words: &[&'static str]) -> Self {
        let words: Vec<_> = words.iter().map(|word| (*word, spellings(word))).collect();
        let any = words.iter().map(|(_, pattern)| pattern.as_str()).collect::<Vec<_>>().join("|");
        Self { words: words.iter().map(|(word, pattern)| (*word, regex(pattern))).collect(), any: regex(&any) }
    }

    /// Fails if a word is in there.
    #[track_caller]
    pub(crate) fn none_in(&self, bytes: &[u8], place: &str) {
        if let Some(found) = self.any.find(bytes) {
            let (from, to) = (found.start().saturating_sub(80), (found.end() + 80).min(bytes.len()));
            panic!("{place}: readable: {}", String::from_utf8_lossy(&bytes[from..to]));
        }
    }

    /// The words that are in none of these.
    pub(crate) fn missing<'a>(&self, all: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<&'static str> {
        let found = |pattern: &Regex| all.clone().any(|bytes| pattern.is_match(bytes));
        self.words.iter().filter(|(_, pattern)| !found(pattern)).map(|(word, _)| *word).collect()
    }
}

fn regex(pattern: &str) -> Regex {
    RegexBuilder::new(pattern).unicode(false).case_insensitive(true).build().expect("a pattern")
}

/// A word, and what is sure of its base64 at each of the three places where it may begin.
fn spellings(word: &str) -> String {
    let mut all = vec![regex::escape(word)];
    for before in 0..3 {
        let mut bytes = vec![0; before];
        bytes.extend(word.as_bytes());
        bytes.truncate(bytes.len() / 3 * 3);
        let encoded = STANDARD_NO_PAD.encode(&bytes);
        // Characters that share bits with what stands before are not sure.
        all.push(regex::escape(&encoded[if before == 0 { 0 } else { 4 }..]));
    }
    all.join("|")
}

#[test]
fn words_are_found_as_they_are_and_in_base64() {
    let search = Search::new(&["kingfisher"]);
    for before in ["", "a", "ab", "abc"] {
        let text = format!("{before}kingfisher and more");
        for hides in [text.to_uppercase().into_bytes(), STANDARD_NO_PAD.encode(&text).into_bytes()] {
            assert!(search.missing([&hides[..]].into_iter()).is_empty(), "{}", String::from_utf8_lossy(&hides));
        }
    }
    assert_eq!(search.missing([&b"king fisher"[..]].into_iter()), ["kingfisher"]);
}
