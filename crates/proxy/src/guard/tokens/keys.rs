//! The keys of token issuers: read once, fetched and kept.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use mesh::KeySource;
use serde_json::Value;
use tokio::time::Instant;

/// Fetches a document within a time; the error is for people.
pub(in crate::guard) type Fetch =
    Arc<dyn Fn(String, Duration) -> Pin<Box<dyn Future<Output = Result<Bytes, String>> + Send>> + Send + Sync>;

/// The signature algorithms that are accepted: no `none`, and no shared secrets.
pub(super) fn algorithm(name: &str) -> Option<Algorithm> {
    Some(match name {
        "RS256" => Algorithm::RS256,
        "RS384" => Algorithm::RS384,
        "RS512" => Algorithm::RS512,
        "PS256" => Algorithm::PS256,
        "PS384" => Algorithm::PS384,
        "PS512" => Algorithm::PS512,
        "ES256" => Algorithm::ES256,
        "ES384" => Algorithm::ES384,
        "EdDSA" => Algorithm::EdDSA,
        _ => return None,
    })
}

/// A JSON Web Key Set (RFC 7517), the keys of it that can verify.
pub(super) struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The only algorithm that the key is for, if it says so.
    algorithm: Option<String>,
    family: Family,
    key: DecodingKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Family {
    fn of(algorithm: Algorithm) -> Option<Self> {
        use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
        match algorithm {
            RS256 | RS384 | RS512 | PS256 | PS384 | PS512 => Some(Self::Rsa),
            ES256 => Some(Self::P256),
            ES384 => Some(Self::P384),
            EdDSA => Some(Self::Ed25519),
            _ => None,
        }
    }
}

impl KeySet {
    /// Reads a key set; keys of other kinds are left out.
    pub(super) fn parse(document: &[u8]) -> Result<Self, String> {
        let set: Value = serde_json::from_slice(document).map_err(|_| "Jwks is an invalid JSON")?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or("Jwks does not have [keys] field")?;
        let keys: Vec<Key> = keys.iter().filter_map(Key::read).take(KEYS_MAX).collect();
        if keys.is_empty() { Err("Jwks doesn't have any valid public key".into()) } else { Ok(Self(keys)) }
    }

    /// The keys that may have signed.
    pub(super) fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> impl Iterator<Item = &DecodingKey> {
        let name = format!("{algorithm:?}");
        let fits = move |key: &&Key| {
            id.is_none_or(|id| key.id.as_deref().is_none_or(|own| own == id))
                && key.algorithm.as_ref().is_none_or(|own| *own == name)
                && Family::of(algorithm) == Some(key.family)
        };
        self.0.iter().filter(fits).map(|key| &key.key)
    }

    /// Whether a key of this id may be among them.
    fn may_have(&self, id: Option<&str>) -> bool {
        id.is_none_or(|id| self.0.iter().any(|key| key.id.as_deref().is_none_or(|own| own == id)))
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let family = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Family::Rsa,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Family::P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => Family::P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => Family::Ed25519,
            _ => return None,
        };
        let text = |name: &str| value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id: text("kid").map(Into::into), algorithm: text("alg").map(Into::into), family, key })
    }
}

/// The key sets that rules name. Both kinds are bounded; configurations name far fewer.
pub(in crate::guard) struct KeyStore {
    fetch: Fetch,
    inline: Mutex<BTreeMap<String, Arc<KeySet>>>,
    remote: Mutex<BTreeMap<KeySource, Arc<Remote>>>,
}

/// No more keys of a set are kept: a token without a key id is tried with all of them.
const KEYS_MAX: usize = 100;
/// No more key sets are kept than this; beyond, all are read again.
const SETS_MAX: usize = 256;
/// Keys are fetched again at this age, as in Istio.
const REFRESH: Duration = Duration::from_secs(20 * 60);
/// After an attempt the next one waits so long, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(5);
/// After a failure with no keys at all so long.
const FAILED_PAUSE: Duration = Duration::from_secs(1);

impl KeyStore {
    pub(in crate::guard) fn new(fetch: Fetch) -> Self {
        Self { fetch, inline: Mutex::default(), remote: Mutex::default() }
    }

