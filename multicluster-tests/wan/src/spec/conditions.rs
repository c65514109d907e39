//! What holds in one direction of a link.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value};

use super::problem::{Problem, Problems};
use super::units::{Delay, Percent, Rate, Size};

/// The conditions of one direction; the default is a perfect wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Conditions {
    /// How long a packet is on its way, after it left the queue.
    pub delay: Delay,
    /// Each delay is drawn evenly from `delay` ± `jitter`; packets closer together than that may change places.
    pub jitter: Delay,
    /// The share of packets that is lost, each by itself.
    pub loss: Percent,
    /// Loss in bursts, beside `loss`.
    pub burst_loss: Option<BurstLoss>,
    /// The share of packets that skips the delay and so overtakes others.
    pub reorder: Percent,
    /// The share of packets that arrives twice.
    pub duplicate: Percent,
    /// The most bits per second, of whole IP packets.
    pub rate: Option<Rate>,
    /// The most bytes that wait for the rate; more are dropped. Default: 50 ms at the rate, at least 32 KiB.
    pub queue: Option<Size>,
    /// The largest packet that passes, in bytes of IP. Default: the device's.
    pub mtu: Option<u16>,
    /// Whether the sender of a packet that is too large is told, by ICMP. Default true.
    pub icmp: bool,
    /// UDP is dropped in silence, as by a firewall.
    pub block_udp: bool,
    /// TCP is dropped in silence.
    pub block_tcp: bool,
    /// Everything is dropped in silence.
    pub blackhole: bool,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            delay: Delay::default(),
            jitter: Delay::default(),
            loss: Percent::default(),
            burst_loss: None,
            reorder: Percent::default(),
            duplicate: Percent::default(),
            rate: None,
            queue: None,
            mtu: None,
            icmp: true,
            block_udp: false,
            block_tcp: false,
            blackhole: false,
        }
    }
}

/// Loss by the model of Gilbert and Elliott, as `netem`'s `loss gemodel p r 1-h 1-k`: a direction is in a good or a bad state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(into = "String")]
pub struct BurstLoss {
    /// `p`: the chance, with each packet, that the state turns bad.
    pub enter: Percent,
    /// `r`: the chance, with each packet, that it turns good again; a burst is 1/r packets long on average.
    pub leave: Percent,
    /// `1-h`: the share that is lost in the bad state. Default all.
    pub inside: Percent,
    /// `1-k`: the share that is lost in the good state. Default none.
    pub outside: Percent,
}

impl FromStr for BurstLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shares = text.split([' ', ',']).filter(|part| !part.is_empty()).map(str::parse);
        let shares: Vec<Percent> = shares.collect::<Result<_, String>>()?;
        let (enter, leave) = match shares[..] {
            [enter, leave] | [enter, leave, _] | [enter, leave, _, _] => (enter, leave),
            _ => return Err(format!("`{text}` has {} shares, expected 2 to 4", shares.len())),
        };
        if leave.is_zero() {
            return Err("a burst that is never left loses everything".to_owned());
        }
        let inside = shares.get(2).copied().unwrap_or(Percent::ALL);
        Ok(Self { enter, leave, inside, outside: shares.get(3).copied().unwrap_or_default() })
    }
}

impl fmt::Display for BurstLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.enter, self.leave, self.inside, self.outside)
    }
}

impl From<BurstLoss> for String {
    fn from(value: BurstLoss) -> Self {
        value.to_string()
    }
}

/// A field of [`Conditions`], as help texts name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Knob {
    /// Its name.
    pub name: &'static str,
    /// What a value looks like.
    pub form: &'static str,
}

