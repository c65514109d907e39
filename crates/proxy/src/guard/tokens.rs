//! RequestAuthentication: tokens of a request are found, verified, and handed on as the rules say.
//!
//! Every token that a rule looks at must be valid for a rule of its issuer; a request without one passes, without claims.
//! Answers follow Envoy's `jwt_authn`: texts, statuses and the leeway of a minute.

mod find;
mod keys;
mod verify;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue, Request, StatusCode};
use mesh::{Claims, TokenRule};
use serde_json::Value;

pub(super) use keys::{Fetch, KeyStore};

use find::{Found, strip};
use keys::KeySet;
use verify::Token;

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TokenError {
    /// What the client reads.
    pub(super) text: String,
    /// 401, or 403 for a token that is meant for others.
    pub(super) status: StatusCode,
}

impl TokenError {
    fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), status: StatusCode::UNAUTHORIZED }
    }

    fn audience() -> Self {
        Self { text: "Audiences in Jwt are not allowed".into(), status: StatusCode::FORBIDDEN }
    }
}

/// A token that was accepted.
#[derive(Debug)]
pub(super) struct Accepted {
    /// What it says.
    pub(super) claims: Claims,
    /// The rule that accepted it.
    pub(super) rule: Arc<TokenRule>,
}

/// Verifies the tokens of a request and changes its headers as the rules of its tokens say. `now` is in Unix seconds.
pub(super) async fn authenticate<B>(
    store: &KeyStore,
    rules: &[Arc<TokenRule>],
    request: &mut Request<B>,
    now: u64,
) -> Result<Option<Accepted>, TokenError> {
    let found = find::tokens(rules, request);
    // Only the mesh writes these, whether there is a token or not.
    for name in rules.iter().flat_map(|rule| written(rule)) {
        request.headers_mut().remove(name);
    }
    let mut accepted: Option<Accepted> = None;
    for found in found {
        let (token, rule) = accept(store, &found, now).await?;
        hand_on(rule, &token, request);
        if !rule.forward {
            strip(&found, request);
        }
        if accepted.is_none() {
            let claims = with_lists(&token, rule);
            accepted = Some(Accepted { claims, rule: rule.clone() });
        }
    }
    Ok(accepted)
}

/// The first rule that accepts the token; the error is the last rule's.
async fn accept<'a>(store: &KeyStore, found: &Found<'a>, now: u64) -> Result<(Token, &'a Arc<TokenRule>), TokenError> {
    let token = Token::parse(&found.text)?;
    let mut error = TokenError::new("Jwt issuer is not configured");
    for rule in &found.rules {
        if rule.issuer != token.issuer {
            continue;
        }
        match check(store, rule, &token, now).await {
            Ok(()) => return Ok((token, rule)),
            Err(why) => error = why,
        }
    }
    Err(error)
}

async fn check(store: &KeyStore, rule: &TokenRule, token: &Token, now: u64) -> Result<(), TokenError> {
    token.check_time(now)?;
    token.check_audience(&rule.audiences)?;
    let keys = store.keys(&rule.keys, token.key_id.as_deref(), rule.timeout).await.map_err(TokenError::new)?;
    token.check_signature(&keys)
}

/// Headers that a rule writes.
fn written(rule: &TokenRule) -> impl Iterator<Item = &str> {
    let claims = rule.claims_to_headers.iter().map(|(header, _)| header.as_str());
    rule.payload_to_header.as_deref().into_iter().chain(claims)
}

fn hand_on<B>(rule: &TokenRule, token: &Token, request: &mut Request<B>) {
    let mut add = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(value)) {
            request.headers_mut().append(name, value);
        }
    };
    if let Some(header) = &rule.payload_to_header {
        add(header, &URL_SAFE_NO_PAD.encode(&token.payload_text));
    }
    for (header, claim) in &rule.claims_to_headers {
        if let Some(value) = simple(&token.payload, claim) {
            add(header, &value);
        }
    }
}

/// A claim that is a text, a number or a flag; nested by `.`, unless a claim has that very name.
fn simple(payload: &serde_json::Map<String, Value>, name: &str) -> Option<String> {
    let mut parts = name.split('.');
    let nested = || {
        let first = payload.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    };
    match payload.get(name).or_else(nested)? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// Claims whose text is a list separated by spaces, beside those that a rule names.
const SPACED: [&str; 2] = ["scope", "permission"];

fn with_lists(token: &Token, rule: &TokenRule) -> Claims {
    let mut all = token.payload.clone();
    for name in SPACED.into_iter().chain(rule.space_delimited_claims.iter().map(String::as_str)) {
        if let Some(value) = all.get_mut(name)
            && let Some(text) = value.as_str()
        {
            *value = text.split_whitespace().map(|word| Value::String(word.to_owned())).collect();
        }
    }
    Claims { all }
}

/// Whether a key of the set signed the token and it is valid at `now`, for whatever audience. A door for tests that
/// bring their own bytes; requests have them verified by the guard.
pub fn verifies(token: &str, keys: &[u8], now: u64) -> bool {
    let (Ok(token), Ok(keys)) = (Token::parse(token), KeySet::parse(keys)) else { return false };
    token.check_time(now).and_then(|()| token.check_audience(&[])).and_then(|()| token.check_signature(&keys)).is_ok()
}

#[cfg(test)]
mod tests;
