//! Which service a host name means (design: "Names and addresses").

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::names::{ClusterName, Namespace, ServiceName};

/// The zone of the names that are the same in every cluster.
pub const CLUSTERSET_ZONE: &str = "clusterset.local";
/// The zone of the names of the own cluster.
pub const CLUSTER_ZONE: &str = "cluster.local";

/// What a client asked for, before anything is looked up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Host {
    /// `<name>.<namespace>.svc.clusterset.local`: local first, then remote.
    Clusterset(ServiceName),
    /// A short name or `….svc.cluster.local`: this cluster only, unless the service is global.
    Cluster(ServiceName),
    /// `<pod>.<name>.<namespace>.svc.cluster.local` or `<pod>.<cluster>.<name>.<namespace>.svc.clusterset.local`: one pod of
    /// a headless service.
    Pod {
        /// The service.
        service: ServiceName,
        /// Where the pod runs; `None`: a name of `cluster.local`, so in this cluster.
        cluster: Option<ClusterName>,
        /// The hostname, or the address with dashes.
        pod: String,
    },
    /// An address.
    Address(IpAddr),
    /// A name in the clusterset zone that cannot be a service.
    Invalid(String),
    /// Anything else.
    External(String),
}

impl Host {
    /// Reads a host as a workload in `namespace` means it: `reviews`, `reviews.ns`, `reviews.ns.svc`,
    /// `reviews.ns.svc.cluster.local` and `reviews.ns.svc.clusterset.local`; a trailing dot and upper case are fine.
    pub fn parse(host: &str, namespace: &Namespace) -> Self {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Self::Address(address);
        }
        let labels: Vec<&str> = host.split('.').collect();
        let service = |name: &str, namespace: &str| {
            Namespace::new(namespace).and_then(|namespace| ServiceName::new(namespace, name)).ok()
        };
        let known = match labels.as_slice() {
            [name, ns, "svc", "clusterset", "local"] => service(name, ns).map(Self::Clusterset),
            [pod, cluster, name, ns, "svc", "clusterset", "local"] => {
                match (service(name, ns), ClusterName::new(*cluster)) {
                    (Some(service), Ok(cluster)) => {
                        Some(Self::Pod { service, cluster: Some(cluster), pod: (*pod).to_owned() })
                    }
                    _ => return Self::Invalid(host),
                }
            }
            [.., "clusterset", "local"] => return Self::Invalid(host),
            [pod, name, ns, "svc", "cluster", "local"] => {
                service(name, ns).map(|service| Self::Pod { service, cluster: None, pod: (*pod).to_owned() })
            }
            [name, ns, "svc", "cluster", "local"] | [name, ns, "svc"] | [name, ns] => {
                service(name, ns).map(Self::Cluster)
            }
            [name] => service(name, namespace.as_str()).map(Self::Cluster),
            _ => None,
        };
        match known {
            Some(known) => known,
            None if host.ends_with(CLUSTERSET_ZONE) => Self::Invalid(host),
            None => Self::External(host),
        }
    }

    /// The name as it is written in full.
    pub fn text(&self) -> String {
        match self {
            Self::Clusterset(name) => name.clusterset_host(),
            Self::Cluster(name) => format!("{}.{}.svc.cluster.local", name.name(), name.namespace()),
            Self::Pod { service, cluster: Some(cluster), pod } => {
                format!("{pod}.{cluster}.{}", service.clusterset_host())
            }
            Self::Pod { service, cluster: None, pod } => {
                format!("{pod}.{}.{}.svc.cluster.local", service.name(), service.namespace())
            }
            Self::Address(address) => address.to_string(),
            Self::Invalid(host) | Self::External(host) => host.clone(),
        }
    }

    /// The service that is meant, if it is one.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Clusterset(name) | Self::Cluster(name) | Self::Pod { service: name, .. } => Some(name),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_kubernetes_and_the_clusterset_say() {
        let namespace = Namespace::new("shop").unwrap();
        let reviews = |ns: &str| ServiceName::new(Namespace::new(ns).unwrap(), "reviews").unwrap();
        let cases = [
            ("reviews", Host::Cluster(reviews("shop"))),
            ("reviews.default", Host::Cluster(reviews("default"))),
            ("reviews.default.svc", Host::Cluster(reviews("default"))),
            ("Reviews.default.svc.cluster.local.", Host::Cluster(reviews("default"))),
            ("reviews.default.svc.clusterset.local", Host::Clusterset(reviews("default"))),
            (
                "east.reviews.default.svc.clusterset.local",
                Host::Invalid("east.reviews.default.svc.clusterset.local".into()),
            ),
            (
                "db-0.west.reviews.default.svc.clusterset.local",
                Host::Pod {
                    service: reviews("default"),
                    cluster: Some(ClusterName::new("west").unwrap()),
                    pod: "db-0".into(),
                },
            ),
            (
                "db-0.reviews.default.svc.cluster.local",
                Host::Pod { service: reviews("default"), cluster: None, pod: "db-0".into() },
            ),
            ("10.0.0.7", Host::Address("10.0.0.7".parse().unwrap())),
            ("[::1]", Host::Address("::1".parse().unwrap())),
            ("www.example.org", Host::External("www.example.org".into())),
        ];
        for (host, expected) in cases {
            assert_eq!(Host::parse(host, &namespace), expected, "{host}");
        }
    }
}
