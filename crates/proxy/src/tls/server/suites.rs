//! Cipher suites by the names that configurations use.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::{
    TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// The suites of TLS 1.2 that exist here, by OpenSSL's name; the IANA name is the library's.
const SUITES: [(&str, SupportedCipherSuite); 6] = [
    ("ECDHE-ECDSA-AES256-GCM-SHA384", TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256),
    ("ECDHE-RSA-AES256-GCM-SHA384", TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("ECDHE-RSA-AES128-GCM-SHA256", TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("ECDHE-RSA-CHACHA20-POLY1305", TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// The provider with only these suites of TLS 1.2, in their order; those of TLS 1.3 cannot be chosen, as in Istio.
pub(super) fn provider(names: &[String]) -> Result<CryptoProvider, String> {
    let mut provider = CryptoProvider::clone(&identity::provider());
    if names.is_empty() {
        return Ok(provider);
    }
    let chosen: Vec<_> = names.iter().filter_map(|name| suite(name)).collect();
    if chosen.is_empty() {
        return Err(format!("none of the cipher suites {} can be used", names.join(", ")));
    }
    let modern: &'static SupportedProtocolVersion = &rustls::version::TLS13;
    provider.cipher_suites.retain(|suite| suite.version().version == modern.version);
    provider.cipher_suites.extend(chosen);
    Ok(provider)
}

fn suite(name: &str) -> Option<SupportedCipherSuite> {
    let iana = |suite: &SupportedCipherSuite| suite.suite().as_str();
    SUITES.iter().find(|(openssl, suite)| *openssl == name || iana(suite) == Some(name)).map(|(_, suite)| *suite)
}
