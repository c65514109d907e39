use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::{HOUR, TestCa, domain, id};
use crate::{KeyRequest, PeerUsage, TrustBundles, validate_chain, verify_proof, verify_signed};

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn the_cas_files_are_its_owners_only() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data").join("ca");
    ClusterCa::create(&directory, &domain("east.demo")).unwrap();
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&directory.join("ca.key")), 0o600);
    assert_eq!(mode(&directory.join("ca.crt")), 0o600);
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 2, "a temporary file was left");
}

#[test]
fn a_ca_is_never_overwritten_and_loads_as_it_was() {
    let test = TestCa::new("east.demo");
    let directory = test.directory.path();
    assert!(matches!(ClusterCa::create(directory, &domain("east.demo")), Err(CaError::Exists(_))));
    let loaded = ClusterCa::load_or_create(directory, &domain("east.demo")).unwrap();
    assert_eq!(loaded.root_der(), test.ca.root_der());
    assert_eq!(loaded.trust_domain(), &domain("east.demo"));
    let other = ClusterCa::load_or_create(directory, &domain("west.demo"));
    assert!(matches!(other, Err(CaError::WrongTrustDomain { .. })));
}

#[test]
fn a_creation_that_was_interrupted_goes_on_with_the_key_that_is_there() {
    let test = TestCa::new("east.demo");
    let directory = test.directory.path();
    std::fs::remove_file(directory.join("ca.crt")).unwrap();
    let key = std::fs::read(directory.join("ca.key")).unwrap();
    ClusterCa::load_or_create(directory, &domain("east.demo")).unwrap();
    assert_eq!(std::fs::read(directory.join("ca.key")).unwrap(), key);
}

#[test]
fn a_key_of_another_ca_is_noticed() {
    let (one, two) = (TestCa::new("east.demo"), TestCa::new("east.demo"));
    std::fs::copy(two.directory.path().join("ca.key"), one.directory.path().join("ca.key")).unwrap();
    let loaded = ClusterCa::load(one.directory.path());
    assert!(matches!(loaded, Err(CaError::Invalid { file: "ca.key", .. })));
}

#[test]
fn a_request_for_other_names_gets_its_own_identity_only() {
    let test = TestCa::new("east.demo");
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["admin.example.org".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    params.subject_alt_names.push(uri("spiffe://east.demo/ns/isthmus-system/sa/agent").unwrap());
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let csr = params.serialize_request(&key).unwrap();
    let chain = test.ca.issue(csr.der(), &id(WEB), HOUR, SystemTime::now()).unwrap();
    let certificate = leaf::parse(&chain[0]).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!((names, leaf::uri_names(&certificate).unwrap()), (1, vec![WEB]));
    assert!(!certificate.is_ca() && certificate.subject().iter().next().is_none());
    let known = TrustBundles::from(test.bundle());
    assert!(validate_chain(&chain, &known, PeerUsage::Client, SystemTime::now()).is_ok());
}

#[test]
fn a_certificate_for_servers_proves_nothing_of_a_client() {
    let test = TestCa::new("east.demo");
    let request = KeyRequest::generate().unwrap();
    let chain = test.ca.issue_to_server(request.csr_der(), &id(WEB), HOUR, SystemTime::now()).unwrap();
    let known = TrustBundles::from(test.bundle());
    assert!(validate_chain(&chain, &known, PeerUsage::Server, SystemTime::now()).is_ok());
    let as_client = validate_chain(&chain, &known, PeerUsage::Client, SystemTime::now());
    assert!(matches!(as_client, Err(crate::PeerError::WrongUsage { .. })), "{as_client:?}");
}

#[test]
fn a_request_that_its_sender_did_not_sign_is_refused() {
    let test = TestCa::new("east.demo");
    let issue = |csr: &[u8]| test.ca.issue(csr, &id(WEB), HOUR, SystemTime::now());
    let mut csr = KeyRequest::generate().unwrap().csr_der().to_vec();
    assert!(issue(&csr).is_ok());
    let last = csr.len() - 1;
    csr[last] ^= 1;
    assert!(matches!(issue(&csr), Err(IssueError::BadRequestSignature)));
    assert!(matches!(issue(&csr[..20]), Err(IssueError::BadRequest)));
    let other_kind = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let csr = CertificateParams::default().serialize_request(&other_kind).unwrap();
    assert!(issue(csr.der()).is_err(), "a key of another kind");
}

#[test]
fn nobody_outside_of_the_trust_domain_is_named() {
    let test = TestCa::new("east.demo");
    let foreign = id("spiffe://west.demo/ns/default/sa/web");
    let csr = KeyRequest::generate().unwrap();
    let issued = test.ca.issue(csr.csr_der(), &foreign, HOUR, SystemTime::now());
    assert!(matches!(issued, Err(IssueError::ForeignTrustDomain { .. })));
    assert!(test.ca.issue_self(&foreign, HOUR, SystemTime::now()).is_err());
}

#[test]
fn a_certificate_outlives_neither_its_time_nor_its_root() {
    let test = TestCa::new("east.demo");
    let now = SystemTime::now();
    let svid = test.ca.issue_self(&id(WEB), HOUR, now).unwrap();
    let left = svid.not_after().duration_since(now).unwrap_or_default();
    assert!(left <= HOUR && left > HOUR - Duration::from_secs(2), "{left:?}");
    assert!(svid.not_before() <= now - NOT_BEFORE_ALLOWANCE);
    let long = test.ca.issue_self(&id(WEB), 2 * ROOT_LIFETIME, now).unwrap();
    assert_eq!(long.not_after(), test.ca.root_not_after);
    assert!(matches!(test.ca.issue_self(&id(WEB), HOUR, now + 2 * ROOT_LIFETIME), Err(IssueError::Validity)));
}

#[test]
fn an_issued_key_and_its_certificate_belong_together() {
    let test = TestCa::new("east.demo");
    let now = SystemTime::now();
    let (one, two) = (KeyRequest::generate().unwrap(), KeyRequest::generate().unwrap());
    let chain = test.ca.issue(one.csr_der(), &id(WEB), HOUR, now).unwrap();
    let chain = chain.iter().map(|der| der.to_vec()).collect::<Vec<_>>();
    assert!(matches!(two.complete(chain.clone()), Err(SvidError::KeyMismatch(_))));
    let svid = one.complete(chain).unwrap();
    let again = Svid::from_pem(&svid.chain_pem(), &svid.private_key_pem()).unwrap();
    assert_eq!((again.id(), again.chain()), (svid.id(), svid.chain()));
}

#[test]
fn nothing_that_is_printed_shows_a_key() {
    let test = TestCa::new("east.demo");
    let pem = std::fs::read_to_string(test.directory.path().join("ca.key")).unwrap();
    let svid = test.svid(WEB);
    let credentials = crate::Credentials::fixed(svid.clone(), TrustBundles::from(test.bundle()));
    let server = credentials.server_config(crate::PeerPolicy::AnyKnown, &[]).unwrap();
    let request = KeyRequest::generate().unwrap();
    let shown = format!("{:?} {svid:?} {request:?} {credentials:?} {server:?}", test.ca);
    let svid_pem = svid.private_key_pem();
    for secret in pem.lines().chain(svid_pem.lines()).filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(secret));
    }
    for key in [files::key_from_pem(&pem).unwrap(), files::key_from_pem(&svid_pem).unwrap()] {
        // The private scalar of a P-256 key in PKCS #8 lies behind the fixed header; both usual ways to print bytes.
        let scalar = &key.secret_der()[36..68];
        assert!(!shown.contains(&crypto::hex(scalar)));
        assert!(!shown.contains(format!("{scalar:?}").trim_matches(['[', ']'])));
    }
}

