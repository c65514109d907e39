//! `fleet wan`.

use ::wan::{Request, WanSpec};
use anyhow::Result;
use fleet::{Fleet, Hint, link, network};
use serde_json::{Value, json};

use crate::cli::WanCommand;
use crate::context::Context;
use crate::output::{self, Format};

/// Asks the process of a link over its control socket.
pub(super) fn run(context: &Context, command: WanCommand) -> Result<u8> {
    let fleet = context.fleet()?;
    match command {
        WanCommand::Show { left: Some(left), right: Some(right) } => {
            print(context, &[shown(&fleet, fleet.wan(&left, &right)?)?])
        }
        WanCommand::Show { .. } => {
            let links = &fleet.plan().wan;
            print(context, &links.iter().map(|link| shown(&fleet, link)).collect::<Result<Vec<_>>>()?)
        }
        WanCommand::Set { left, right, words } => {
            fleet.set_wan(&left, &right, words.iter().map(String::as_str))?;
            print(context, &[shown(&fleet, fleet.wan(&left, &right)?)?])
        }
        WanCommand::Rebind { left, right, what } => {
            let what = serde_json::from_value(json!(what))
                .map_err(|_| Hint::error(format!("{what:?} cannot be rebound"), "write port or address"))?;
            fleet.ask_wan(fleet.wan(&left, &right)?, &Request::Rebind { what })?;
            Ok(0)
        }
    }
}

/// The status of a link in the words of its clusters.
fn shown(fleet: &Fleet, of: &WanSpec) -> Result<Value> {
    let mut status = link::in_clusters(of, json!(fleet.ask_wan(of, &Request::Show {})?));
    if let Some(fields) = status.as_object_mut() {
        fields.insert("process".to_owned(), json!(network::wan_name(of)));
    }
    Ok(status)
}

fn print(context: &Context, links: &[Value]) -> Result<u8> {
    if context.output != Format::Table {
        output::document(context.output, &links)?;
        return Ok(0);
    }
    for link in links {
        output::text(&lines(link, 0))?;
    }
    Ok(0)
}

/// One line a field, indented below the one that holds it.
fn lines(value: &Value, depth: usize) -> String {
    let mut text = String::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                text.push_str(&format!("{indent}{name}:\n{}", lines(value, depth + 1)));
            }
            Value::Null => {}
            Value::String(plain) => text.push_str(&format!("{indent}{name}: {plain}\n")),
            other => text.push_str(&format!("{indent}{name}: {other}\n")),
        }
    }
    text
}
