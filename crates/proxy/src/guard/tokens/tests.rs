use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use mesh::{KeySource, ObjectRef, Origin, TokenHeader};
use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

/// A key that an issuer signs with.
enum Signer {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Signer {
    fn p256() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self::P256(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap())
    }

    fn ed25519() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Self::Ed25519(Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap())
    }

    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y})
            }
            Self::Ed25519(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": URL_SAFE_NO_PAD.encode(key.public_key().as_ref())})
            }
        }
    }

    fn token(&self, id: &str, payload: &Value) -> String {
        let name = if matches!(self, Self::P256(_)) { "ES256" } else { "EdDSA" };
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&json!({"alg": name, "kid": id})), encode(payload));
        let signature = match self {
            Self::P256(key) => key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn rule(issuer: &str, keys: KeySource) -> TokenRule {
    let object = ObjectRef { kind: "RequestAuthentication".into(), namespace: "default".into(), name: "x".into() };
    TokenRule {
        origin: Origin { object: Arc::new(object), path: "spec.jwtRules[0]".into(), name: None },
        issuer: issuer.into(),
        audiences: Vec::new(),
        keys,
        from_headers: Vec::new(),
        from_params: Vec::new(),
        from_cookies: Vec::new(),
        forward: false,
        payload_to_header: None,
        claims_to_headers: Vec::new(),
        timeout: Duration::from_secs(5),
        space_delimited_claims: Vec::new(),
    }
}

fn inline(keys: &[Value]) -> KeySource {
    KeySource::Inline(json!({ "keys": keys }).to_string())
}

fn nothing() -> KeyStore {
    KeyStore::new(Arc::new(|_, _| Box::pin(async { Err("no network".into()) })))
}

fn bearer(token: &str) -> Request<()> {
    Request::get("/").header("authorization", format!("Bearer {token}")).body(()).unwrap()
}

async fn check(rules: Vec<TokenRule>, request: &mut Request<()>) -> Result<Option<Claims>, TokenError> {
    let rules: Vec<_> = rules.into_iter().map(Arc::new).collect();
    authenticate(&nothing(), &rules, request, NOW).await.map(|accepted| accepted.map(|accepted| accepted.claims))
}

#[tokio::test]
async fn a_token_is_valid_or_the_client_reads_why_not() {
    let (key, other) = (Signer::p256(), Signer::ed25519());
    let keys = inline(&[key.jwk("one"), other.jwk("two")]);
    let api = || TokenRule { audiences: vec!["api".into()], ..rule("iss", keys.clone()) };
    let token = |payload: Value| key.token("one", &payload);
    let ok = token(json!({"iss": "iss", "sub": "s", "aud": ["x", "https://api/"], "exp": NOW}));
    let swapped = format!("{}.{}", ok.rsplit_once('.').unwrap().0, token(json!({})).rsplit_once('.').unwrap().1);
    let none =
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(r#"{"iss":"iss"}"#));
    let secret =
        none.replacen(&URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), &URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#), 1);
    let cases = [
        ("valid", ok, ""),
        ("another algorithm", other.token("two", &json!({"iss": "iss", "aud": "api"})), ""),
        ("within the leeway", token(json!({"iss": "iss", "aud": "api", "exp": NOW - 60, "nbf": NOW + 60})), ""),
        ("expired", token(json!({"iss": "iss", "aud": "api", "exp": NOW - 61})), "Jwt is expired"),
        ("too early", token(json!({"iss": "iss", "aud": "api", "nbf": NOW + 61})), "Jwt not yet valid"),
        ("another issuer", token(json!({"iss": "evil", "aud": "api"})), "Jwt issuer is not configured"),
        ("no issuer", token(json!({"aud": "api"})), "Jwt issuer is not configured"),
        ("another audience", token(json!({"iss": "iss", "aud": "web"})), "Audiences in Jwt are not allowed"),
        ("no audience", token(json!({"iss": "iss"})), "Audiences in Jwt are not allowed"),
        ("another signature", swapped, "Jwt verification fails"),
        ("another key", Signer::p256().token("one", &json!({"iss": "iss", "aud": "api"})), "Jwt verification fails"),
        (
            "an unknown key",
            key.token("three", &json!({"iss": "iss", "aud": "api"})),
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            "a key of another kind",
            key.token("two", &json!({"iss": "iss", "aud": "api"})),
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        ("no signature", none, "Jwt header [alg] is not supported"),
        ("a shared secret", secret, "Jwt header [alg] is not supported"),
        ("no token", "abc".into(), "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"),
        ("not encoded", "a.b.c".into(), "Jwt header is an invalid Base64url encoded"),
    ];
    for (name, token, expected) in cases {
        let error = check(vec![api()], &mut bearer(&token)).await.err();
        let status = error.as_ref().map(|error| error.status.as_u16());
        assert_eq!(error.map(|error| error.text).unwrap_or_default(), expected, "{name}");
        let audience = expected.starts_with("Audiences");
        assert_eq!(status, (!expected.is_empty()).then_some(if audience { 403 } else { 401 }), "{name}");
    }
    assert_eq!(check(vec![api()], &mut Request::new(())).await, Ok(None), "no token is no error");
    let basic = &mut Request::get("/").header("authorization", "Basic abc").body(()).unwrap();
    assert_eq!(check(vec![api()], basic).await, Ok(None));
}

#[tokio::test]
async fn tokens_are_found_taken_out_and_handed_on() {
    let key = Signer::p256();
    let keys = inline(&[key.jwk("one")]);
    let payload = json!({"iss": "iss", "sub": "ann", "n": 7, "ok": true, "a": {"b": "c"}, "scope": "read write"});
    let token = key.token("one", &payload);
    let places = TokenRule {
        from_headers: vec![TokenHeader { name: "x-jwt".into(), prefix: "Token ".into() }],
        from_params: vec!["jwt".into()],
        from_cookies: vec!["session".into()],
        payload_to_header: Some("x-payload".into()),
        claims_to_headers: [("x-sub", "sub"), ("x-n", "n"), ("x-ok", "ok"), ("x-b", "a.b"), ("x-none", "none")]
            .map(|(header, claim)| (header.to_owned(), claim.to_owned()))
            .to_vec(),
        ..rule("iss", keys.clone())
    };
    let requests = [
        Request::get("/a?b=1").header("x-jwt", format!("Token {token}")),
        Request::get(format!("/a?jwt={token}&b=1")),
        Request::get("/a?b=1").header("cookie", format!("x=1; session={token}")),
    ];
    for request in requests {
        let mut request = request.header("x-sub", "forged").header("x-none", "forged").body(()).unwrap();
        let claims = check(vec![places.clone()], &mut request).await.unwrap().unwrap();
        assert_eq!(claims.texts(&["scope"]), ["read", "write"]);
        let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(
            [header("x-sub"), header("x-n"), header("x-ok"), header("x-b")],
            ["ann", "7", "true", "c"].map(|text| Some(text.into()))
        );
        assert_eq!((header("x-none"), header("x-jwt")), (None, None));
        assert_eq!(header("x-payload"), Some(URL_SAFE_NO_PAD.encode(payload.to_string())));
        assert_eq!(request.uri(), "/a?b=1");
        assert!(header("cookie").is_none_or(|cookie| cookie == "x=1"));
    }
    let mut forged = Request::get("/").header("x-sub", "forged").body(()).unwrap();
    assert_eq!(check(vec![places.clone()], &mut forged).await, Ok(None));
    assert!(!forged.headers().contains_key("x-sub"), "without a token nobody writes it either");
    let mut kept = bearer(&token);
    let forwarding = TokenRule { forward: true, ..rule("iss", keys) };
    assert!(check(vec![rule("other", inline(&[])), forwarding], &mut kept).await.is_ok());
    assert!(kept.headers().contains_key("authorization"));
}

/// A key server whose document can be replaced, and how often it was asked.
fn server() -> (KeyStore, tokio::sync::watch::Sender<Result<Value, String>>, Arc<AtomicU32>) {
    let (document, current) = tokio::sync::watch::channel(Err("down".to_owned()));
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let fetch: Fetch = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        let answer = current.borrow().clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            answer.map(|keys| Bytes::from(json!({ "keys": [keys] }).to_string()))
        })
    });
    (KeyStore::new(fetch), document, asked)
}

