use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::testing::{
    HOUR, HandmadeCa, TestCa, bundles, domain, handmade_bundle, handmade_intermediate, handmade_root, id, leaf_params,
    mint,
};

const WEB: &str = "spiffe://east.demo/ns/default/sa/web";

/// Checks a chain of one leaf, issued by the root of `east.demo`, as a server's at this moment.
fn check(params: &CertificateParams) -> Result<PeerIdentity, PeerError> {
    let root = handmade_root("east.demo");
    let (leaf, _) = mint(params, &root);
    check_chain(&[leaf], &root, PeerUsage::Server)
}

fn check_chain(
    chain: &[CertificateDer<'static>],
    root: &HandmadeCa,
    usage: PeerUsage,
) -> Result<PeerIdentity, PeerError> {
    let known = TrustBundles::from(handmade_bundle("east.demo", root));
    validate_chain(chain, &known, usage, SystemTime::now())
}

#[test]
fn a_proper_leaf_proves_its_identity_in_both_parts() {
    let ca = TestCa::new("east.demo");
    let svid = ca.svid(WEB);
    for usage in [PeerUsage::Client, PeerUsage::Server, PeerUsage::Any] {
        let peer = validate_chain(svid.chain(), &bundles([&ca]), usage, SystemTime::now()).unwrap();
        assert_eq!((peer.id, peer.not_after), (id(WEB), svid.not_after()));
        assert_eq!(peer.fingerprint, sha256(&svid.chain()[0]));
    }
}

#[test]
fn an_identity_signed_by_the_known_ca_of_another_trust_domain_is_refused() {
    let (east, west) = (TestCa::new("east.demo"), TestCa::new("west.demo"));
    let now = SystemTime::now();
    let forged = east.ca.issue_with_validity(&id("spiffe://west.demo/ns/default/sa/web"), now, now + HOUR).unwrap();
    let verdict = validate_chain(forged.chain(), &bundles([&east, &west]), PeerUsage::Server, now);
    assert_eq!(verdict, Err(PeerError::NotVouched { id: id("spiffe://west.demo/ns/default/sa/web") }));
}

#[test]
fn a_root_that_nobody_knows_is_refused_although_it_names_the_right_trust_domain() {
    let (known, stranger) = (TestCa::new("east.demo"), TestCa::new("east.demo"));
    let verdict = validate_chain(stranger.svid(WEB).chain(), &bundles([&known]), PeerUsage::Client, SystemTime::now());
    assert_eq!(verdict, Err(PeerError::NotVouched { id: id(WEB) }));
}

#[test]
fn a_trust_domain_that_nobody_knows_is_refused() {
    let (east, west) = (TestCa::new("east.demo"), TestCa::new("west.demo"));
    let verdict = validate_chain(east.svid(WEB).chain(), &bundles([&west]), PeerUsage::Client, SystemTime::now());
    assert_eq!(verdict, Err(PeerError::UnknownTrustDomain { id: id(WEB) }));
}

#[test]
fn exactly_one_uri_name_is_wanted() {
    assert_eq!(check(&leaf_params(&[])), Err(PeerError::UriNames { found: 0 }));
    let two = leaf_params(&[WEB, "spiffe://east.demo/ns/default/sa/admin"]);
    assert_eq!(check(&two), Err(PeerError::UriNames { found: 2 }));
    assert_eq!(check(&leaf_params(&[WEB, "https://example.org/"])), Err(PeerError::UriNames { found: 2 }));
}

#[test]
fn names_that_are_not_strictly_workload_identities_are_refused() {
    for name in [
        "spiffe://EAST.demo/ns/default/sa/web",
        "spiffe://east.demo/ns/default/sa/../sa/admin",
        "spiffe://east.demo",
        "https://east.demo/ns/default/sa/web",
    ] {
        assert!(matches!(check(&leaf_params(&[name])), Err(PeerError::Name(_))), "{name} was accepted");
    }
}

#[test]
fn no_certificate_too_many_and_garbage_are_refused() {
    let root = handmade_root("east.demo");
    assert_eq!(check_chain(&[], &root, PeerUsage::Client), Err(PeerError::NoCertificate));
    let (leaf, _) = mint(&leaf_params(&[WEB]), &root);
    let many = vec![leaf.clone(); MAX_CHAIN + 1];
    assert_eq!(check_chain(&many, &root, PeerUsage::Client), Err(PeerError::TooLong(MAX_CHAIN + 1)));
    let mut longer = leaf.to_vec();
    longer.push(0);
    assert_eq!(check_chain(&[longer.into()], &root, PeerUsage::Client), Err(PeerError::Malformed));
    assert_eq!(check_chain(&[vec![1, 2, 3].into()], &root, PeerUsage::Client), Err(PeerError::Malformed));
}

#[test]
fn a_certificate_is_believed_neither_before_nor_after_its_time() {
    let ca = TestCa::new("east.demo");
    let now = SystemTime::now();
    let svid = ca.ca.issue_self(&id(WEB), HOUR, now).unwrap();
    let at = |time| validate_chain(svid.chain(), &bundles([&ca]), PeerUsage::Any, time).map(|_| ());
    let before = at(svid.not_before() - Duration::from_secs(1));
    assert!(before.is_err(), "believed before its time");
    assert_eq!(at(svid.not_before()), Ok(()));
    assert_eq!(at(svid.not_after()), Ok(()));
    assert_eq!(at(svid.not_after() + Duration::from_secs(1)), Err(PeerError::Expired { id: id(WEB) }));
    let later = ca.ca.issue_with_validity(&id(WEB), now + HOUR, now + 2 * HOUR).unwrap();
    let verdict = validate_chain(later.chain(), &bundles([&ca]), PeerUsage::Any, now);
    assert_eq!(verdict, Err(PeerError::NotYetValid { id: id(WEB) }));
}

#[test]
fn a_root_that_has_expired_vouches_for_nobody() {
    let ca = TestCa::new("east.demo");
    let now = SystemTime::now();
    let far = now + crate::ROOT_LIFETIME + HOUR;
    let svid = ca.ca.issue_with_validity(&id(WEB), now, far + HOUR).unwrap();
    let at = |time| validate(svid.chain(), &bundles([&ca]), PeerUsage::Any, time).map(|valid| valid.until);
    assert!(at(now).unwrap() < far, "the verdict outlives the root");
    assert_eq!(at(far), Err(PeerError::NotVouched { id: id(WEB) }));
}

#[test]
fn the_extended_key_usage_must_fit_the_part() {
    let root = handmade_root("east.demo");
    let mut client_only = leaf_params(&[WEB]);
    client_only.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let (leaf, _) = mint(&client_only, &root);
    let wrong = Err(PeerError::WrongUsage { id: id(WEB) });
    assert_eq!(check_chain(std::slice::from_ref(&leaf), &root, PeerUsage::Server), wrong);
    assert!(check_chain(std::slice::from_ref(&leaf), &root, PeerUsage::Client).is_ok());
    assert!(check_chain(&[leaf], &root, PeerUsage::Any).is_ok());
    let mut code = leaf_params(&[WEB]);
    code.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    assert_eq!(check_chain(&[mint(&code, &root).0], &root, PeerUsage::Any), wrong);
}

#[test]
fn a_leaf_that_could_sign_others_is_refused() {
    let mut signer = leaf_params(&[WEB]);
    signer.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(check(&signer), Err(PeerError::KeyUsage));
    let mut no_signature = leaf_params(&[WEB]);
    no_signature.key_usages = vec![KeyUsagePurpose::KeyAgreement];
    assert_eq!(check(&no_signature), Err(PeerError::KeyUsage));
    let mut without = leaf_params(&[WEB]);
    without.key_usages.clear();
    assert_eq!(check(&without), Err(PeerError::KeyUsage));
    let mut ca = leaf_params(&[WEB]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(check(&ca), Err(PeerError::IsCa));
}

#[test]
fn an_intermediate_of_the_own_trust_domain_is_followed_and_must_be_there() {
    let root = handmade_root("east.demo");
    let intermediate = handmade_intermediate("east.demo", &root);
    let (leaf, _) = mint(&leaf_params(&[WEB]), &intermediate);
    let chain = [leaf.clone(), intermediate.der().clone()];
    assert!(check_chain(&chain, &root, PeerUsage::Server).is_ok());
    let missing = check_chain(&[leaf], &root, PeerUsage::Server);
    assert_eq!(missing, Err(PeerError::NotVouched { id: id(WEB) }));
}

#[test]
fn an_intermediate_of_another_trust_domain_is_refused() {
    let root = handmade_root("east.demo");
    let intermediate = handmade_intermediate("west.demo", &root);
    let (leaf, _) = mint(&leaf_params(&[WEB]), &intermediate);
    let verdict = check_chain(&[leaf, intermediate.der().clone()], &root, PeerUsage::Server);
    assert_eq!(verdict, Err(PeerError::ForeignIntermediate { id: id(WEB) }));
}

#[test]
fn a_bundle_takes_ca_certificates_of_its_own_trust_domain_only() {
    use crate::bundle::BundleError;
    let root = handmade_root("east.demo");
    let make = |der| TrustBundle::new(domain("east.demo"), 1, vec![der]);
    let (leaf, _) = mint(&leaf_params(&[WEB]), &root);
    assert!(matches!(make(leaf), Err(BundleError::NotCa { index: 0, .. })));
    assert!(matches!(make(vec![0x30, 0].into()), Err(BundleError::Malformed { .. })));
    let foreign = handmade_root("west.demo").der().clone();
    assert!(matches!(make(foreign), Err(BundleError::Foreign { .. })));
    assert!(matches!(TrustBundle::new(domain("east.demo"), 1, vec![]), Err(BundleError::Empty(_))));
    let bundle = make(root.der().clone()).unwrap();
    assert_eq!(TrustBundle::from_pem(domain("east.demo"), 1, &bundle.to_pem()).unwrap(), bundle);
}
