//! From text to manifests: split into documents, find the kind, check against its schema, read, validate.

mod documents;

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::error::{FieldErrors, ManifestError, ManifestErrors};
use crate::manifest::{Kind, Manifest};
use crate::{refused, schema, suggest, validate};
use documents::Document;

/// The longest text that is looked at, in bytes. etcd holds objects of 1.5 MiB; a file of a thousand Services is far
/// below this.
const TEXT_MAX: usize = 16 * 1024 * 1024;

/// Reads all manifests of a YAML text; `origin` (a file name) goes into the errors. Empty documents are skipped, and a list
/// stands for its items. With any error there is no manifest.
pub fn parse_manifests(text: &str, origin: &str) -> Result<Vec<Manifest>, ManifestErrors> {
    if text.len() > TEXT_MAX {
        return Err(ManifestErrors(vec![too_long(origin)]));
    }
    let mut reading = Reading { origin, manifests: Vec::new(), errors: Vec::new(), seen: BTreeMap::new() };
    for document in documents::split(text) {
        reading.document(&document);
    }
    if reading.errors.is_empty() { Ok(reading.manifests) } else { Err(ManifestErrors(reading.errors)) }
}

fn too_long(origin: &str) -> ManifestError {
    ManifestError {
        origin: origin.to_owned(),
        document: 0,
        line: 0,
        object: String::new(),
        path: String::new(),
        message: format!("is longer than {TEXT_MAX} bytes"),
        hint: "divide it between several files".to_owned(),
    }
}

/// What has been read so far.
struct Reading<'a> {
    origin: &'a str,
    manifests: Vec<Manifest>,
    errors: Vec<ManifestError>,
    /// Key of an object → the document that it stands in.
    seen: BTreeMap<crate::ManifestKey, usize>,
}

impl Reading<'_> {
    fn document(&mut self, document: &Document<'_>) {
        let value: Value = match serde_saphyr::from_str(document.text) {
            Ok(value) => schema::without_nulls(value),
            Err(error) => {
                let line = error.location().map_or(0, |location| location.line().saturating_sub(1) as usize);
                let message = format!("is not valid YAML: {}", error.without_snippet());
                // The parser's advice is for programmers.
                let message = message.replace(", set DuplicateKeyPolicy in Options if acceptable", "");
                let hint = match message.contains("duplicate") {
                    true => "remove one of the two",
                    false => "look at indentation, quotes and brackets of this line and the one above",
                };
                return self.note(document.line + line, document.number, "", ("", &message, hint));
            }
        };
        if value.is_null() {
            return;
        }
        match items(&value) {
            Some(items) => items.iter().for_each(|item| self.object(document, item)),
            None => self.object(document, &value),
        }
    }

    fn object(&mut self, document: &Document<'_>, value: &Value) {
        let mut errors = FieldErrors::default();
        let manifest = read(value, &mut errors);
        let object = describe(value);
        if let Some(manifest) = manifest.filter(|_| errors.is_empty()) {
            match self.seen.insert(manifest.key(), document.number) {
                None => self.manifests.push(manifest),
                Some(first) => errors.add(
                    "metadata.name",
                    format!("the same object stands in document {first}"),
                    "remove one of the two",
                ),
            }
        }
        for error in errors.0 {
            self.note(document.line, document.number, &object, (&error.path, &error.message, &error.hint));
        }
    }

    fn note(&mut self, line: usize, document: usize, object: &str, (path, message, hint): (&str, &str, &str)) {
        self.errors.push(ManifestError {
            origin: self.origin.to_owned(),
            document,
            line,
            object: object.to_owned(),
            path: path.to_owned(),
            message: message.to_owned(),
            hint: hint.to_owned(),
        });
    }
}

/// The objects of a list, as `kubectl get -o yaml` writes several: `List`, or `VirtualServiceList` and its like.
fn items(value: &Value) -> Option<&Vec<Value>> {
    value.get("kind")?.as_str()?.strip_suffix("List")?;
    value.get("items")?.as_array()
}