/// Every field of [`Conditions`].
pub const KNOBS: [Knob; 13] = [
    Knob { name: "delay", form: "40ms" },
    Knob { name: "jitter", form: "5ms" },
    Knob { name: "loss", form: "1%" },
    Knob { name: "burst-loss", form: "0.1%,25%[,100%[,0%]]" },
    Knob { name: "reorder", form: "1%" },
    Knob { name: "duplicate", form: "0.1%" },
    Knob { name: "rate", form: "20mbit" },
    Knob { name: "queue", form: "256kb" },
    Knob { name: "mtu", form: "1380" },
    Knob { name: "icmp", form: "true|false" },
    Knob { name: "block-udp", form: "true|false" },
    Knob { name: "block-tcp", form: "true|false" },
    Knob { name: "blackhole", form: "true|false" },
];

impl Conditions {
    /// The same with the fields of `change` in place of its own; `null` and `off` put a field back to its default.
    ///
    /// # Errors
    /// Every mistake; nothing is half applied.
    pub fn changed(&self, change: &Map<String, Value>) -> Result<Self, Problems> {
        let mut next = self.clone();
        let mut problems = next.overlay(change);
        if problems.is_empty() {
            problems = next.contradictions();
        }
        if problems.is_empty() { Ok(next) } else { Err(Problems(problems)) }
    }

    /// Takes what can be taken of `change` and returns what cannot; contradictions between fields are left for later.
    pub(super) fn overlay(&mut self, change: &Map<String, Value>) -> Vec<Problem> {
        change.iter().filter_map(|(name, value)| self.set(name, value).err()).collect()
    }

    fn set(&mut self, name: &str, value: &Value) -> Result<(), Problem> {
        let usual = Self::default();
        match name {
            "delay" => self.delay = read(name, value)?.unwrap_or_default(),
            "jitter" => self.jitter = read(name, value)?.unwrap_or_default(),
            "loss" => self.loss = read(name, value)?.unwrap_or_default(),
            "burst-loss" => self.burst_loss = read(name, value)?,
            "reorder" => self.reorder = read(name, value)?.unwrap_or_default(),
            "duplicate" => self.duplicate = read(name, value)?.unwrap_or_default(),
            "rate" => self.rate = read(name, value)?,
            "queue" => self.queue = read(name, value)?,
            "mtu" => self.mtu = read::<Mtu>(name, value)?.map(|mtu| mtu.0),
            "icmp" => self.icmp = switch(name, value, usual.icmp)?,
            "block-udp" => self.block_udp = switch(name, value, usual.block_udp)?,
            "block-tcp" => self.block_tcp = switch(name, value, usual.block_tcp)?,
            "blackhole" => self.blackhole = switch(name, value, usual.blackhole)?,
            _ => return Err(Problem::new(name, "unknown field", format!("the fields are {}", names()))),
        }
        Ok(())
    }

    /// Fields that make no sense together.
    pub(super) fn contradictions(&self) -> Vec<Problem> {
        let mut found = Vec::new();
        if self.jitter > self.delay {
            let message = format!("{} is more than the delay of {}", self.jitter, self.delay);
            found.push(Problem::new("jitter", message, "no packet arrives before it was sent: set a delay as well"));
        }
        if !self.reorder.is_zero() && self.delay.0.is_zero() {
            let hint = "a packet overtakes others by skipping the delay: set a delay as well";
            found.push(Problem::new("reorder", "there is no delay", hint));
        }
        if self.queue.is_some() && self.rate.is_none() {
            found.push(Problem::new("queue", "there is no rate", "packets only wait for a rate: set a rate as well"));
        }
        found
    }

    /// The most bytes that may wait for the rate.
    pub fn queue_bytes(&self) -> u64 {
        let usual = |rate: Rate| rate.bytes_in(Duration::from_millis(50)).max(32 << 10);
        self.queue.map(Size::get).or_else(|| self.rate.map(usual)).unwrap_or(u64::MAX)
    }
}

fn names() -> String {
    KNOBS.map(|knob| knob.name).join(", ")
}

/// `None` for a value that asks for the default.
fn read<T: FromStr<Err = String>>(name: &str, value: &Value) -> Result<Option<T>, Problem> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) if text == "off" || text == "none" => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Problem::new(name, "expected a text or a number", like(name))),
    };
    text.parse().map(Some).map_err(|message| Problem::new(name, message, like(name)))
}

