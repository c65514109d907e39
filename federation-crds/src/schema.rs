//! Checks a value against the schema of its kind, as an apiserver with strict field validation does: unknown fields,
//! wrong types, missing fields and values outside of an enumeration, each with its path, all at once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::error::FieldErrors;
use crate::suggest;

/// The schema of a type, with everything inlined: none of the implemented kinds is recursive.
pub(crate) fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::openapi3().for_deserialize().with(|settings| settings.inline_subschemas = true);
    let mut generator = settings.into_generator();
    let metadata = generator.subschema_for::<ObjectMeta>().to_value();
    let mut schema = generator.into_root_schema_for::<T>().to_value();
    // The schema of a CRD leaves out what the apiserver knows of every object.
    if let Some(members) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        for name in ["apiVersion", "kind"] {
            members.entry(name).or_insert_with(|| json!({"type": "string"}));
        }
        members.entry("metadata").or_insert(metadata);
    }
    schema
}

/// Removes members that are null: to Kubernetes they are absent.
pub(crate) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(members) => Value::Object(
            members
                .into_iter()
                .filter(|(_, member)| !member.is_null())
                .map(|(name, member)| (name, without_nulls(member)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Notes everything in `value` that `schema` does not allow.
pub(crate) fn check(schema: &Value, value: &Value, path: &str, errors: &mut FieldErrors) {
    if schema.get("x-kubernetes-int-or-string").is_some() {
        if !value.is_string() && !value.is_i64() {
            errors.add(
                path,
                format!("must be an integer or a string, not {}", describe(value)),
                "write a number, or a text in quotes",
            );
        }
        return;
    }
    // Optional members of our own types are "the type or null"; nulls are gone by now.
    if let Some(only) = ["allOf", "anyOf", "oneOf"].iter().find_map(|word| only_alternative(schema, word)) {
        return check(only, value, path, errors);
    }
    if let Some(allowed) = enumeration(schema) {
        return check_enumeration(&allowed, value, path, errors);
    }
    if !check_type(schema, value, path, errors) {
        return;
    }
    match value {
        Value::Object(members) => check_members(schema, members, path, errors),
        Value::Array(items) => {
            check_length(schema, items.len(), path, errors);
            if let Some(item_schema) = schema.get("items") {
                for (index, item) in items.iter().enumerate() {
                    check(item_schema, item, &format!("{path}[{index}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// The one alternative that is not null.
fn only_alternative<'a>(schema: &'a Value, word: &str) -> Option<&'a Value> {
    let alternatives = schema.get(word)?.as_array()?;
    let mut typed = alternatives.iter().filter(|alternative| {
        alternative.get("type").is_some_and(|kind| kind != "null") || alternative.get("enum").is_some()
    });
    let first = typed.next()?;
    typed.next().is_none().then_some(first)
}

/// The values of an enumeration: in one list, or (when its variants have descriptions) in one alternative each.
fn enumeration(schema: &Value) -> Option<Vec<&Value>> {
    if let Some(Value::Array(allowed)) = schema.get("enum") {
        return Some(allowed.iter().collect());
    }
    let Some(Value::Array(alternatives)) = schema.get("oneOf") else {
        return schema.get("const").map(|only| vec![only]);
    };
    let values: Option<Vec<Vec<&Value>>> = alternatives.iter().map(enumeration).collect();
    values.map(|values| values.into_iter().flatten().collect())
}

fn check_enumeration(allowed: &[&Value], value: &Value, path: &str, errors: &mut FieldErrors) {
    if allowed.contains(&value) {
        return;
    }
    let words: Vec<&str> = allowed.iter().filter_map(|word| word.as_str()).collect();
    let hint = suggest::hint(value.as_str().unwrap_or_default(), words.iter().copied());
    errors.add(path, format!("must be one of {}, not {}", words.join(", "), describe(value)), hint);
}

fn check_length(schema: &Value, length: usize, path: &str, errors: &mut FieldErrors) {
    if let Some(most) = schema.get("maxItems").and_then(Value::as_u64)
        && length as u64 > most
    {
        errors.add(path, format!("has {length} items, at most {most} are allowed"), format!("remove all but {most}"));
    }
}

/// Whether the value is of the schema's type, so that looking inside makes sense.
fn check_type(schema: &Value, value: &Value, path: &str, errors: &mut FieldErrors) -> bool {
    let wanted: Vec<&str> = match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => return true,
    };
    let fits = |wanted: &str| match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.as_i64().is_some_and(|number| in_format(schema, number)),
        "number" => value.is_number(),
        _ => true,
    };
    if wanted.iter().any(|wanted| fits(wanted)) {
        return true;
    }
    let wanted = wanted.iter().copied().find(|wanted| *wanted != "null").unwrap_or("null");
    let hint = match (wanted, value) {
        ("string", Value::Number(_) | Value::Bool(_)) => format!("put it in quotes: \"{value}\""),
        ("integer", Value::String(text)) if text.parse::<i64>().is_ok() => "write it without quotes".to_owned(),
        ("integer", Value::Number(number)) if number.is_f64() => "round it".to_owned(),
        ("integer", Value::Number(_)) if !in_format(schema, value.as_i64().unwrap_or(i64::MAX)) => {
            format!("write a number of at most {}", i32::MAX)
        }
        _ => example(wanted).to_owned(),
    };
    errors.add(path, format!("must be {}, not {}", article(wanted), describe(value)), hint);
    false
}

/// How a value of a type is written.
fn example(kind: &str) -> &'static str {
    match kind {
        "object" => "write its fields below it, each as name: value",
        "array" => "write each item on a line after \"- \", or all in [ ]",
        "string" => "write a text, in quotes if it looks like something else",
        "boolean" => "write true or false, without quotes",
        "integer" => "write a whole number, without quotes",
        "number" => "write a number, without quotes",
        _ => "remove it",
    }
}

/// What to add where a field is missing: its words, or how its type is written.
fn missing_hint(schema: &Value, name: &str) -> String {
    let member = schema.pointer(&format!("/properties/{name}")).unwrap_or(&Value::Null);
    let words: Vec<&str> = enumeration(member).into_iter().flatten().filter_map(Value::as_str).collect();
    if !words.is_empty() {
        return format!("add {name}: {}", words.join(" or "));
    }
    match member.get("type").and_then(Value::as_str) {
        Some("object") => format!("add {name}: {{…}}"),
        Some("array") => format!("add {name}: […]"),
        Some("integer" | "number") => format!("add {name}: and a number"),
        _ => format!("add {name}: …"),
    }
}

fn in_format(schema: &Value, number: i64) -> bool {
    schema.get("format").and_then(Value::as_str) != Some("int32") || i32::try_from(number).is_ok()
}

fn check_members(schema: &Value, members: &Map<String, Value>, path: &str, errors: &mut FieldErrors) {
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties");
    for (name, member) in members {
        let member_path = join(path, name);
        match (known.and_then(|known| known.get(name)), others) {
            (Some(member_schema), _) => check(member_schema, member, &member_path, errors),
            (None, Some(Value::Object(other))) => check(&Value::Object(other.clone()), member, &member_path, errors),
            (None, _) => {
                let Some(known) = known else { continue };
                let hint = suggest::hint(name, known.keys().map(String::as_str));
                errors.add(member_path, "unknown field", hint);
            }
        }
    }
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            errors.add(join(path, name), "is required", missing_hint(schema, name));
        }
    }
}

/// `path.name`; names that are no words, such as label keys, stand in brackets.
fn join(path: &str, name: &str) -> String {
    let word = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match (path.is_empty(), word) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

fn article(kind: &str) -> String {
    match kind.starts_with(['a', 'i', 'o']) {
        true => format!("an {kind}"),
        false => format!("a {kind}"),
    }
}

/// The value as its author knows it, shortened.
fn describe(value: &Value) -> String {
    match value {
        Value::Object(_) => "an object".to_owned(),
        Value::Array(_) => "a list".to_owned(),
        Value::String(text) => format!("the string {:?}", text.chars().take(40).collect::<String>()),
        Value::Bool(_) => format!("the boolean {value}"),
        Value::Number(_) => format!("the number {value}"),
        Value::Null => "null".to_owned(),
    }
}