/// Reads one object. Errors stop at the first stage that has any: what does not fit the schema cannot be validated.
fn read(value: &Value, errors: &mut FieldErrors) -> Option<Manifest> {
    let kind = find_kind(value, errors)?;
    let mut manifest = match foreign_status(value) {
        Some(rest) => Manifest::read(kind, &rest, errors)?,
        None => Manifest::read(kind, value, errors)?,
    };
    manifest.metadata_mut().namespace.get_or_insert_with(|| "default".to_owned());
    validate::check(&manifest, errors);
    Some(manifest)
}

/// An object of Istio's without the status that Istio has written into it, which is no configuration.
fn foreign_status(value: &Value) -> Option<Value> {
    let api_version = value.get("apiVersion")?.as_str()?;
    let of_istio = api_version.split_once('/')?.0.ends_with(".istio.io");
    let mut members = value.as_object().filter(|members| of_istio && members.contains_key("status"))?.clone();
    members.remove("status");
    Some(Value::Object(members))
}

pub(crate) fn typed<T: DeserializeOwned + schemars::JsonSchema>(
    value: &Value,
    errors: &mut FieldErrors,
) -> Option<Box<T>> {
    schema::check(&schema::of::<T>(), value, "", errors);
    if !errors.is_empty() {
        return None;
    }
    match serde_json::from_value(value.clone()) {
        Ok(object) => Some(Box::new(object)),
        // What a schema cannot say, such as the format of a time.
        Err(error) => {
            errors.add("", error.to_string(), "times are written 2026-01-31T12:00:00Z, and data of Secrets in base64");
            None
        }
    }
}

fn find_kind(value: &Value, errors: &mut FieldErrors) -> Option<Kind> {
    let Value::Object(members) = value else {
        errors.add("", "is not an object", "a manifest begins with apiVersion: and kind:");
        return None;
    };
    let text = |name: &str, errors: &mut FieldErrors| {
        let found = members.get(name).and_then(Value::as_str);
        if found.is_none() {
            errors.add(name, "is required, as a string", "a manifest begins with apiVersion: and kind:");
        }
        found
    };
    let (api_version, kind) = (text("apiVersion", errors), text("kind", errors));
    let (api_version, kind) = (api_version?, kind?);
    if let Some(advice) = refused::advice(api_version, kind) {
        errors.add("kind", format!("{kind} ({api_version}) is not implemented and has no effect"), advice);
        return None;
    }
    let by_name = Kind::ALL.iter().copied().find(|candidate| candidate.as_str() == kind);
    match by_name {
        Some(found) if found.api_versions().contains(&api_version) => Some(found),
        Some(found) if same_group(api_version, found.api_versions()[0]) => {
            let hint = format!("write apiVersion: {}", found.api_versions()[0]);
            errors.add("apiVersion", format!("{api_version} of {kind} is not a version that exists here"), hint);
            None
        }
        _ => {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            let hint = match suggest::nearest(kind, names.iter().copied()).filter(|nearest| *nearest != kind) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("supported are {}", names.join(", ")),
            };
            errors.add("kind", format!("kind {kind} ({api_version}) is not supported yet"), hint);
            None
        }
    }
}

fn same_group(a: &str, b: &str) -> bool {
    let group = |version: &str| version.rsplit_once('/').map(|(group, _)| group.to_owned());
    group(a) == group(b)
}

/// `Service default/web`, as far as it can be told.
fn describe(value: &Value) -> String {
    let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
    let Some(kind) = text(value.get("kind")) else { return String::new() };
    let metadata = value.get("metadata");
    let Some(name) = text(metadata.and_then(|metadata| metadata.get("name"))) else { return kind };
    let namespace = text(metadata.and_then(|metadata| metadata.get("namespace")));
    format!("{kind} {}/{name}", namespace.as_deref().unwrap_or("default"))
}
