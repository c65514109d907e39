//! Durations as Istio's fields write them: `5s`, `100ms`, `1h1m`, `1.5s`.

use std::time::Duration;

/// Reads a duration as Go does: numbers with a unit each, one after the other; a plain `0` is one, too.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration, such as 5s, 100ms or 1h1m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    if rest.is_empty() {
        return Err(wrong());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let part = unit_nanos(unit).and_then(|unit| scaled(number, unit)).ok_or_else(wrong)?;
        nanos = nanos.checked_add(part).ok_or_else(wrong)?;
        rest = tail;
    }
    // Go's durations end at 2^63 ns, some 292 years.
    let nanos = i64::try_from(nanos).ok().and_then(|nanos| u64::try_from(nanos).ok()).ok_or_else(wrong)?;
    Ok(Duration::from_nanos(nanos))
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3600 * 1_000_000_000,
        _ => return None,
    })
}

/// `number × unit`, the fraction cut at nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || number.len() > 40 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    let mut step = unit;
    for digit in fraction.chars().filter_map(|digit| digit.to_digit(10)) {
        step /= 10;
        total = total.checked_add(step.checked_mul(u128::from(digit))?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let good = [
            ("5s", 5_000),
            ("100ms", 100),
            ("1h1m", 3_660_000),
            ("1.5s", 1_500),
            ("0s", 0),
            ("0", 0),
            ("2m30.25s", 150_250),
            (".5s", 500),
        ];
        for (text, millis) in good {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for bad in ["", "5", "s", "5x", "-5s", "1..5s", "5 s", "9999999999h", ".s", "1d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
