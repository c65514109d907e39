//! Quantities as users of `tc` write them: `40ms`, `0.5%`, `20mbit`, `256kb`.
//!
//! Each is held in whole numbers of its smallest unit, so that equal texts are equal values and nothing is rounded twice.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A duration of at most an hour, in nanoseconds: `200us`, `40ms`, `1.5s`, `0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Delay(pub Duration);

/// A share, in parts per million: `1%`, `0.05%`, `0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Percent(u32);

/// Bits per second, of whole IP packets: `20mbit`, `1gbit`, `64kbit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate(u64);

/// Bytes: `256kb`, `1mb`, `1500`; k and m are powers of 1,024, as with `tc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

impl Percent {
    /// All.
    pub const ALL: Self = Self(1_000_000);

    /// `parts` of a million; more than a million is all.
    pub fn per_million(parts: u32) -> Self {
        Self(parts.min(1_000_000))
    }

    /// Parts of a million.
    pub fn parts(self) -> u32 {
        self.0
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Rate {
    /// `bits` per second, at least one.
    pub fn bits(bits: u64) -> Self {
        Self(bits.max(1))
    }

    /// How long `bytes` take, rounded up to the nanosecond, so that the rate is never exceeded.
    pub fn time_of(self, bytes: usize) -> Duration {
        let nanos = (bytes as u128 * 8 * 1_000_000_000).div_ceil(u128::from(self.0));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Bytes that pass in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        u64::try_from(u128::from(self.0) * time.as_nanos() / 8_000_000_000).unwrap_or(u64::MAX)
    }
}

impl Size {
    /// `bytes` bytes.
    pub fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// How many bytes.
    pub fn get(self) -> u64 {
        self.0
    }
}

const HOUR_NANOS: u128 = 3_600_000_000_000;

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let nanos = scaled(text, &[("us", 1_000), ("µs", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000)])
            .ok_or_else(|| format!("`{text}` is not a duration; write it like 40ms, 1.5s or 200us"))?;
        if nanos > HOUR_NANOS {
            return Err(format!("`{text}` is longer than an hour"));
        }
        Ok(Self(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))))
    }
}

impl FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = scaled(text, &[("%", 10_000)])
            .ok_or_else(|| format!("`{text}` is not a share; write it in percent, like 1% or 0.05%"))?;
        match u32::try_from(parts) {
            Ok(parts) if parts <= 1_000_000 => Ok(Self(parts)),
            _ => Err(format!("`{text}` is more than 100%")),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)];
        let wrong = || format!("`{text}` is not a rate; write it in bits per second, like 20mbit, 1gbit or 64kbit");
        let bits = scaled(text, &units).and_then(|bits| u64::try_from(bits).ok()).ok_or_else(wrong)?;
        // Slower than this, one packet of 1,500 bytes takes longer than twelve seconds.
        if bits < 1_000 { Err(format!("`{text}` is less than 1kbit")) } else { Ok(Self(bits)) }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const MEGA: u128 = 1 << 20;
        let units = [("kb", 1_024), ("k", 1_024), ("mb", MEGA), ("m", MEGA), ("b", 1), ("", 1)];
        let wrong = || format!("`{text}` is not a number of bytes; write it like 256kb, 1mb or 1500");
        scaled(text, &units).and_then(|bytes| u64::try_from(bytes).ok()).map(Self).ok_or_else(wrong)
    }
}

/// A decimal number with one of `units`, in the smallest unit; `0` needs none. Digits below the smallest unit are refused.
fn scaled(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let text = text.trim().to_ascii_lowercase();
    if text == "0" {
        return Some(0);
    }
    let (number, unit) = text.split_at(text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len()));
    let scale = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || whole.len() > 12 || fraction.len() > 9 || (number.contains('.') && fraction.is_empty()) {
        return None;
    }
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let product = digits.checked_mul(scale)?;
    (product % denominator == 0).then_some(product / denominator)
}

/// `amount` in the largest of `units` that divides it; the last unit divides everything.
fn written(f: &mut fmt::Formatter<'_>, amount: u128, units: &[(&str, u128)]) -> fmt::Result {
    match units.iter().find(|(_, scale)| amount != 0 && amount.is_multiple_of(*scale)) {
        Some((unit, scale)) => write!(f, "{}{unit}", amount / scale),
        None => f.write_str("0"),
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        if !nanos.is_multiple_of(1_000) {
            return write!(f, "{}.{:03}us", nanos / 1_000, nanos % 1_000);
        }
        written(f, nanos, &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)])
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        let fraction = format!("{rest:04}");
        match fraction.trim_end_matches('0') {
            "" => write!(f, "{whole}%"),
            digits => write!(f, "{whole}.{digits}%"),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(f, u128::from(self.0), &[("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000), ("bit", 1)])
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(f, u128::from(self.0), &[("mb", 1 << 20), ("kb", 1 << 10), ("b", 1)])
    }
}

macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

as_text!(Delay, Percent, Rate, Size);

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `text` as each quantity and writes what came out; `-` where it is refused.
    fn check(text: &str, expect: [&str; 4]) {
        let show = |result: Result<String, String>| result.unwrap_or_else(|_| "-".to_owned());
        let found = [
            show(text.parse::<Delay>().map(|value| value.to_string())),
            show(text.parse::<Percent>().map(|value| value.to_string())),
            show(text.parse::<Rate>().map(|value| value.to_string())),
            show(text.parse::<Size>().map(|value| value.to_string())),
        ];
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn quantities_are_read_as_tc_reads_them_and_written_back_equal() {
        check("40ms", ["40ms", "-", "-", "-"]);
        check("1.5s", ["1500ms", "-", "-", "-"]);
        check("0.2505ms", ["250.500us", "-", "-", "-"]);
        check("1h", ["-"; 4]);
        check("3601s", ["-"; 4]);
        check("0", ["0", "0%", "-", "0"]);
        check("0.05%", ["-", "0.05%", "-", "-"]);
        check("100%", ["-", "100%", "-", "-"]);
        check("100.1%", ["-"; 4]);
        check("0.00001%", ["-"; 4]);
        check("20mbit", ["-", "-", "20mbit", "-"]);
        check("2.5 Gbit", ["-", "-", "2500mbit", "-"]);
        check("5bit", ["-"; 4]);
        check("256kb", ["-", "-", "-", "256kb"]);
        check("1m", ["-", "-", "-", "1mb"]);
        check("1500", ["-", "-", "-", "1500b"]);
        check("-1ms", ["-"; 4]);
        check("", ["-"; 4]);
        check("1.ms", ["-"; 4]);
        check("9999999999999999999999mbit", ["-"; 4]);
    }

    #[test]
    fn a_packet_takes_its_bits_over_the_rate() {
        assert_eq!(Rate::bits(20_000_000).time_of(1_500), Duration::from_micros(600));
        assert_eq!(Rate::bits(3).time_of(1), Duration::from_nanos(2_666_666_667));
        assert_eq!(Rate::bits(20_000_000).bytes_in(Duration::from_millis(50)), 125_000);
    }
}