#[test]
fn a_signed_fact_is_believed_only_as_it_was_signed() {
    let test = TestCa::new("east.demo");
    let fact = test.ca.sign("export", b"reviews".to_vec()).unwrap();
    assert_eq!(verify_signed(&fact, &test.bundle()), Ok(()));
    let changed = |change: fn(&mut SignedParts)| {
        let mut fact = fact.clone();
        change(&mut fact);
        verify_signed(&fact, &test.bundle())
    };
    let unknown = Err(SignatureError::UnknownSigner(domain("east.demo")));
    assert_eq!(changed(|fact| fact.payload.push(b'!')), Err(SignatureError::Mismatch));
    assert_eq!(changed(|fact| fact.kind = "bundle".to_owned()), Err(SignatureError::Mismatch));
    assert_eq!(changed(|fact| fact.signature[10] ^= 1), Err(SignatureError::Mismatch));
    assert_eq!(changed(|fact| fact.signer[0] ^= 1), unknown);
    assert_eq!(changed(|fact| fact.signer.clear()), unknown);
    assert_eq!(changed(|fact| fact.kind = "export\0re".to_owned()), Err(SignatureError::Kind));
    assert_eq!(verify_signed(&fact, &TestCa::new("east.demo").bundle()), unknown);
    assert!(test.ca.sign("a\0b", Vec::new()).is_err());
}

#[test]
fn possession_of_the_key_is_proven_and_the_proof_is_good_for_nothing_else() {
    let test = TestCa::new("east.demo");
    let message = b"isthmus-join/1\0token\0request";
    let proof = test.ca.prove(message).unwrap();
    assert_eq!(verify_proof(test.ca.root_der(), message, &proof), Ok(()));
    assert_eq!(verify_proof(test.ca.root_der(), b"another", &proof), Err(SignatureError::Mismatch));
    let other = TestCa::new("east.demo");
    assert_eq!(verify_proof(other.ca.root_der(), message, &proof), Err(SignatureError::Mismatch));
    assert!(test.ca.prove(b"isthmus-signed/1\0bundle\0x").is_err());
    assert!(test.ca.prove(&[0x30, 0x82, 1, 1]).is_err());
    assert!(test.ca.prove(b"").is_err());
}
