//! Patterns: strings, regular expressions, hosts.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use regex::Regex;
use serde::{Deserialize, Serialize};

/// A regular expression in RE2 syntax that must match the whole text, as Envoy's `safe_regex` does. Matching takes time
/// linear in the text.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    source: String,
    anchored: Regex,
    /// Compiled by the first who searches; most patterns are only ever matched as a whole.
    searching: Arc<OnceLock<Option<Regex>>>,
}

/// A program larger than this is refused, in bytes.
const PATTERN_SIZE_MAX: usize = 1 << 20;

impl Pattern {
    /// Compiles it; the error is the parser's, without its picture of the place.
    pub fn new(source: impl Into<String>) -> Result<Self, PatternError> {
        let source = source.into();
        let anchored = regex::RegexBuilder::new(&format!("^(?:{source})$")).size_limit(PATTERN_SIZE_MAX).build();
        match anchored {
            Ok(anchored) => Ok(Self { source, anchored, searching: Arc::default() }),
            Err(error) => Err(PatternError { source_text: source, why: error.to_string() }),
        }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &str) -> bool {
        self.anchored.is_match(text)
    }

    /// The same expression, not anchored: what `uriRegexRewrite` searches for.
    pub(crate) fn searching(&self) -> Option<&Regex> {
        let compile = || regex::RegexBuilder::new(&self.source).size_limit(PATTERN_SIZE_MAX).build().ok();
        self.searching.get_or_init(compile).as_ref()
    }

    /// The text that it was made of.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

/// Why a text is no regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_text:?} is no regular expression: {why}")]
pub struct PatternError {
    source_text: String,
    why: String,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;
    fn try_from(source: String) -> Result<Self, PatternError> {
        Self::new(source)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> String {
        pattern.source
    }
}

/// How a text is compared: Istio's StringMatch, and the patterns of AuthorizationPolicy (`abc*`, `*abc`, `*`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StringMatch {
    /// Equal, case included.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// Contains; only for the values of lists that Istio matches so.
    Contains(String),
    /// Present and not empty, whatever it is.
    Present,
    /// Matches as a whole.
    Regex(Pattern),
}

impl StringMatch {
    /// Compares.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Prefix(prefix) => text.starts_with(prefix),
            Self::Suffix(suffix) => text.ends_with(suffix),
            Self::Contains(part) => text.contains(part),
            Self::Present => !text.is_empty(),
            Self::Regex(pattern) => pattern.matches(text),
        }
    }

    /// Compares without regard to ASCII case (`ignoreUriCase`); a regular expression says itself what it ignores.
    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        let (text, lower) = (text.to_ascii_lowercase(), |wanted: &String| wanted.to_ascii_lowercase());
        match self {
            Self::Exact(wanted) => lower(wanted) == text,
            Self::Prefix(prefix) => text.starts_with(&lower(prefix)),
            Self::Suffix(suffix) => text.ends_with(&lower(suffix)),
            Self::Contains(part) => text.contains(&lower(part)),
            Self::Present => !text.is_empty(),
            Self::Regex(pattern) => pattern.matches(&text),
        }
    }

    /// Reads the value syntax of AuthorizationPolicy: `*` present, `abc*` prefix, `*abc` suffix, else exact.
    pub fn of_policy_value(value: &str) -> Self {
        match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(suffix), _) => Self::Suffix(suffix.to_owned()),
            (None, Some(prefix)) => Self::Prefix(prefix.to_owned()),
            (None, None) => Self::Exact(value.to_owned()),
        }
    }
}

/// A host name or a wildcard: `*`, `*.example.com`, `reviews.default.svc.cluster.local`; lower case, without a final dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern(String);

/// Why a text is no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host name: {1}")]
pub struct HostPatternError(String, &'static str);

impl HostPattern {
    /// Every host.
    pub fn any() -> Self {
        Self("*".to_owned())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has a wildcard.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether a host (lower case, no port, no final dot) is meant. `*.example.com` means every host below it, at any
    /// depth, not itself.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => self.0 == host,
        }
    }

    /// More specific patterns are greater: exact ones before wildcards, longer wildcards before shorter ones.
    pub fn specificity(&self) -> (bool, usize) {
        (!self.is_wildcard(), self.0.len())
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;
    fn from_str(text: &str) -> Result<Self, HostPatternError> {
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let wrong = |why| Err(HostPatternError(text.chars().take(256).collect(), why));
        let rest = match host.strip_prefix("*.") {
            Some(rest) => rest,
            None if host == "*" => return Ok(Self(host)),
            None => host.as_str(),
        };
        if host.is_empty() || host.len() > 253 {
            return wrong("it must have 1 to 253 characters");
        }
        if rest.parse::<std::net::IpAddr>().is_ok() {
            return Ok(Self(host));
        }
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
        let label = |label: &str| !label.is_empty() && label.len() <= 63 && label.bytes().all(allowed);
        if !rest.split('.').all(label) {
            return wrong("labels of letters, digits and '-' joined by dots; a wildcard is the whole first label");
        }
        Ok(Self(host))
    }
}

impl TryFrom<String> for HostPattern {
    type Error = HostPatternError;
    fn try_from(text: String) -> Result<Self, HostPatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(host: HostPattern) -> String {
        host.0
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A condition on a claim: one of its texts is like this.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimMatch {
    /// Names from the outermost inwards; at least one.
    pub path: Vec<String>,
    /// `Present` wants the claim with any value.
    pub value: StringMatch,
}

impl ClaimMatch {
    /// The path that a key of `headers` means: `@request.auth.claims.a.b` or `@request.auth.claims[a][b]` (Istio, "JWT
    /// claim based routing"). `None`: the key is none of a claim.
    pub fn path_of(key: &str) -> Option<Vec<String>> {
        let rest = key.strip_prefix("@request.auth.claims")?;
        let names = match rest.strip_prefix('.') {
            Some(names) => names.split('.').collect::<Vec<_>>(),
            None => rest.strip_prefix('[')?.strip_suffix(']')?.split("][").collect(),
        };
        names.iter().all(|name| !name.is_empty()).then(|| names.into_iter().map(str::to_owned).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_the_whole_text() {
        let pattern = Pattern::new("a|b+").unwrap();
        assert!(pattern.matches("bbb") && !pattern.matches("abb") && !pattern.matches("xa"));
        assert!(Pattern::new("(").is_err());
    }

    #[test]
    fn wildcards_mean_what_is_below_them() {
        let cases = [
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.example.com", true),
            ("*.example.com", "example.com", false),
            ("*", "example.com", true),
            ("Example.COM.", "example.com", true),
        ];
        for (pattern, host, expected) in cases {
            let pattern: HostPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(host), expected, "{pattern} {host}");
        }
        for bad in ["", "a..b", "*a.b", "a b", "a.*.b"] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
        }
    }

    #[test]
    fn policy_values_have_stars_at_one_end() {
        assert_eq!(StringMatch::of_policy_value("*"), StringMatch::Present);
        assert_eq!(StringMatch::of_policy_value("/api/*"), StringMatch::Prefix("/api/".into()));
        assert_eq!(StringMatch::of_policy_value("*/sa/web"), StringMatch::Suffix("/sa/web".into()));
        assert_eq!(StringMatch::of_policy_value("GET"), StringMatch::Exact("GET".into()));
    }
}
