//! What holds on a whole link.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::conditions::Conditions;
use super::problem::{Problem, Problems};

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The first namespace.
    Left,
    /// The second one.
    Right,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Left, Self::Right];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// The name of the direction that begins here.
    pub fn outward(self) -> &'static str {
        match self {
            Self::Left => "left-to-right",
            Self::Right => "right-to-left",
        }
    }

    /// 0 or 1.
    pub(crate) fn index(self) -> usize {
        usize::from(self == Self::Right)
    }
}

/// Conditions of both directions, and the address translation between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", rename_all = "kebab-case")]
pub struct LinkSpec {
    /// For packets that enter at the left.
    pub left_to_right: Conditions,
    /// For packets that enter at the right.
    pub right_to_left: Conditions,
    /// Translation of one side's IPv4 sources; none by default.
    pub nat: Option<NatSpec>,
}

/// Source NAT: UDP, TCP and echo requests of one side leave with another address and port, as behind a home router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct NatSpec {
    /// The side whose sources are hidden.
    pub side: Side,
    /// The addresses that the other side sees, one at a time; rebinding the address moves to the next. The other side needs a
    /// route to them.
    pub addresses: Vec<Ipv4Addr>,
}

/// The most addresses of a NAT.
const NAT_ADDRESSES_MAX: usize = 64;

impl FromStr for NatSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (side, addresses) = text.split_once(':').ok_or_else(|| format!("`{text}` names no side"))?;
        let side = match side {
            "left" => Side::Left,
            "right" => Side::Right,
            _ => return Err(format!("`{side}` is neither left nor right")),
        };
        let one = |address: &str| address.trim().parse().map_err(|_| format!("`{address}` is not an IPv4 address"));
        let addresses: Vec<Ipv4Addr> = addresses.split(',').map(one).collect::<Result<_, _>>()?;
        if addresses.len() > NAT_ADDRESSES_MAX {
            return Err(format!("{} addresses, at most {NAT_ADDRESSES_MAX} are taken", addresses.len()));
        }
        Ok(Self { side, addresses })
    }
}

impl fmt::Display for NatSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.addresses.iter().map(Ipv4Addr::to_string).collect();
        write!(f, "{}:{}", self.side.as_str(), addresses.join(","))
    }
}

impl From<NatSpec> for String {
    fn from(value: NatSpec) -> Self {
        value.to_string()
    }
}

impl LinkSpec {
    /// The conditions of packets that enter at `side`.
    pub fn conditions(&self, side: Side) -> &Conditions {
        match side {
            Side::Left => &self.left_to_right,
            Side::Right => &self.right_to_left,
        }
    }

    /// The same with a change: a mapping of `both`, `left-to-right`, `right-to-left` (each a mapping of [`Conditions`]'
    /// fields) and `nat`.
    ///
    /// # Errors
    /// Every mistake; nothing is half applied.
    pub fn changed(&self, change: &Map<String, Value>) -> Result<Self, Problems> {
        let mut next = self.clone();
        let mut problems = Vec::new();
        for (name, value) in change {
            let found = match name.as_str() {
                "both" => overlay(name, value, &mut [&mut next.left_to_right, &mut next.right_to_left]),
                "left-to-right" => overlay(name, value, &mut [&mut next.left_to_right]),
                "right-to-left" => overlay(name, value, &mut [&mut next.right_to_left]),
                "nat" => read_nat(value).map(|nat| next.nat = nat).map_err(|one| vec![one]),
                _ => {
                    let hint = "the fields are both, left-to-right, right-to-left and nat";
                    Err(vec![Problem::new(name, "unknown field", hint)])
                }
            };
            problems.extend(found.err().into_iter().flatten());
        }
        if problems.is_empty() {
            problems = Side::BOTH.into_iter().flat_map(|side| next.contradictions(side)).collect();
        }
        if problems.is_empty() { Ok(next) } else { Err(Problems(problems)) }
    }
}

impl LinkSpec {
    fn contradictions(&self, side: Side) -> Vec<Problem> {
        self.conditions(side).contradictions().into_iter().map(|one| one.within(side.outward())).collect()
    }
}

fn overlay(name: &str, value: &Value, targets: &mut [&mut Conditions]) -> Result<(), Vec<Problem>> {
    let Some(fields) = value.as_object() else {
        return Err(vec![Problem::new(name, "expected fields", "write conditions such as delay: 40ms")]);
    };
    // The same fields have the same mistakes in every direction: those of the last one are all.
    let problems = targets.iter_mut().map(|target| target.overlay(fields)).last().unwrap_or_default();
    if problems.is_empty() { Ok(()) } else { Err(problems.into_iter().map(|one| one.within(name)).collect()) }
}

fn read_nat(value: &Value) -> Result<Option<NatSpec>, Problem> {
    let hint = "write it like nat=left:198.51.100.1,198.51.100.2, or off";
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text == "off" || text == "none" => Ok(None),
        Value::String(text) => text.parse().map(Some).map_err(|message: String| Problem::new("nat", message, hint)),
        _ => Err(Problem::new("nat", "expected a text", hint)),
    }
}

impl TryFrom<Map<String, Value>> for LinkSpec {
    type Error = Problems;

    fn try_from(fields: Map<String, Value>) -> Result<Self, Problems> {
        Self::default().changed(&fields)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_specification_is_read_as_it_is_written() {
        let written =
            json!({"both": {"delay": "40ms"}, "left-to-right": {"loss": "1%"}, "nat": "left:192.0.2.1,192.0.2.2"});
        let spec: LinkSpec = serde_json::from_value(written).unwrap();
        assert_eq!(spec.left_to_right.delay, spec.right_to_left.delay);
        assert_ne!(spec.left_to_right.loss, spec.right_to_left.loss);
        let again: LinkSpec = serde_json::from_value(json!(spec)).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn mistakes_are_named_with_their_path() {
        let change = json!({"left-to-right": {"loss": "x"}, "nat": "up:1.2.3.4", "middle": {}, "both": 3});
        let problems = LinkSpec::default().changed(change.as_object().unwrap()).unwrap_err();
        let fields: Vec<_> = problems.0.iter().map(|one| one.field.as_str()).collect();
        assert_eq!(fields, ["left-to-right.loss", "nat", "middle", "both"]);
    }
}
