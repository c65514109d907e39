//! Request principals: `<iss>/<sub>`, where issuers hold slashes themselves.

use crate::policy::StringMatch;
use crate::request::Claims;

/// Whether a token is of a principal. As in Istio a value is split at its last slash, and each half is compared with its
/// claim: one issuer cannot pose as another by slashes in its subjects.
pub(super) fn request_principal_matches(wanted: &StringMatch, claims: &Claims) -> bool {
    let claim = |name: &str| claims.all.get(name).and_then(serde_json::Value::as_str);
    let (issuer, subject) = (claim("iss"), claim("sub"));
    let (Some(issuer), Some(subject)) = (issuer, subject) else { return false };
    match wanted {
        StringMatch::Present => !issuer.is_empty() && !subject.is_empty(),
        StringMatch::Exact(value) => {
            let (wanted_issuer, wanted_subject) = value.rsplit_once('/').unwrap_or((value, ""));
            issuer == wanted_issuer && subject == wanted_subject
        }
        StringMatch::Suffix(value) => match value.rsplit_once('/') {
            Some(("", wanted)) => !issuer.is_empty() && subject == wanted,
            Some((suffix, wanted)) => issuer.ends_with(suffix) && subject == wanted,
            None => !issuer.is_empty() && subject.ends_with(value),
        },
        StringMatch::Prefix(value) => match value.rsplit_once('/') {
            Some((wanted, "")) => issuer == wanted && !subject.is_empty(),
            Some((wanted, prefix)) => issuer == wanted && subject.starts_with(prefix),
            None => issuer.starts_with(value) && !subject.is_empty(),
        },
        StringMatch::Contains(_) | StringMatch::Regex(_) => wanted.matches(&format!("{issuer}/{subject}")),
    }
}
