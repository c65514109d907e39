//! Handshakes between [`Originator`] and [`ServerConfigs`] over real sockets, with certificates made here.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{Credentials, TrustBundles};
use mesh::{OriginateTls, Secret, ServerTls, ServerTlsMode, TlsMaterial, TlsVersion, View};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256, SanType};
use rustls::ProtocolVersion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{Originator, ServerConfigs, read_hello};
use crate::detect::Rewind;

/// An authority that is not the mesh's.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A Secret with a certificate for these names and the roots of this authority.
    fn secret(&self, name: &str, names: &[&str]) -> Secret {
        self.secret_of(name, names, KeyPair::generate().unwrap())
    }

    fn secret_of(&self, name: &str, names: &[&str], key: KeyPair) -> Secret {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let uri = |name: &&str| match name.contains("://") {
            true => SanType::URI((*name).try_into().unwrap()),
            false => SanType::DnsName((*name).try_into().unwrap()),
        };
        params.subject_alt_names = names.iter().map(uri).collect();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Secret {
            name: name.to_owned(),
            certificate: certificate.pem().into_bytes(),
            private_key: key.serialize_pem().into_bytes(),
            ca: self.0.pem().into_bytes(),
            crl: Vec::new(),
        }
    }
}

fn view(secrets: impl IntoIterator<Item = Secret>) -> View {
    let secrets: BTreeMap<_, _> = secrets.into_iter().map(|secret| (secret.name.clone(), Arc::new(secret))).collect();
    View { secrets, ..View::default() }
}

fn server(mode: ServerTlsMode, credentials: &[&str]) -> ServerTls {
    ServerTls {
        mode,
        certificates: credentials.iter().map(|name| TlsMaterial::Secret((*name).to_owned())).collect(),
        client_ca: None,
        subject_alt_names: Vec::new(),
        certificate_hashes: Vec::new(),
        spki_hashes: Vec::new(),
        min_version: None,
        max_version: None,
        cipher_suites: Vec::new(),
    }
}

fn client(secret: &str, mutual: bool) -> OriginateTls {
    OriginateTls { mutual, material: TlsMaterial::Secret(secret.to_owned()), ..OriginateTls::default() }
}

fn configs() -> ServerConfigs {
    ServerConfigs::new(Credentials::anonymous(TrustBundles::default()))
}

/// What a handshake came to, as the client sees it.
#[derive(Debug)]
struct Shaken {
    version: Option<ProtocolVersion>,
    suite: String,
    alpn: Option<Vec<u8>>,
    certificate: Vec<u8>,
    /// Whether the server saw a certificate of the client.
    proven: bool,
}

/// The narrow door: one server, one client, one handshake and a byte each way.
async fn shake(
    configs: &ServerConfigs,
    (tls, server_view): (&ServerTls, &View),
    (originate, client_view, host): (&OriginateTls, &View, &str),
) -> Result<Shaken, String> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    let config = configs.select(tls, server_view, alpn).map_err(|error| error.to_string())?;
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| error.to_string())?;
        let byte = stream.read_u8().await.map_err(|error| error.to_string())?;
        stream.write_u8(byte).await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream.get_ref().1.peer_certificates().is_some())
    };
    let dial = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let connected = Originator::new().connect(stream, originate, host, client_view, alpn).await;
        let mut stream = connected.map_err(|fault| fault.to_string())?;
        stream.write_u8(7).await.map_err(|error| error.to_string())?;
        stream.read_u8().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(stream)
    };
    let (served, dialled) = tokio::join!(serve, dial);
    let stream = dialled?;
    let session = stream.get_ref().1;
    Ok(Shaken {
        version: session.protocol_version(),
        suite: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or("").to_owned(),
        alpn: session.alpn_protocol().map(<[u8]>::to_vec),
        certificate: session.peer_certificates().unwrap()[0].to_vec(),
        proven: served?,
    })
}

