//! A cluster's directory of manifests: one object, one file, replaced by a rename, so that the agent never reads half an
//! object.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::hint::Hint;
use crate::process::write_atomic;

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Applied {
    /// `Kind/namespace/name`.
    pub object: String,
    /// `created`, `configured`, `unchanged` or `deleted`.
    pub action: &'static str,
}

/// Splits a text of YAML documents into objects, checked the way the agent's webhook would check them: all or nothing.
/// `source` names the text in messages.
pub fn read_all(source: &str, text: &str) -> Result<Vec<Value>> {
    federation_crds::parse_manifests(text, source).map_err(|errors| refused(source, errors))?;
    let objects = documents(source, text)?;
    if objects.is_empty() {
        let hint = "a manifest begins with apiVersion: and kind:";
        return Err(Hint::error(format!("{source} holds no object"), hint));
    }
    Ok(objects)
}

/// Splits a text of YAML documents into untyped objects; a `List` is unfolded.
pub fn documents(source: &str, text: &str) -> Result<Vec<Value>> {
    let parsed: Vec<Value> =
        serde_saphyr::from_multiple(text).with_context(|| format!("{source} is not valid YAML"))?;
    let mut objects = Vec::new();
    for value in parsed.into_iter().filter(|value| !value.is_null()) {
        match value.get("items").and_then(Value::as_array) {
            Some(items) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                objects.extend(items.iter().cloned());
            }
            _ => objects.push(value),
        }
    }
    Ok(objects)
}

/// Writes objects into a directory source.
pub fn apply(directory: &Path, objects: &[Value]) -> Result<Vec<Applied>> {
    let mut applied = Vec::new();
    for object in objects {
        let path = directory.join(file_name(object)?);
        let text = serde_saphyr::to_string(object).context("the object cannot be written as YAML")?;
        let action = match std::fs::read_to_string(&path) {
            Ok(existing) if existing == text => "unchanged",
            Ok(_) => "configured",
            Err(_) => "created",
        };
        if action != "unchanged" {
            write_atomic(&path, text.as_bytes())?;
        }
        applied.push(Applied { object: describe(object), action });
    }
    Ok(applied)
}

/// Removes objects from a directory source; nothing is removed if one of them is not there.
pub fn delete(directory: &Path, objects: &[Value]) -> Result<Vec<Applied>> {
    let paths: Vec<_> =
        objects.iter().map(|object| Ok(directory.join(file_name(object)?))).collect::<Result<Vec<_>>>()?;
    let absent = paths.iter().zip(objects).find(|(path, _)| !path.exists());
    if let Some((_, object)) = absent {
        let hint = format!("see what is there with `ls {}`", directory.display());
        return Err(Hint::error(format!("{} is not there", describe(object)), hint));
    }
    for path in &paths {
        std::fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(objects.iter().map(|object| Applied { object: describe(object), action: "deleted" }).collect())
}

/// `<kind>.<namespace>.<name>.yaml`, lower case.
pub fn file_name(object: &Value) -> Result<String> {
    let needed = |field: &str| Hint::error(format!("an object has no {field}"), "write kind and metadata.name");
    let kind = object["kind"].as_str().ok_or_else(|| needed("kind"))?.to_lowercase();
    let name = object["metadata"]["name"].as_str().ok_or_else(|| needed("metadata.name"))?;
    let file = format!("{kind}.{}.{name}.yaml", namespace(object));
    // Names become file names: one that climbs out of the directory must not reach the file system.
    if !file.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) {
        return Err(Hint::error(format!("{file:?} is no file name"), "use letters, digits, '-' and '.' in names"));
    }
    Ok(file)
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or("default")
}

fn describe(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{}/{}/{}", text(&object["kind"]), namespace(object), text(&object["metadata"]["name"]))
}

fn refused(source: &str, error: impl std::fmt::Display) -> anyhow::Error {
    let hint = "nothing was applied; mend the fields named above and apply again".to_owned();
    Hint::error(format!("{source} is refused: {error}"), hint)
}