#[tokio::test(start_paused = true)]
async fn keys_are_fetched_kept_and_rotated() {
    let (store, document, asked) = server();
    let (old, new) = (Signer::p256(), Signer::p256());
    let rules = [Arc::new(rule("iss", KeySource::Uri("http://keys/".into())))];
    let payload = json!({"iss": "iss"});
    let (with_old, with_new) = (old.token("old", &payload), new.token("new", &payload));
    let check = async |token: &str| {
        let accepted = authenticate(&store, &rules, &mut bearer(token), NOW).await;
        accepted.err().map(|error| error.text).unwrap_or_default()
    };
    assert_eq!(check(&with_old).await, "Jwks remote fetch is failed", "before keys are known");
    let _ = document.send_replace(Ok(old.jwk("old")));
    assert_eq!(check(&with_old).await, "Jwks remote fetch is failed", "not asked again at once");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let together = tokio::join!(check(&with_old), check(&with_old), check(&with_old));
    assert_eq!((together, asked.load(Ordering::Relaxed)), ((String::new(), String::new(), String::new()), 2));
    let _ = document.send_replace(Ok(new.jwk("new")));
    assert_eq!(
        check(&with_new).await,
        "Jwks doesn't have key to match kid or alg from Jwt",
        "strangers cannot hurry us"
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((check(&with_new).await, asked.load(Ordering::Relaxed)), (String::new(), 3), "rotated");
    let _ = document.send_replace(Err("down".into()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(check(&with_new).await, "", "old keys are better than none");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((check(&with_new).await, asked.load(Ordering::Relaxed)), (String::new(), 4), "asked in the background");
}

#[tokio::test(start_paused = true)]
async fn an_issuer_says_where_its_keys_are() {
    let signer = Signer::p256();
    let key = signer.jwk("one");
    let fetch: Fetch = Arc::new(move |url, _| {
        let answer = match url.as_str() {
            "https://good/.well-known/openid-configuration" => {
                json!({"issuer": "https://good/", "jwks_uri": "https://keys/here"})
            }
            "https://other/.well-known/openid-configuration" => {
                json!({"issuer": "https://good", "jwks_uri": "https://keys/here"})
            }
            "https://empty/.well-known/openid-configuration" => json!({"issuer": "https://empty"}),
            "https://keys/here" => json!({"keys": [key]}),
            url => panic!("{url}"),
        };
        Box::pin(async move { Ok(Bytes::from(answer.to_string())) })
    });
    let store = KeyStore::new(fetch);
    for (issuer, good) in
        [("https://good", true), ("https://good/", true), ("https://other", false), ("https://empty", false)]
    {
        let rules = [Arc::new(rule(issuer, KeySource::Issuer(issuer.into())))];
        let token = signer.token("one", &json!({"iss": issuer}));
        let accepted = authenticate(&store, &rules, &mut bearer(&token), NOW).await;
        let error = accepted.err().map(|error| error.text);
        assert_eq!(error, (!good).then(|| "Jwks remote fetch is failed".to_owned()), "{issuer}");
    }
}

#[test]
fn what_brings_its_own_bytes_verifies_what_requests_verify() {
    let key = Signer::p256();
    let keys = json!({"keys": [key.jwk("one")]}).to_string();
    let token = key.token("one", &json!({"aud": "anybody", "exp": NOW}));
    let cases = [
        ("signed", token.as_str(), keys.as_str(), NOW, true),
        ("signed, too late", &token, &keys, NOW + 61, false),
        ("other bytes", &token[..token.len() - 4], &keys, NOW, false),
        ("no keys", &token, "{}", NOW, false),
        ("no token", "", &keys, NOW, false),
    ];
    for (name, token, keys, now, expected) in cases {
        assert_eq!(verifies(token, keys.as_bytes(), now), expected, "{name}");
    }
}
