//! Who is at an end of a flow.

use mesh::{Labels, SpiffeId, Workload};
use serde::Serialize;

/// One end of a flow, as far as it is known. Empty texts are unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Party {
    /// The pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// Its namespace.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The SPIFFE id that it proved.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// Its cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Label `app`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app: String,
    /// Label `version`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The group of workloads that it counts as one of, as Istio names it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub canonical_service: String,
    /// Which revision of them it is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub canonical_revision: String,
}

/// Where Istio reads the canonical service, before it falls back to the workload's name.
const CANONICAL_SERVICE: [&str; 3] = ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"];
/// Where Istio reads the canonical revision, before it falls back to `latest`.
const CANONICAL_REVISION: [&str; 3] = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];

impl Party {
    /// The workload beside this proxy.
    pub fn own(workload: Option<&Workload>, cluster: Option<&mesh::ClusterName>, identity: Option<&SpiffeId>) -> Self {
        Self {
            namespace: workload.map(|own| own.namespace.to_string()).unwrap_or_default(),
            identity: identity.map(SpiffeId::to_string).unwrap_or_default(),
            cluster: cluster.map(ToString::to_string).unwrap_or_default(),
            ..workload.map(|own| Self::of_pod(&own.name, &own.labels)).unwrap_or_default()
        }
    }

    /// What the name and the labels of a pod say.
    pub fn of_pod(pod: &str, labels: &Labels) -> Self {
        let first = |names: &[&str]| names.iter().find_map(|name| labels.get(*name).filter(|value| !value.is_empty()));
        Self {
            workload: pod.to_owned(),
            app: first(&["app"]).cloned().unwrap_or_default(),
            version: first(&["version"]).cloned().unwrap_or_default(),
            canonical_service: first(&CANONICAL_SERVICE).map_or_else(|| workload_of(pod), String::as_str).to_owned(),
            canonical_revision: first(&CANONICAL_REVISION).map_or("latest", String::as_str).to_owned(),
            ..Self::default()
        }
    }

    /// A peer of which only the identity is known. Its cluster is the first label of its trust domain by default.
    pub fn of_identity(identity: &SpiffeId) -> Self {
        Self { namespace: identity.namespace().to_string(), identity: identity.to_string(), ..Self::default() }
    }
}

/// The workload of a pod, read out of the name that its controller gave it: a stateful set adds a number, a deployment a
/// hash and five characters, other controllers the five characters. They come from an alphabet without vowels.
pub(crate) fn workload_of(pod: &str) -> &str {
    let generated = |text: &str| text.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    match pod.rsplit_once('-') {
        Some((set, number)) if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => set,
        Some((owner, suffix)) if suffix.len() == 5 && generated(suffix) => match owner.rsplit_once('-') {
            Some((deployment, hash)) if (6..=10).contains(&hash.len()) && generated(hash) => deployment,
            _ => owner,
        },
        _ => pod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads_are_read_out_of_the_names_of_pods() {
        let cases = [
            ("reviews-v1-5d4c7f9b8-x2k4p", "reviews-v1"),
            ("agent-x2k4p", "agent"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("reviews-v1", "reviews-v1"),
            ("load-tests", "load-tests"),
            ("web", "web"),
            ("web-", "web-"),
            ("", ""),
        ];
        for (pod, workload) in cases {
            assert_eq!(workload_of(pod), workload, "{pod}");
        }
    }

    #[test]
    fn canonical_names_are_istios() {
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: [Case<'_>; 4] = [
            (
                "reviews-1",
                &[
                    ("service.istio.io/canonical-name", "a"),
                    ("app.kubernetes.io/name", "b"),
                    ("service.istio.io/canonical-revision", "1"),
                    ("version", "3"),
                ],
                "a",
                "1",
            ),
            (
                "reviews-1",
                &[("app.kubernetes.io/name", "b"), ("app", "c"), ("app.kubernetes.io/version", "2")],
                "b",
                "2",
            ),
            ("reviews-1", &[("app", "c"), ("version", "3")], "c", "3"),
            ("reviews-1", &[("app", "")], "reviews", "latest"),
        ];
        for (pod, labels, service, revision) in cases {
            let labels: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let party = Party::of_pod(pod, &labels);
            assert_eq!((party.canonical_service.as_str(), party.canonical_revision.as_str()), (service, revision));
        }
    }
}
