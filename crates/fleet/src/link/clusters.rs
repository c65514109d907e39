//! A link in the words of its clusters: the process knows a left and a right side, whoever uses a fleet knows east and west.

use serde_json::Value;
use wan::WanSpec;

/// A word of a change, from the names of clusters to the sides of the link.
pub(super) fn to_sides(link: &WanSpec, word: &str) -> String {
    let [left, right] = &link.between;
    if word == format!("{left}-to-{right}") {
        return "left-to-right".to_owned();
    }
    if word == format!("{right}-to-{left}") {
        return "right-to-left".to_owned();
    }
    match word.strip_prefix("nat=").and_then(|nat| nat.split_once(':')) {
        Some((cluster, addresses)) => match link.side(cluster) {
            Some(side) => format!("nat={}:{addresses}", side.as_str()),
            None => word.to_owned(),
        },
        None => word.to_owned(),
    }
}

/// A text that speaks of sides, such as a message or the name of a field, with the clusters instead.
pub(super) fn text(link: &WanSpec, text: &str) -> String {
    let [left, right] = &link.between;
    let words = [
        ("left-to-right", format!("{left}-to-{right}")),
        ("right-to-left", format!("{right}-to-{left}")),
        ("nat=left:", format!("nat={left}:")),
        ("nat=right:", format!("nat={right}:")),
        ("neither left nor right", format!("neither {left} nor {right}")),
    ];
    words.iter().fold(text.to_owned(), |text, (of_sides, of_clusters)| text.replace(of_sides, of_clusters))
}

/// What a link answers, with the clusters instead of its sides.
pub fn in_clusters(link: &WanSpec, answer: Value) -> Value {
    match answer {
        Value::Object(fields) => {
            let renamed = fields.into_iter().map(|(name, value)| match value {
                Value::String(nat) if name == "nat" => (name, Value::String(translation(link, &nat))),
                value => (text(link, &name), in_clusters(link, value)),
            });
            Value::Object(renamed.collect())
        }
        other => other,
    }
}

/// `left:192.0.2.1` as `east:192.0.2.1`.
fn translation(link: &WanSpec, nat: &str) -> String {
    let [left, right] = &link.between;
    match nat.split_once(':') {
        Some(("left", addresses)) => format!("{left}:{addresses}"),
        Some(("right", addresses)) => format!("{right}:{addresses}"),
        _ => nat.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn link() -> WanSpec {
        let fields = json!({"between": ["east", "west"], "nat": {"hides": "west", "addresses": ["192.0.2.1"]}});
        WanSpec::read(fields.as_object().expect("fields")).expect("a link")
    }

    #[test]
    fn words_name_clusters_or_sides() {
        for (word, expected) in [
            ("east-to-west", "left-to-right"),
            ("west-to-east", "right-to-left"),
            ("left-to-right", "left-to-right"),
            ("delay=4ms", "delay=4ms"),
            ("nat=west:192.0.2.1", "nat=right:192.0.2.1"),
            ("nat=off", "nat=off"),
        ] {
            assert_eq!(to_sides(&link(), word), expected);
        }
    }

    #[test]
    fn a_status_speaks_of_clusters_only() {
        let wan = link();
        let status = wan::Link::new(wan.link.clone(), 7).status();
        let shown = in_clusters(&wan, json!(status));
        let text = shown.to_string();
        assert!(!text.contains("left") && !text.contains("right"), "{text}");
        assert_eq!(shown["link"]["nat"], "west:192.0.2.1");
        for name in ["east-to-west", "west-to-east"] {
            assert!(shown["link"][name].is_object() && shown[name].is_object(), "{name}: {text}");
            assert!(!shown[format!("{name}-lateness")].is_null(), "{name}: {text}");
        }
    }

    #[test]
    fn hints_of_the_process_speak_of_clusters_only() {
        let wan = link();
        let refused = |change: Value| wan.link.changed(change.as_object().expect("fields")).unwrap_err().to_string();
        let texts = [
            wan::change_of_words(["up"]).unwrap_err().to_string(),
            refused(json!({"nat": "up:192.0.2.1"})),
            refused(json!({"left-to-right": {"loss": "x"}, "right-to-left": {"loss": "x"}, "middle": 1})),
            "the link translates nothing\n    hint: set nat=left:198.51.100.1,198.51.100.2 first".to_owned(),
        ];
        for of_sides in texts {
            let of_clusters = text(&wan, &of_sides);
            assert!(!of_clusters.contains("left") && !of_clusters.contains("right"), "{of_clusters}");
            assert!(of_clusters.contains("east"), "{of_clusters}");
        }
    }
}
