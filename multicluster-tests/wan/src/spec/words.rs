//! A change as it is typed: `left-to-right delay=40ms loss=1% right-to-left delay=60ms nat=off`.

use serde_json::{Map, Value};

use super::problem::{Problem, Problems};

/// The change of a [`LinkSpec`](super::LinkSpec) that words ask for: `name=value` pairs, each for the direction that was named
/// last (`left-to-right`, `right-to-left` or `both`, which is where it starts). Values are checked when the change is applied.
///
/// # Errors
/// A word that is neither, or no word at all.
pub fn change_of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Map<String, Value>, Problems> {
    let mut change = Map::new();
    let mut direction = "both";
    for word in words {
        match word.split_once('=') {
            Some(("nat", value)) => {
                change.insert("nat".to_owned(), Value::from(value));
            }
            Some((name, value)) => {
                let fields = change.entry(direction).or_insert_with(|| Value::Object(Map::new()));
                if let Some(fields) = fields.as_object_mut() {
                    fields.insert(name.to_owned(), Value::from(value));
                }
            }
            None if matches!(word, "both" | "left-to-right" | "right-to-left") => direction = word,
            None => return Err(wrong(word, "is neither a direction nor name=value")),
        }
    }
    if change.is_empty() { Err(wrong("(nothing)", "no condition is given")) } else { Ok(change) }
}

fn wrong(word: &str, message: &str) -> Problems {
    let hint = "write left-to-right, right-to-left or both, then conditions: left-to-right delay=40ms loss=1%";
    Problems(vec![Problem::new(word, message, hint)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_become_a_change() {
        let words = "delay=1ms left-to-right loss=1% jitter=2ms right-to-left mtu=1280 nat=off";
        let change = change_of_words(words.split(' ')).unwrap();
        let expect = json!({"both": {"delay": "1ms"}, "left-to-right": {"loss": "1%", "jitter": "2ms"},
            "right-to-left": {"mtu": "1280"}, "nat": "off"});
        assert_eq!(Value::Object(change), expect);
        assert!(change_of_words(["upwards"]).is_err());
        assert!(change_of_words(["both"]).is_err());
    }
}
