//! "Did you mean …": the nearest of the words that would have been right.

/// The candidate nearest to a word, if it is near enough to be a slip.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `did you mean x?`, or what may stand there if nothing is near, or that nothing may.
pub(crate) fn hint<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(word, candidates.clone()) {
        Some(candidate) => format!("did you mean {candidate}?"),
        None => {
            let all: Vec<&str> = candidates.into_iter().collect();
            if all.is_empty() { "remove it".to_owned() } else { format!("possible are {}", all.join(", ")) }
        }
    }
}

/// Levenshtein's distance, counting a swap of neighbours as two.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        let fields = ["nodePort", "port", "targetPort", "protocol"];
        assert_eq!(nearest("nodeport", fields), Some("nodePort"));
        assert_eq!(nearest("prot", fields), None, "two letters of four are no slip");
        assert_eq!(nearest("ports", fields), Some("port"));
        assert_eq!(nearest("zebra", fields), None);
        assert_eq!(hint("zebra", ["a", "b"]), "possible are a, b");
    }
}
