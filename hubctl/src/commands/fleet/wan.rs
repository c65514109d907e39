//! `fleet wan`.

use ::wan::{Request, Side, WanSpec};
use anyhow::Result;
use fleet::{Fleet, Hint, network};
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
fn shown(fleet: &Fleet, link: &WanSpec) -> Result<Value> {
    let mut status = json!(fleet.ask_wan(link, &Request::Show {})?);
    if let Some(fields) = status.as_object_mut() {
        for (side, [from, to]) in [(Side::Left, [0, 1]), (Side::Right, [1, 0])] {
            if let Some(value) = fields.remove(side.outward()) {
                fields.insert(format!("{}-to-{}", link.between[from], link.between[to]), value);
            }
        }
        fields.insert("process".to_owned(), json!(network::wan_name(link)));
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
