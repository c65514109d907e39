//! Emulated links of a running fleet: conditions that change while traffic flows.

mod clusters;

use anyhow::{Context, Result};
use wan::{ControlError, Request, Status, WanSpec, ask, change_of_words};

use crate::handle::Fleet;
use crate::hint::Hint;
use crate::network;

pub use clusters::in_clusters;

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
        let words: Vec<String> = words.into_iter().map(|word| clusters::to_sides(link, word)).collect();
        let change = change_of_words(words.iter().map(String::as_str))
            .map_err(|problems| refused(link, &problems.to_string()))?;
        self.ask_wan(link, &Request::Set { change })
    }

    /// Asks the process of a link.
    pub fn ask_wan(&self, link: &WanSpec, request: &Request) -> Result<Status> {
        let name = network::wan_name(link);
        match ask(&self.layout.control(&name), request) {
            Err(ControlError::Refused(problems)) => Err(refused(link, &problems.to_string())),
            answer => answer.with_context(|| format!("{name} does not answer")),
        }
    }
}

/// What the link refuses, in the words of its clusters; the hint is that of the last mistake.
fn refused(link: &WanSpec, problems: &str) -> anyhow::Error {
    let problems = clusters::text(link, problems);
    let (message, hint) = problems.rsplit_once("\n    hint: ").unwrap_or((&problems, "see `isthmus-wan set --help`"));
    Hint::error(message, hint)
}