    /// The keys of a source, among them one of this id if it has one. The error is what a client reads.
    pub(super) async fn keys(
        &self,
        source: &KeySource,
        id: Option<&str>,
        timeout: Duration,
    ) -> Result<Arc<KeySet>, String> {
        match source {
            KeySource::Inline(document) => self.read(document),
            KeySource::Uri(_) | KeySource::Issuer(_) => {
                let remote = {
                    let mut all = lock(&self.remote);
                    if all.len() >= SETS_MAX && !all.contains_key(source) {
                        all.clear();
                    }
                    all.entry(source.clone()).or_insert_with(|| Arc::new(Remote::new(source, &self.fetch))).clone()
                };
                remote.keys(id, timeout).await
            }
        }
    }

    fn read(&self, document: &str) -> Result<Arc<KeySet>, String> {
        if let Some(known) = lock(&self.inline).get(document) {
            return Ok(known.clone());
        }
        let keys = Arc::new(KeySet::parse(document.as_bytes())?);
        let mut all = lock(&self.inline);
        if all.len() >= SETS_MAX {
            all.clear();
        }
        all.insert(document.to_owned(), keys.clone());
        Ok(keys)
    }
}

/// One key set that is fetched.
struct Remote {
    source: KeySource,
    fetch: Fetch,
    state: Mutex<State>,
    /// Whoever holds it fetches; the others wait for what comes of it.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Default, Clone)]
struct State {
    /// The last good ones; a failure never takes them away.
    keys: Option<Arc<KeySet>>,
    fetched: Option<Instant>,
    tried: Option<Instant>,
}

impl Remote {
    fn new(source: &KeySource, fetch: &Fetch) -> Self {
        Self {
            source: source.clone(),
            fetch: fetch.clone(),
            state: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    async fn keys(self: &Arc<Self>, id: Option<&str>, timeout: Duration) -> Result<Arc<KeySet>, String> {
        let now = Instant::now();
        let state = lock(&self.state).clone();
        let pause = if state.keys.is_some() { PAUSE } else { FAILED_PAUSE };
        let may_try = state.tried.is_none_or(|tried| now.duration_since(tried) >= pause);
        if let Some(keys) = state.keys.filter(|keys| keys.may_have(id)) {
            if may_try && state.fetched.is_none_or(|fetched| now.duration_since(fetched) >= REFRESH) {
                let remote = self.clone();
                tokio::spawn(async move { remote.refresh(now, timeout).await });
            }
            return Ok(keys);
        }
        // While somebody fetches, `tried` is old: those who come meanwhile wait for that attempt.
        if may_try {
            self.refresh(now, timeout).await;
        }
        lock(&self.state).keys.clone().ok_or_else(|| "Jwks remote fetch is failed".to_owned())
    }

    /// Fetches, unless somebody else did since `asked`.
    async fn refresh(&self, asked: Instant, timeout: Duration) {
        let _turn = self.turn.lock().await;
        if lock(&self.state).tried.is_some_and(|tried| tried >= asked) {
            return;
        }
        let keys = self.fetch_keys(timeout).await;
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.tried = Some(now);
        match keys {
            Ok(keys) => {
                state.keys = Some(Arc::new(keys));
                state.fetched = Some(now);
            }
            Err(error) => {
                tracing::warn!(source = ?self.source, error, kept = state.keys.is_some(), "no keys of an issuer");
            }
        }
    }

    /// `timeout` is of each document.
    async fn fetch_keys(&self, timeout: Duration) -> Result<KeySet, String> {
        let url = match &self.source {
            KeySource::Inline(document) => return KeySet::parse(document.as_bytes()),
            KeySource::Uri(url) => url.clone(),
            KeySource::Issuer(issuer) => {
                let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
                keys_url(&(self.fetch)(url, timeout).await?, issuer)?
            }
        };
        KeySet::parse(&(self.fetch)(url, timeout).await?)
    }
}

/// What an issuer's configuration says of its keys. It must be that issuer's (OpenID Connect Discovery 1.0 §4.3).
fn keys_url(document: &[u8], issuer: &str) -> Result<String, String> {
    let configuration: Value =
        serde_json::from_slice(document).map_err(|_| "the issuer's openid-configuration is no JSON")?;
    let text = |name: &str| configuration.get(name).and_then(Value::as_str);
    let own = text("issuer").ok_or("the issuer's openid-configuration has no issuer")?;
    if own.trim_end_matches('/') != issuer.trim_end_matches('/') {
        return Err(format!("the openid-configuration is of the issuer {own:?}"));
    }
    text("jwks_uri").map(str::to_owned).ok_or_else(|| "the issuer's openid-configuration has no jwks_uri".to_owned())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
