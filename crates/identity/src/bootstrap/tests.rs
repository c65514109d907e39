use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::{TestCa, domain};

fn registration(ca: &TestCa) -> Registration {
    Registration {
        workload: "default/web-1".to_owned(),
        namespace: Namespace::new("default").unwrap(),
        service_account: "web".to_owned(),
        cluster: ClusterName::new("east").unwrap(),
        trust_domain: domain("east.demo"),
        roots_pem: ca.bundle().to_pem(),
        ca_addresses: vec!["127.1.0.2:15012".to_owned()],
        discovery_addresses: vec!["127.1.0.2:15010".to_owned()],
        labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        locality: "eu/a".to_owned(),
    }
}

#[test]
fn a_registered_workload_is_known_by_its_secret_and_both_files_are_private() {
    let ca = TestCa::new("east.demo");
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("proxies").join("web-1").join("credential.json");
    let written = register(parent.path(), &registration(&ca), &file).unwrap();
    let credential = Credential::load(&file).unwrap();
    assert_eq!(credential, written);
    assert_eq!(credential.bundle().unwrap().roots(), [ca.ca.root_der().clone()]);

    let registered = Registered::load(parent.path(), "default/web-1").unwrap();
    assert_eq!((registered.labels["app"].as_str(), registered.locality.as_str()), ("web", "eu/a"));
    assert!(registered.check(credential.secret.reveal()));
    assert!(!registered.check("") && !registered.check("x") && !registered.check(&registered.secret_sha256));
    assert_eq!(registered.spiffe_id(&domain("east.demo")).unwrap().to_string(), "spiffe://east.demo/ns/default/sa/web");

    let agents = parent.path().join("bootstrap").join("default.web-1.json");
    assert!(!std::fs::read_to_string(&agents).unwrap().contains(credential.secret.reveal()));
    assert!(!format!("{credential:?}").contains(credential.secret.reveal()));
    for path in [file, agents] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn registering_again_voids_the_old_secret_and_unregistering_both() {
    let ca = TestCa::new("east.demo");
    let parent = tempfile::tempdir().unwrap();
    let file = parent.path().join("credential.json");
    let old = register(parent.path(), &registration(&ca), &file).unwrap();
    let new = register(parent.path(), &registration(&ca), &file).unwrap();
    let registered = Registered::load(parent.path(), "default/web-1").unwrap();
    assert!(registered.check(new.secret.reveal()) && !registered.check(old.secret.reveal()));
    unregister(parent.path(), "default/web-1").unwrap();
    unregister(parent.path(), "default/web-1").unwrap();
    let gone = Registered::load(parent.path(), "default/web-1");
    assert!(matches!(gone, Err(BootstrapError::NotRegistered(_))));
}

#[test]
fn a_workload_name_never_becomes_another_path() {
    let parent = tempfile::tempdir().unwrap();
    for name in
        ["../x/y", "default/../../etc", "default/", "/web", "default", "a/b/c", "default/web.json", "A/b", "a/\0"]
    {
        let loaded = Registered::load(parent.path(), name);
        assert!(matches!(loaded, Err(BootstrapError::Name(_))), "{name:?}");
    }
}

#[test]
fn a_registration_under_another_name_is_refused() {
    let ca = TestCa::new("east.demo");
    let parent = tempfile::tempdir().unwrap();
    register(parent.path(), &registration(&ca), &parent.path().join("credential.json")).unwrap();
    let directory = parent.path().join("bootstrap");
    std::fs::copy(directory.join("default.web-1.json"), directory.join("default.admin.json")).unwrap();
    let loaded = Registered::load(parent.path(), "default/admin");
    assert!(matches!(loaded, Err(BootstrapError::WrongWorkload { .. })));
}

#[test]
fn roots_of_another_trust_domain_are_refused_before_anything_is_written() {
    let parent = tempfile::tempdir().unwrap();
    let mut wrong = registration(&TestCa::new("east.demo"));
    wrong.roots_pem = TestCa::new("west.demo").bundle().to_pem();
    let file = parent.path().join("credential.json");
    assert!(matches!(register(parent.path(), &wrong, &file), Err(BootstrapError::Roots(_))));
    assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
}
