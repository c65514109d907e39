//! A link as text.

use std::io::Write;

use wan::{LinkSpec, Side, Status, Tally};

/// Data, to stdout.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// Everything else, to stderr; if that is closed, nobody can be told.
pub(super) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What is set, one direction a line, only what differs from a perfect wire.
pub(super) fn conditions(status: &Status) -> String {
    let mut lines: Vec<_> = Side::BOTH
        .into_iter()
        .map(|side| format!("{}: {}", side.outward(), of_direction(&status.link, side)))
        .collect();
    if let Some(nat) = &status.link.nat {
        lines.push(format!("nat: {nat} ({} mappings)", status.nat_mappings));
    }
    lines.join("\n")
}

fn of_direction(link: &LinkSpec, side: Side) -> String {
    let fields = |conditions| serde_json::to_value(conditions).unwrap_or_default();
    let (set, usual) = (fields(link.conditions(side)), fields(&wan::Conditions::default()));
    let set = set.as_object().into_iter().flatten().filter(|(name, value)| usual[name.as_str()] != **value);
    let words: Vec<_> = set.map(|(name, value)| format!("{name}={}", value.to_string().trim_matches('"'))).collect();
    if words.is_empty() { "a perfect wire".to_owned() } else { words.join(" ") }
}

/// What is set, and the counters.
pub(super) fn text(status: &Status) -> String {
    let mut lines = vec![format!("seed: {}", status.seed), conditions(status)];
    for side in Side::BOTH {
        let (counters, late) = (status.counters(side), status.lateness(side));
        lines.push(format!("{}:", side.outward()));
        lines.push(of("received", counters.received));
        lines.push(of("duplicated", counters.duplicated));
        lines.push(of("fragmented", counters.fragmented));
        lines.push(of("delivered", counters.delivered));
        lines.push(of("queued", counters.queued));
        for (cause, tally) in &counters.dropped {
            let cause = serde_json::to_value(cause).unwrap_or_default();
            lines.push(of(&format!("dropped: {}", cause.as_str().unwrap_or_default()), *tally));
        }
        lines.push(format!("  {:22} {:>12} packets", "reordered", counters.reordered));
        lines.push(format!("  {:22} {:>12} packets", "ICMP sent back", counters.icmp_sent));
        lines.push(format!(
            "  {:22} p50 {} µs, p99 {} µs, max {} µs",
            "lateness", late.p50_us, late.p99_us, late.max_us
        ));
    }
    lines.join("\n")
}

fn of(name: &str, tally: Tally) -> String {
    format!("  {name:22} {:>12} packets {:>15} bytes", tally.packets, tally.bytes)
}
