//! How many threads a proxy works with.

/// The environment variable that sets how many worker threads a sidecar or a gateway has, 1 to 64; 2 by default. What Envoy calls
/// `concurrency`.
pub const WORKERS_VARIABLE: &str = "ISTHMUS_WORKER_THREADS";

const DEFAULT: usize = 2;
const MOST: usize = 64;

/// The number of worker threads of this process; a value that is none is reported and not used.
pub fn worker_threads() -> usize {
    let Ok(wanted) = std::env::var(WORKERS_VARIABLE) else { return DEFAULT };
    parse(&wanted).unwrap_or_else(|| {
        tracing::warn!(
            value = wanted,
            hint = "write a number from 1 to 64",
            "{WORKERS_VARIABLE} is none; {DEFAULT} workers"
        );
        DEFAULT
    })
}

fn parse(text: &str) -> Option<usize> {
    text.parse().ok().filter(|workers| (1..=MOST).contains(workers))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_number_of_workers_is_within_bounds() {
        for (text, expected) in [("1", Some(1)), ("64", Some(64)), ("0", None), ("65", None), ("two", None), ("", None)]
        {
            assert_eq!(super::parse(text), expected, "{text:?}");
        }
    }
}
