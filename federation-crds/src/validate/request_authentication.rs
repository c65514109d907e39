//! RequestAuthentication.

use serde_json::Value;

use super::rules::Rule;
use super::target::{self, no_empty};
use super::traffic::{header_name, read_duration};
use crate::error::{FieldErrors, Mistake};
use crate::istio::RequestAuthentication;
use crate::istio::request_authentication::JwtRule;

pub(super) fn check(object: &RequestAuthentication, errors: &mut FieldErrors) {
    let spec = &object.spec;
    target::check(spec.selector.as_ref(), spec.target_ref.as_ref(), &spec.target_refs, errors);
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        check_rule(rule, &format!("spec.jwtRules[{index}]"), errors);
    }
}

fn check_rule(rule: &JwtRule, path: &str, errors: &mut FieldErrors) {
    if rule.issuer.is_empty() && rule.keys_uri().is_none() {
        errors.add(
            format!("{path}.issuer"),
            "is required when there is no jwksUri",
            "write the iss of the tokens, such as https://accounts.example.com",
        );
    }
    check_keys(rule, path, errors);
    no_empty(&rule.audiences, &format!("{path}.audiences"), errors);
    no_empty(&rule.from_params, &format!("{path}.fromParams"), errors);
    no_empty(&rule.from_cookies, &format!("{path}.fromCookies"), errors);
    no_empty(&rule.space_delimited_claims, &format!("{path}.spaceDelimitedClaims"), errors);
    for (index, header) in rule.from_headers.iter().enumerate() {
        errors.check(format!("{path}.fromHeaders[{index}].name"), header_name(&header.name));
    }
    if let Some(name) = &rule.output_payload_to_header {
        errors.check(format!("{path}.outputPayloadToHeader"), header_name(name));
    }
    for (index, pair) in rule.output_claim_to_headers.iter().enumerate() {
        let path = format!("{path}.outputClaimToHeaders[{index}]");
        errors.check(format!("{path}.header"), header_name(&pair.header));
        if pair.claim.is_empty() {
            errors.add(format!("{path}.claim"), "must not be empty", "write the name of a claim, such as sub");
        }
    }
    match rule.timeout.as_deref().map(read_duration) {
        Some(Ok(timeout)) if timeout.as_millis() == 0 => {
            errors.add(format!("{path}.timeout"), "must be at least 1ms", "write 5s, or leave it out for the default")
        }
        Some(Err(mistake)) => errors.note(format!("{path}.timeout"), mistake),
        _ => {}
    }
}

fn check_keys(rule: &JwtRule, path: &str, errors: &mut FieldErrors) {
    let inline = rule.jwks.as_deref().filter(|keys| !keys.is_empty());
    if rule.jwks_uri.is_some() && rule.jwks_uri_alias.is_some() {
        errors.add(
            format!("{path}.jwks_uri"),
            "is another spelling of jwksUri, which is there, too",
            "keep jwksUri, and remove jwks_uri",
        );
    }
    match (inline, rule.keys_uri()) {
        (Some(_), Some(_)) => errors.add(
            format!("{path}.jwks"),
            "only one of jwks and jwksUri can be set",
            "keep jwksUri, whose keys are renewed, or jwks if the address cannot be reached",
        ),
        (Some(keys), None) => errors.check(format!("{path}.jwks"), key_set(keys)),
        (None, Some(uri)) => errors.check(format!("{path}.jwksUri"), web_url(uri)),
        (None, None) if rule.issuer.is_empty() => {}
        // OpenID Connect Discovery: the issuer says where its keys are.
        (None, None) => {
            if let Err(wrong) = web_url(&rule.issuer) {
                let hint = "write jwks or jwksUri: without them, the issuer is asked for its /.well-known/openid-configuration";
                errors.add(format!("{path}.issuer"), wrong.message, hint);
            }
        }
    }
}

/// A JSON Web Key Set (RFC 7517).
fn key_set(text: &str) -> Rule {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Mistake::new(
            format!("is not JSON: {error}"),
            "write the text that the issuer serves, or its address as jwksUri",
        )
    })?;
    let keys = value.get("keys").and_then(Value::as_array).ok_or_else(|| {
        Mistake::new("has no list `keys`, as a JSON Web Key Set has", "write {\"keys\": […]} around the keys")
    })?;
    match keys.iter().position(|key| !key.get("kty").is_some_and(Value::is_string)) {
        Some(index) => Err(Mistake::new(
            format!("keys[{index}] has no `kty`"),
            "write the key as the issuer serves it, with \"kty\": \"RSA\", \"EC\" or \"OKP\"",
        )),
        None => Ok(()),
    }
}

/// A URL of `http` or `https` with a host.
fn web_url(uri: &str) -> Rule {
    let rest = uri.strip_prefix("https://").or_else(|| uri.strip_prefix("http://"));
    let example = "write a URL such as https://accounts.example.com/keys";
    let Some(rest) = rest else {
        return Err(Mistake::new(format!("{uri:?} must begin with http:// or https://"), example));
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '@' | '\\' | '"' | '<' | '>');
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') && !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    if host.is_empty() || !uri.chars().all(plain) || !good_port {
        return Err(Mistake::new(format!("{uri:?} is not a URL with a host"), example));
    }
    Ok(())
}
