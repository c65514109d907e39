//! Emulated links of a running fleet: conditions that change while traffic flows.

use anyhow::{Context, Result};
use wan::{Request, Status, WanSpec, ask, change_of_words};

use crate::handle::Fleet;
use crate::hint::Hint;
use crate::network;

impl Fleet {
    /// The emulated link between two clusters (or one and `hub`), whichever is named first.
    pub fn wan(&self, one: &str, other: &str) -> Result<&WanSpec> {
        let links = &self.plan().wan;
        let found = links.iter().find(|link| link.side(one).is_some() && link.side(other).is_some() && one != other);
        found.ok_or_else(|| {
            let names: Vec<_> = links.iter().map(|link| link.between.join(" ")).collect();
            let hint = match names.is_empty() {
                true => "add `wan: [{between: [east, west]}]` to the fleet file".to_owned(),
                false => format!("there are {}", names.join(", ")),
            };
            Hint::error(format!("there is no emulated link between {one} and {other}"), hint)
        })
    }

    /// Changes a link, all of it or nothing: `["delay=40ms", "loss=1%"]` in both directions, `["east-to-west", "rate=20mbit"]` in
    /// one. A condition that is `off` is put back.
    pub fn set_wan<'a>(&self, one: &str, other: &str, words: impl IntoIterator<Item = &'a str>) -> Result<Status> {
        let link = self.wan(one, other)?;
        let words: Vec<String> = words.into_iter().map(|word| translate(link, word)).collect();
        let change =
            change_of_words(words.iter().map(String::as_str)).map_err(|problems| refused(&problems.to_string()))?;
        self.ask_wan(link, &Request::Set { change })
    }

    /// Asks the process of a link.
    pub fn ask_wan(&self, link: &WanSpec, request: &Request) -> Result<Status> {
        let name = network::wan_name(link);
        ask(&self.layout.control(&name), request).with_context(|| format!("{name} refuses, or does not answer"))
    }
}

fn refused(problems: &str) -> anyhow::Error {
    let (message, hint) = problems.split_once("\n    hint: ").unwrap_or((problems, "see `isthmus-wan set --help`"));
    Hint::error(message, hint)
}

/// From the names of clusters to the sides of the link.
fn translate(link: &WanSpec, word: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_clusters_or_sides() {
        let fields = serde_json::json!({"between": ["east", "west"]});
        let link = WanSpec::read(fields.as_object().expect("fields")).expect("a link");
        for (word, expected) in [
            ("east-to-west", "left-to-right"),
            ("west-to-east", "right-to-left"),
            ("left-to-right", "left-to-right"),
            ("delay=4ms", "delay=4ms"),
            ("nat=west:192.0.2.1", "nat=right:192.0.2.1"),
            ("nat=off", "nat=off"),
        ] {
            assert_eq!(translate(&link, word), expected);
        }
    }
}
