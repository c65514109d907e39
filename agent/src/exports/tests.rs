use std::collections::BTreeSet;

use mesh::{Namespace, Protocol, ServicePort, SpiffeId, TrustDomain};
use proptest::prelude::*;

use super::*;
use config::local::LocalExport;

fn endpoint(pod: usize, account: &str, version: &str, ready: bool) -> Endpoint {
    let namespace = Namespace::new("default").unwrap();
    let identity = SpiffeId::new(TrustDomain::new("east.demo").unwrap(), namespace, account).unwrap();
    Endpoint {
        other_addresses: Vec::new(),
        plain_ports: Default::default(),
        stand_in: None,
        weight: 1,
        name: format!("pod-{pod}"),
        address: [127, 0, 0, 1].into(),
        ports: BTreeMap::from([(80, 8080)]),
        identity: Some(identity),
        labels: BTreeMap::from([
            ("app".into(), "web".into()),
            ("version".into(), version.into()),
            ("pod".into(), pod.to_string()),
        ]),
        locality: String::new(),
        ready,
    }
}

fn local(endpoints: Vec<Endpoint>, exported: bool) -> Local {
    let service = LocalService {
        global: false,
        headless: false,
        addresses: Vec::new(),
        ports: vec![ServicePort { name: "http".into(), number: 80, protocol: Protocol::Http }],
        endpoints,
        session_affinity: None,
        visible_to: Default::default(),
        nearest_first: false,
        export: exported.then(|| LocalExport {
            to_clusters: BTreeSet::new(),
            created_at: None,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            unmeshed: Default::default(),
        }),
        names: Default::default(),
    };
    Local { services: BTreeMap::from([("default/web".parse().unwrap(), service)]), ..Local::default() }
}

fn by_default() -> BTreeSet<String> {
    ["app", "version"].map(str::to_owned).into()
}

fn plan(local: &Local, signed: &BTreeMap<ServiceName, Export>) -> Vec<Step> {
    plan_exports(&ClusterName::new("east").unwrap(), &by_default(), local, signed, 1000)
}

/// The exports after the steps were taken.
fn taken(steps: Vec<Step>, mut signed: BTreeMap<ServiceName, Export>) -> BTreeMap<ServiceName, Export> {
    for step in steps {
        match step {
            Step::Publish { export, .. } => {
                drop(signed.insert(name_of(&export).unwrap(), Export { serial: 7, ..export }))
            }
            Step::Withdraw(name) => drop(signed.remove(&name)),
        }
    }
    signed
}

fn published(steps: &[Step]) -> (&Export, bool) {
    match steps {
        [Step::Publish { export, only_counts }] => (export, *only_counts),
        other => panic!("expected one publication, got {other:?}"),
    }
}

#[test]
fn endpoints_become_groups_without_their_names() {
    let endpoints =
        vec![endpoint(1, "web", "v1", true), endpoint(2, "web", "v1", true), endpoint(3, "web", "v2", false)];
    let steps = plan(&local(endpoints, true), &BTreeMap::new());
    let (export, only_counts) = published(&steps);
    assert!(!only_counts);
    let groups: Vec<_> = export.groups.iter().map(|group| (group.labels["version"].as_str(), group.healthy)).collect();
    assert_eq!(groups, [("v1", 2), ("v2", 0)]);
    assert!(export.groups.iter().all(|group| !group.labels.contains_key("pod") && group.meshed));
    assert_eq!(export.created_at, 1000);
}

#[test]
fn an_unexported_service_is_planned_nowhere_and_a_withdrawn_one_is_removed() {
    assert!(plan(&local(vec![endpoint(1, "web", "v1", true)], false), &BTreeMap::new()).is_empty());
    let signed = taken(plan(&local(Vec::new(), true), &BTreeMap::new()), BTreeMap::new());
    assert_eq!(plan(&local(Vec::new(), false), &signed), [Step::Withdraw("default/web".parse().unwrap())]);
    assert_eq!(plan(&Local::default(), &signed).len(), 1);
}

#[test]
fn counts_may_wait_but_not_to_or_from_zero() {
    let with = |ready: usize| {
        let endpoints = (0..3).map(|pod| endpoint(pod, "web", "v1", pod < ready)).collect();
        local(endpoints, true)
    };
    let signed = |ready| taken(plan(&with(ready), &BTreeMap::new()), BTreeMap::new());
    assert!(published(&plan(&with(2), &signed(3))).1);
    assert!(!published(&plan(&with(0), &signed(3))).1);
    assert!(!published(&plan(&with(1), &signed(0))).1);
}

#[test]
fn the_date_of_an_export_stays() {
    let signed = taken(plan(&local(Vec::new(), true), &BTreeMap::new()), BTreeMap::new());
    let later =
        plan_exports(&ClusterName::new("east").unwrap(), &by_default(), &local(Vec::new(), true), &signed, 9999);
    assert!(later.is_empty());
}

proptest! {
    #[test]
    fn once_taken_a_plan_leaves_nothing_to_do(pods in prop::collection::vec((0..60_usize, 0..60_usize, any::<bool>()), 0..150)) {
        let endpoints: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(pod, (account, version, ready))| endpoint(pod, &format!("a{account}"), &format!("v{version}"), *ready))
            .collect();
        let wanted = local(endpoints, true);
        let signed = taken(plan(&wanted, &BTreeMap::new()), BTreeMap::new());
        prop_assert!(plan(&wanted, &signed).is_empty());
        let export = signed.values().next().unwrap();
        prop_assert!(export.groups.len() <= MAX_GROUPS);
        let accounts: BTreeSet<_> = pods.iter().map(|pod| pod.0).collect();
        if accounts.len() <= MAX_GROUPS {
            let healthy: u32 = export.groups.iter().map(|group| group.healthy).sum();
            prop_assert_eq!(healthy as usize, pods.iter().filter(|pod| pod.2).count());
        }
    }
}

#[test]
fn a_headless_export_names_its_ready_pods_and_others_name_none() {
    let with = |headless: bool| {
        let pods = [("v1", true), ("v2", false), ("v2", true)];
        let endpoints = (1..).zip(pods).map(|(pod, (version, ready))| endpoint(pod, "web", version, ready)).collect();
        let mut local = local(endpoints, true);
        local.services.values_mut().for_each(|service| service.headless = headless);
        plan(&local, &BTreeMap::new())
    };
    let (plain, headless) = (with(false), with(true));
    assert!(published(&plain).0.pods.is_empty());
    let (export, _) = published(&headless);
    let version = |pod: &api::trust::Pod| export.groups[pod.group as usize].labels["version"].clone();
    let pods: Vec<(String, String)> = export.pods.iter().map(|pod| (pod.name.clone(), version(pod))).collect();
    let expected = [("pod-1", "v1"), ("pod-3", "v2")].map(|(name, version)| (name.to_owned(), version.to_owned()));
    assert_eq!(pods, expected);
}

#[test]
fn the_labels_that_form_groups_are_the_clusters_choice() {
    let local = local(vec![endpoint(1, "web", "v1", true), endpoint(2, "web", "v2", true)], true);
    let groups = |labels: &[&str]| {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        match plan_exports(&ClusterName::new("east").unwrap(), &labels, &local, &BTreeMap::new(), 1000).as_slice() {
            [Step::Publish { export, .. }] => export.groups.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((groups(&["app", "version"]).len(), groups(&["app"]).len()), (2, 1));
    assert!(groups(&["pod"]).iter().all(|group| group.labels.len() == 1));
    assert!(groups(&[])[0].labels.is_empty());
}