#[tokio::test]
async fn a_server_is_believed_by_its_chain_and_its_name() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let served = view([
        ca.secret("ns/plain", &["shop.example.com"]),
        ca.secret("ns/wild", &["*.example.com"]),
        ca.secret("ns/uri", &["spiffe://mesh/ns/shop"]),
    ]);
    let known = view([ca.secret("ns/roots", &["client"]), other.secret("ns/others", &["client"])]);
    let sans = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let cases: [(&str, &str, OriginateTls, &str, bool); 10] = [
        ("the right name", "ns/plain", client("ns/roots", false), "shop.example.com", true),
        ("another name", "ns/plain", client("ns/roots", false), "else.example.com", false),
        ("a wildcard", "ns/wild", client("ns/roots", false), "a.example.com", true),
        ("a wildcard for two labels", "ns/wild", client("ns/roots", false), "a.b.example.com", false),
        ("other roots", "ns/plain", client("ns/others", false), "shop.example.com", false),
        ("the system's roots", "ns/plain", OriginateTls::default(), "shop.example.com", false),
        (
            "no verification",
            "ns/plain",
            OriginateTls { insecure_skip_verify: true, ..client("ns/others", false) },
            "else.example.com",
            true,
        ),
        (
            "a URI of the list",
            "ns/uri",
            OriginateTls { subject_alt_names: sans(&["x", "spiffe://mesh/ns/shop"]), ..client("ns/roots", false) },
            "10.0.0.1",
            true,
        ),
        (
            "none of the list",
            "ns/plain",
            OriginateTls { subject_alt_names: sans(&["spiffe://mesh/ns/shop"]), ..client("ns/roots", false) },
            "shop.example.com",
            false,
        ),
        (
            "the name of the settings",
            "ns/plain",
            OriginateTls { sni: Some("shop.example.com".to_owned()), ..client("ns/roots", false) },
            "10.0.0.1",
            true,
        ),
    ];
    for (case, secret, originate, host, expected) in cases {
        let tls = server(ServerTlsMode::Simple, &[secret]);
        let shaken = shake(&configs(), (&tls, &served), (&originate, &known, host)).await;
        assert_eq!(shaken.is_ok(), expected, "{case}: {shaken:?}");
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_believed_when_it_is_the_root() {
    let ca = Ca::new("self");
    let mut params = CertificateParams::new(vec!["self.example.com".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem().into_bytes();
    let own = Secret {
        name: "ns/self".to_owned(),
        certificate: pem.clone(),
        private_key: key.serialize_pem().into_bytes(),
        ca: pem,
        crl: Vec::new(),
    };
    let view = view([own, ca.secret("ns/other", &["x"])]);
    let tls = server(ServerTlsMode::Simple, &["ns/self"]);
    for (roots, host, expected) in
        [("ns/self", "self.example.com", true), ("ns/self", "else", false), ("ns/other", "self.example.com", false)]
    {
        let shaken = shake(&configs(), (&tls, &view), (&client(roots, false), &view, host)).await;
        assert_eq!(shaken.is_ok(), expected, "{roots} {host}: {shaken:?}");
    }
}

#[tokio::test]
async fn a_client_may_show_the_root_itself() {
    let ca = Ca::new("ca");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let own = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Secret {
            name: name.to_owned(),
            certificate: pem,
            private_key: key.serialize_pem().into_bytes(),
            ..ca.secret("", &[])
        }
    };
    let (known, stranger) = (own("ns/known"), own("ns/stranger"));
    let server_secret = Secret { ca: known.certificate.clone(), ..ca.secret("ns/server", &["shop"]) };
    let view = view([server_secret, known, stranger]);
    let tls = server(ServerTlsMode::Mutual, &["ns/server"]);
    for (name, expected) in [("ns/known", true), ("ns/stranger", false)] {
        let shaken = shake(&configs(), (&tls, &view), (&client(name, true), &view, "shop")).await;
        assert_eq!(shaken.is_ok_and(|shaken| shaken.proven), expected, "{name}");
    }
}

#[tokio::test]
async fn clients_prove_themselves_as_the_mode_says() {
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let good = ca.secret("ns/client", &["spiffe://partner/ns/a", "client.example.com"]);
    let der = rustls::pki_types::CertificateDer::from(pem_der(&good.certificate));
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let hash: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut bad = other.secret("ns/stranger", &["spiffe://partner/ns/a"]);
    bad.ca = ca.0.pem().into_bytes();
    let view = view([ca.secret("ns/server", &["shop"]), good, bad]);
    let tls = |mode, names: &[&str], hashes: &[&str]| ServerTls {
        subject_alt_names: names.iter().map(|name| (*name).to_owned()).collect(),
        certificate_hashes: hashes.iter().map(|hash| (*hash).to_owned()).collect(),
        ..server(mode, &["ns/server"])
    };
    use ServerTlsMode::{Mutual, OptionalMutual, Simple};
    let cases: [(&str, ServerTls, OriginateTls, Option<bool>); 11] = [
        ("simple asks for none", tls(Simple, &[], &[]), client("ns/client", true), Some(false)),
        ("mutual", tls(Mutual, &[], &[]), client("ns/client", true), Some(true)),
        ("mutual without one", tls(Mutual, &[], &[]), client("ns/client", false), None),
        ("mutual of another authority", tls(Mutual, &[], &[]), client("ns/stranger", true), None),
        ("optional without one", tls(OptionalMutual, &[], &[]), client("ns/client", false), Some(false)),
        ("optional with one", tls(OptionalMutual, &[], &[]), client("ns/client", true), Some(true)),
        ("optional with a bad one", tls(OptionalMutual, &[], &[]), client("ns/stranger", true), None),
        ("a name of the list", tls(Mutual, &["client.example.com"], &[]), client("ns/client", true), Some(true)),
        ("no name of the list", tls(Mutual, &["else.example.com"], &[]), client("ns/client", true), None),
        ("pinned", tls(Mutual, &[], &[&hash]), client("ns/client", true), Some(true)),
        ("another one pinned", tls(Mutual, &[], &["00"]), client("ns/client", true), None),
    ];
    for (case, tls, originate, expected) in cases {
        let shaken = shake(&configs(), (&tls, &view), (&originate, &view, "shop")).await;
        assert_eq!(shaken.as_ref().ok().map(|shaken| shaken.proven), expected, "{case}: {shaken:?}");
    }
}

fn pem_der(pem: &[u8]) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    rustls::pki_types::CertificateDer::from_pem_slice(pem).unwrap().to_vec()
}

#[tokio::test]
async fn versions_and_suites_are_limited() {
    let ca = Ca::new("ca");
    let view = view([ca.secret("ns/server", &["shop"])]);
    let base = || server(ServerTlsMode::Simple, &["ns/server"]);
    let suites = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let old = ServerTls { max_version: Some(TlsVersion::V12), ..base() };
    let cases = [
        ("newest", base(), Ok((ProtocolVersion::TLSv1_3, ""))),
        ("at most 1.2", old.clone(), Ok((ProtocolVersion::TLSv1_2, ""))),
        (
            "one suite by OpenSSL's name",
            ServerTls { cipher_suites: suites(&["ECDHE-ECDSA-AES128-GCM-SHA256"]), ..old.clone() },
            Ok((ProtocolVersion::TLSv1_2, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")),
        ),
        (
            "one suite by IANA's name",
            ServerTls { cipher_suites: suites(&["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"]), ..old.clone() },
            Ok((ProtocolVersion::TLSv1_2, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")),
        ),
        ("no suite that exists", ServerTls { cipher_suites: suites(&["RC4-MD5"]), ..old.clone() }, Err("RC4-MD5")),
        (
            "only suites for another key",
            ServerTls { cipher_suites: suites(&["ECDHE-RSA-AES128-GCM-SHA256"]), ..old },
            Err("TLS with shop"),
        ),
    ];
    for (case, tls, expected) in cases {
        let shaken = shake(&configs(), (&tls, &view), (&client("ns/server", false), &view, "shop")).await;
        match (shaken, expected) {
            (Ok(shaken), Ok((version, suite))) => {
                assert_eq!(shaken.version, Some(version), "{case}");
                assert!(suite.is_empty() || suite == shaken.suite, "{case}: {}", shaken.suite);
                assert_eq!(shaken.alpn.as_deref(), Some(&b"h2"[..]), "{case}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{case}: {error}"),
            (shaken, expected) => panic!("{case}: {shaken:?}, expected {expected:?}"),
        }
    }
}

#[tokio::test]
async fn a_renewed_secret_is_used_by_the_next_handshake() {
    let ca = Ca::new("ca");
    let (first, second) = (ca.secret("ns/server", &["shop"]), ca.secret("ns/server", &["shop"]));
    let (old, new) = (pem_der(&first.certificate), pem_der(&second.certificate));
    let (tls, configs, originate) =
        (server(ServerTlsMode::Simple, &["ns/server"]), configs(), client("ns/server", false));
    let (before, after) = (view([first]), view([second]));
    for (view, expected) in [(&before, &old), (&after, &new), (&before, &old)] {
        let shaken = shake(&configs, (&tls, view), (&originate, view, "shop")).await.unwrap();
        assert_eq!(shaken.certificate, *expected);
    }
    let kept = configs.select(&tls, &after, &[]).unwrap();
    assert!(Arc::ptr_eq(&kept, &configs.select(&tls, &after, &[]).unwrap()), "what did not change is kept");
}

#[tokio::test]
async fn files_are_read_again_when_they_change() {
    let ca = Ca::new("ca");
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let tls = ServerTls {
        certificates: vec![TlsMaterial::Files {
            certificate: Some(path("tls.crt")),
            private_key: Some(path("tls.key")),
            ca: None,
            crl: None,
        }],
        ..server(ServerTlsMode::Simple, &[])
    };
    let (configs, view) = (configs(), view([ca.secret("ns/roots", &["x"])]));
    let error = configs.select(&tls, &view, &[]).unwrap_err();
    assert_eq!(error.whose, path("tls.crt"));
    for _ in 0..2 {
        let secret = ca.secret("x", &["shop"]);
        std::fs::write(path("new"), &secret.private_key).unwrap();
        std::fs::rename(path("new"), path("tls.key")).unwrap();
        std::fs::write(path("new"), &secret.certificate).unwrap();
        std::fs::rename(path("new"), path("tls.crt")).unwrap();
        let shaken = shake(&configs, (&tls, &view), (&client("ns/roots", false), &view, "shop")).await.unwrap();
        assert_eq!(shaken.certificate, pem_der(&secret.certificate));
    }
}

#[test]
fn broken_material_is_named() {
    let ca = Ca::new("ca");
    let good = ca.secret("ns/good", &["shop"]);
    let view = view([
        Secret { name: "ns/empty".to_owned(), ..Secret::default() },
        Secret { name: "ns/mixed".to_owned(), private_key: ca.secret("x", &["y"]).private_key, ..good.clone() },
        Secret { name: "ns/no-roots".to_owned(), ca: Vec::new(), ..good },
    ]);
    let cases = [
        ("ns/missing", ServerTlsMode::Simple, "not there"),
        ("ns/empty", ServerTlsMode::Simple, "tls.crt"),
        ("ns/mixed", ServerTlsMode::Simple, "does not belong"),
        ("ns/no-roots", ServerTlsMode::Mutual, "ca.crt"),
    ];
    for (secret, mode, why) in cases {
        let error = configs().select(&server(mode, &[secret]), &view, &[]).unwrap_err();
        assert_eq!(error.whose, format!("secret {secret}"));
        assert!(error.why.contains(why), "{secret}: {error}");
    }
}

#[tokio::test]
async fn a_client_gets_the_certificate_that_it_can_use() {
    let ca = Ca::new("ca");
    let rsa = ca.secret_of("ns/rsa", &["shop"], KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap());
    let (rsa_der, view) = (pem_der(&rsa.certificate), view([rsa, ca.secret("ns/ecdsa", &["shop"])]));
    let both = server(ServerTlsMode::Simple, &["ns/rsa", "ns/ecdsa"]);
    let shaken = shake(&configs(), (&both, &view), (&client("ns/rsa", false), &view, "shop")).await.unwrap();
    assert_ne!(shaken.certificate, rsa_der, "ECDSA is preferred");
    let limited = ServerTls {
        max_version: Some(TlsVersion::V12),
        cipher_suites: vec!["ECDHE-RSA-AES128-GCM-SHA256".to_owned()],
        ..server(ServerTlsMode::Simple, &["ns/rsa"])
    };
    let shaken = shake(&configs(), (&limited, &view), (&client("ns/rsa", false), &view, "shop")).await.unwrap();
    assert_eq!(shaken.certificate, rsa_der);
}

#[tokio::test]
async fn a_hello_is_read_and_given_back() {
    let ca = Ca::new("ca");
    let view = view([ca.secret("ns/server", &["shop.example.com"])]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let hello = read_hello(&mut stream).await.unwrap();
        let tls = server(ServerTlsMode::Simple, &["ns/server"]);
        let config = configs().select(&tls, &view, &[b"http/1.1"]).unwrap();
        TlsAcceptor::from(config).accept(Rewind::new(hello.first.clone(), stream)).await.unwrap();
        hello
    };
    let dial = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let originate = client("ns/server", false);
        Originator::new().connect(stream, &originate, "Shop.example.com", &view, &[b"http/1.1"]).await.unwrap()
    };
    let (hello, _stream) = tokio::join!(serve, dial);
    assert_eq!(hello.sni.as_deref(), Some("shop.example.com"));
    assert_eq!(hello.alpn, [b"http/1.1".to_vec()]);
    let mut garbage: &[u8] = b"GET / HTTP/1.1\r\n\r\n";
    assert!(read_hello(&mut garbage).await.is_err());
}
