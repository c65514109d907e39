//! What has a bucket of its own: a word, or an object with one member.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::suggest;

/// A descriptor as it is written.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Descriptor(pub Value);

/// A descriptor as it is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The path without its query.
    Path,
    /// The method.
    Method,
    /// The host that the client named.
    Host,
    /// The identity that mTLS proves.
    Identity,
    /// The client's address, behind trusted hops.
    RemoteIp,
    /// A header.
    Header(String),
    /// A query parameter.
    QueryParameter(String),
    /// A claim of the verified token; one inside others is written `a.b`.
    Claim(String),
}

const WORDS: [&str; 5] = ["path", "method", "host", "identity", "remoteIp"];
const NAMED: [&str; 3] = ["header", "queryParameter", "claim"];

impl Descriptor {
    /// Reads it.
    pub fn read(&self) -> Result<By, String> {
        match &self.0 {
            Value::String(word) => match word.as_str() {
                "path" => Ok(By::Path),
                "method" => Ok(By::Method),
                "host" => Ok(By::Host),
                "identity" => Ok(By::Identity),
                "remoteIp" => Ok(By::RemoteIp),
                named if NAMED.contains(&named) => Err(format!("write {{{named}: name}}")),
                other => Err(format!("{other:?} is unknown: {}", suggest::hint(other, WORDS))),
            },
            Value::Object(members) if members.len() == 1 => {
                let named = members.iter().next().and_then(|(kind, name)| Some((kind.as_str(), name.as_str()?)));
                match named {
                    Some((_, "")) => Err("the name must not be empty".to_owned()),
                    Some(("header", name)) => Ok(By::Header(name.to_ascii_lowercase())),
                    Some(("queryParameter", name)) => Ok(By::QueryParameter(name.to_owned())),
                    Some(("claim", name)) => Ok(By::Claim(name.to_owned())),
                    Some((other, _)) => Err(format!("{other:?} is unknown: {}", suggest::hint(other, NAMED))),
                    None => Err("the name must be a string".to_owned()),
                }
            }
            _ => Err(format!("must be one of {} or an object with one of {}", WORDS.join(", "), NAMED.join(", "))),
        }
    }
}

/// A word or an object: structural schemas cannot say that, so an apiserver takes anything and the validator is strict.
impl JsonSchema for Descriptor {
    fn schema_name() -> Cow<'static, str> {
        "Descriptor".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "path, method, host, identity, remoteIp, {header: name}, {queryParameter: name} or {claim: name}",
            "x-kubernetes-preserve-unknown-fields": true
        })
    }
}
