//! One JSON Web Token (RFC 7519), signed (RFC 7515).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::TokenError;
use super::keys::{KeySet, algorithm};

/// A token that was read; nothing of it is believed before its signature was checked.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) issuer: String,
    pub(super) key_id: Option<String>,
    pub(super) payload: Map<String, Value>,
    /// The payload as it was signed.
    pub(super) payload_text: Vec<u8>,
    algorithm: jsonwebtoken::Algorithm,
    /// Header and payload, still encoded.
    signed: String,
    signature: String,
}

/// Clocks may differ by this many seconds.
const LEEWAY: u64 = 60;
/// A longer one is not read: headers are limited anyway.
const TOKEN_MAX: usize = 32 * 1024;

impl Token {
    pub(super) fn parse(text: &str) -> Result<Self, TokenError> {
        let wrong = |why: &str| TokenError::new(why);
        let form = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections";
        let (signed, signature) = text.rsplit_once('.').ok_or_else(|| wrong(form))?;
        let (header, payload) = signed.split_once('.').ok_or_else(|| wrong(form))?;
        if payload.contains('.') || text.len() > TOKEN_MAX {
            return Err(wrong(form));
        }
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| wrong("Jwt header is an invalid Base64url encoded"))?;
        let header: Map<String, Value> =
            serde_json::from_slice(&header).map_err(|_| wrong("Jwt header is an invalid JSON"))?;
        let name = header.get("alg").and_then(Value::as_str);
        let name = name.ok_or_else(|| wrong("Jwt header [alg] field is required and must be a string"))?;
        let algorithm = algorithm(name).ok_or_else(|| wrong("Jwt header [alg] is not supported"))?;
        // RFC 7515 §4.1.11: extensions that must be understood are not.
        if header.contains_key("crit") {
            return Err(wrong("Jwt header [crit] is not supported"));
        }
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
            Some(_) => return Err(wrong("Jwt header [kid] field is not a string")),
        };
        let payload_text =
            URL_SAFE_NO_PAD.decode(payload).map_err(|_| wrong("Jwt payload is an invalid Base64url encoded"))?;
        let payload: Map<String, Value> =
            serde_json::from_slice(&payload_text).map_err(|_| wrong("Jwt payload is an invalid JSON"))?;
        if URL_SAFE_NO_PAD.decode(signature).is_err() {
            return Err(wrong("Jwt signature is an invalid Base64url encoded"));
        }
        let issuer = payload.get("iss").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (signed, signature) = (signed.to_owned(), signature.to_owned());
        Ok(Self { issuer, key_id, payload, payload_text, algorithm, signed, signature })
    }

    /// `now` in Unix seconds.
    pub(super) fn check_time(&self, now: u64) -> Result<(), TokenError> {
        let now = now as f64;
        let leeway = LEEWAY as f64;
        if self.seconds("nbf")?.is_some_and(|not_before| now + leeway < not_before) {
            return Err(TokenError::new("Jwt not yet valid"));
        }
        if self.seconds("exp")?.is_some_and(|expires| now > expires + leeway) {
            return Err(TokenError::new("Jwt is expired"));
        }
        Ok(())
    }

    fn seconds(&self, name: &str) -> Result<Option<f64>, TokenError> {
        let wrong = || TokenError::new(format!("Jwt payload [{name}] field is not an integer or overflow"));
        self.payload.get(name).map(|value| value.as_f64().ok_or_else(wrong)).transpose()
    }

    pub(super) fn check_audience(&self, allowed: &[String]) -> Result<(), TokenError> {
        let named = match self.payload.get("aud") {
            Some(Value::String(audience)) => vec![audience.as_str()],
            Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let fits = |audience: &&str| allowed.iter().any(|allowed| bare(allowed) == bare(audience));
        if allowed.is_empty() || named.iter().any(fits) { Ok(()) } else { Err(TokenError::audience()) }
    }

    pub(super) fn check_signature(&self, keys: &KeySet) -> Result<(), TokenError> {
        let candidates: Vec<_> = keys.candidates(self.key_id.as_deref(), self.algorithm).collect();
        if candidates.is_empty() {
            return Err(TokenError::new("Jwks doesn't have key to match kid or alg from Jwt"));
        }
        let message = self.signed.as_bytes();
        let verified = candidates
            .into_iter()
            .any(|key| jsonwebtoken::crypto::verify(&self.signature, message, key, self.algorithm).unwrap_or(false));
        if verified { Ok(()) } else { Err(TokenError::new("Jwt verification fails")) }
    }
}

/// Envoy compares audiences without their scheme and the slash at their end.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}
