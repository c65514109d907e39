//! A link as a fleet file writes it, between two named clusters.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::link::{LinkSpec, NatSpec, Side};
use super::problem::{Problem, Problems};

/// The WAN between two clusters; the first is the left side.
///
/// ```yaml
/// between: [east, west]
/// delay: 40ms              # every field of the conditions, for both directions
/// loss: 1%
/// east-to-west:            # what differs in one direction
///   rate: 20mbit
/// nat:
///   hides: east
///   addresses: [198.51.100.1, 198.51.100.2]
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct WanSpec {
    /// The names of the left and of the right cluster.
    pub between: [String; 2],
    /// What holds between them.
    pub link: LinkSpec,
}

impl WanSpec {
    /// Reads the fields of one entry of `wan:`.
    ///
    /// # Errors
    /// Every mistake, each with the path of its field inside the entry.
    pub fn read(fields: &Map<String, Value>) -> Result<Self, Problems> {
        let between = read_between(fields.get("between")).map_err(|one| Problems(vec![one]))?;
        let link = LinkSpec::default().changed(&change_of(&between, fields)?);
        let link = link.map_err(|problems| renamed(&between, problems))?;
        Ok(Self { between, link })
    }

    /// The side of a cluster.
    pub fn side(&self, cluster: &str) -> Option<Side> {
        Side::BOTH.into_iter().find(|side| self.between[side.index()] == cluster)
    }
}

fn directions([left, right]: &[String; 2]) -> [(String, Side); 2] {
    [(format!("{left}-to-{right}"), Side::Left), (format!("{right}-to-{left}"), Side::Right)]
}

fn read_between(value: Option<&Value>) -> Result<[String; 2], Problem> {
    let hint = "name the two clusters: between: [east, west]";
    let names = value.and_then(Value::as_array).map(Vec::as_slice);
    match names {
        Some([Value::String(left), Value::String(right)]) if left != right => Ok([left.clone(), right.clone()]),
        None => Err(Problem::new("between", "expected a list of two clusters", hint)),
        Some(_) => Err(Problem::new("between", "expected two different clusters", hint)),
    }
}

/// The fields of an entry as a change of a [`LinkSpec`]: common fields first, so that those of one direction win.
fn change_of(between: &[String; 2], fields: &Map<String, Value>) -> Result<Map<String, Value>, Problems> {
    let directions = directions(between);
    let mut common = Map::new();
    let mut change = Map::new();
    change.insert("both".to_owned(), Value::Null);
    for (name, value) in fields.iter().filter(|(name, _)| *name != "between") {
        if let Some((_, side)) = directions.iter().find(|(direction, _)| direction == name) {
            change.insert(side.outward().to_owned(), value.clone());
        } else if name == "nat" {
            let nat = read_nat(between, value).map_err(|one| Problems(vec![one]))?;
            change.insert("nat".to_owned(), nat);
        } else {
            common.insert(name.clone(), value.clone());
        }
    }
    change.insert("both".to_owned(), Value::Object(common));
    Ok(change)
}

fn read_nat(between: &[String; 2], value: &Value) -> Result<Value, Problem> {
    let wrong = |message: &str| {
        let hint = format!("write nat: {{hides: {}, addresses: [198.51.100.1]}}", between[0]);
        Err(Problem::new("nat", message, hint))
    };
    let Some(fields) = value.as_object() else {
        return if value.is_null() { Ok(Value::Null) } else { wrong("expected fields") };
    };
    if let Some(name) = fields.keys().find(|name| *name != "hides" && *name != "addresses") {
        return wrong(&format!("unknown field `{name}`"));
    }
    let hidden = fields.get("hides").and_then(Value::as_str);
    let Some(side) = Side::BOTH.into_iter().find(|side| hidden == Some(between[side.index()].as_str())) else {
        return wrong("`hides` names neither of the two clusters");
    };
    let addresses = fields.get("addresses").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let addresses: Option<Vec<&str>> = addresses.iter().map(Value::as_str).collect();
    match addresses {
        Some(addresses) if !addresses.is_empty() => Ok(json!(format!("{}:{}", side.as_str(), addresses.join(",")))),
        _ => wrong("`addresses` is not a list of IPv4 addresses"),
    }
}

/// Problems in the words of the entry, not of the [`LinkSpec`] that it became.
fn renamed(between: &[String; 2], problems: Problems) -> Problems {
    let directions = directions(between);
    let rename = |mut problem: Problem| {
        if let Some(field) = problem.field.strip_prefix("both.") {
            problem.field = field.to_owned();
        }
        for (name, side) in &directions {
            if let Some(rest) = problem.field.strip_prefix(side.outward()) {
                problem.field = format!("{name}{rest}");
            }
        }
        problem
    };
    Problems(problems.0.into_iter().map(rename).collect())
}

impl TryFrom<Map<String, Value>> for WanSpec {
    type Error = Problems;

    fn try_from(fields: Map<String, Value>) -> Result<Self, Problems> {
        Self::read(&fields)
    }
}

impl From<WanSpec> for Map<String, Value> {
    fn from(spec: WanSpec) -> Self {
        let mut fields = Map::new();
        fields.insert("between".to_owned(), json!(spec.between));
        for (name, side) in directions(&spec.between) {
            fields.insert(name, json!(spec.link.conditions(side)));
        }
        if let Some(NatSpec { side, addresses }) = &spec.link.nat {
            fields.insert("nat".to_owned(), json!({"hides": spec.between[side.index()], "addresses": addresses}));
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: Value, expect: Result<(&str, &str), &[&str]>) {
        let result: Result<WanSpec, Problems> = WanSpec::read(fields.as_object().unwrap());
        match (result, expect) {
            (Ok(spec), Ok((out, back))) => {
                assert_eq!(spec.link.left_to_right.delay.to_string(), out, "{fields}");
                assert_eq!(spec.link.right_to_left.delay.to_string(), back, "{fields}");
                let again: WanSpec = serde_json::from_value(json!(spec)).unwrap();
                assert_eq!(again, spec);
            }
            (Err(problems), Err(expect)) => {
                let found: Vec<_> = problems.0.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
                assert_eq!(found, expect, "{fields}");
            }
            (result, _) => panic!("{fields}: {result:?}"),
        }
    }

    #[test]
    fn entries_of_a_fleet_file_are_read_and_written() {
        check(json!({"between": ["east", "west"]}), Ok(("0", "0")));
        check(json!({"between": ["east", "west"], "delay": "40ms"}), Ok(("40ms", "40ms")));
        check(json!({"between": ["e", "w"], "w-to-e": {"delay": "9ms"}, "delay": "40ms"}), Ok(("40ms", "9ms")));
        let nat = json!({"hides": "w", "addresses": ["192.0.2.1"]});
        check(json!({"between": ["e", "w"], "nat": nat}), Ok(("0", "0")));
        check(json!({"delay": "40ms"}), Err(&["between: expected a list of two clusters"]));
        check(json!({"between": ["e", "e"]}), Err(&["between: expected two different clusters"]));
        check(
            json!({"between": ["e", "w"], "dely": "1ms", "e-to-w": {"loss": "2"}}),
            Err(&["dely: unknown field", "e-to-w.loss: `2` is not a share; write it in percent, like 1% or 0.05%"]),
        );
        let nat = json!({"hides": "north", "addresses": ["192.0.2.1"]});
        check(json!({"between": ["e", "w"], "nat": nat}), Err(&["nat: `hides` names neither of the two clusters"]));
    }
}