fn switch(name: &str, value: &Value, usual: bool) -> Result<bool, Problem> {
    match value {
        Value::Null => Ok(usual),
        Value::Bool(on) => Ok(*on),
        Value::String(text) if text == "on" || text == "true" => Ok(true),
        Value::String(text) if text == "off" || text == "false" => Ok(false),
        other => Err(Problem::new(name, format!("`{other}` is neither true nor false"), like(name))),
    }
}

fn like(name: &str) -> String {
    let form = KNOBS.iter().find(|knob| knob.name == name).map_or("", |knob| knob.form);
    format!("write it like {name}={form} (in YAML {name}: {form}), or off for the default")
}

struct Mtu(u16);

impl FromStr for Mtu {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            // RFC 791 asks every link to carry 68 bytes; hosts refuse to go below 552 (Linux' min_pmtu).
            Ok(mtu) if mtu >= 552 => Ok(Self(mtu)),
            _ => Err(format!("`{text}` is not a size between 552 and 65535")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(change: Value, expect: &str) {
        let result = Conditions::default().changed(change.as_object().unwrap());
        let found = match result {
            Err(problems) => problems.0.iter().map(|one| format!("{}: {}", one.field, one.message)).collect::<Vec<_>>(),
            Ok(conditions) => {
                let (now, before) = (json!(conditions), json!(Conditions::default()));
                let fields = now.as_object().unwrap().iter().filter(|(name, value)| before[name.as_str()] != **value);
                fields.map(|(name, value)| format!("{name}={value}")).collect()
            }
        };
        assert_eq!(found.join("; "), expect, "{change}");
    }

    #[test]
    fn changes_are_taken_as_a_whole_or_refused_with_every_mistake() {
        check(json!({"delay": "40ms", "loss": "1%"}), r#"delay="40ms"; loss="1%""#);
        check(
            json!({"delay": "40", "los": 1}),
            "delay: `40` is not a duration; write it like 40ms, 1.5s or 200us; los: unknown field",
        );
        check(json!({"loss": 0.01}), "loss: `0.01` is not a share; write it in percent, like 1% or 0.05%");
        check(json!({"jitter": "5ms"}), "jitter: 5ms is more than the delay of 0");
        check(json!({"reorder": "5%"}), "reorder: there is no delay");
        check(json!({"queue": "5kb"}), "queue: there is no rate");
        check(json!({"queue": 64000, "rate": "20mbit"}), r#"rate="20mbit"; queue="64000b""#);
        check(json!({"mtu": 1380, "icmp": "off"}), "mtu=1380; icmp=false");
        check(json!({"mtu": 500}), "mtu: `500` is not a size between 552 and 65535");
        check(json!({"burst-loss": "1%,25%"}), r#"burst-loss="1% 25% 100% 0%""#);
        check(json!({"burst-loss": "1%"}), "burst-loss: `1%` has 1 shares, expected 2 to 4");
        check(json!({"burst-loss": "1% 0%"}), "burst-loss: a burst that is never left loses everything");
        check(json!({"blackhole": "on", "block-udp": true, "block-tcp": null}), "block-udp=true; blackhole=true");
        check(json!({"icmp": 7}), "icmp: `7` is neither true nor false");
        check(json!({"delay": "off", "rate": null, "queue": "none"}), "");
    }

    #[test]
    fn every_field_is_a_knob_and_is_read_as_it_is_written() {
        let all = json!({"delay": "40ms", "jitter": "5ms", "loss": "1%", "burst-loss": "1% 25% 90% 0.1%", "reorder": "1%",
            "duplicate": "2%", "rate": "20mbit", "queue": "64kb", "mtu": 1380, "icmp": false, "block-udp": true,
            "block-tcp": true, "blackhole": true});
        let conditions = Conditions::default().changed(all.as_object().unwrap()).unwrap();
        assert_eq!(json!(conditions), all);
        let names: Vec<_> = all.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, KNOBS.map(|knob| knob.name));
    }
}
