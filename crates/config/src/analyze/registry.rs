//! What hosts, subsets and gateways there are, as the objects of one cluster see them.

use std::collections::{BTreeMap, BTreeSet};

use federation_crds::Manifest;
use mesh::{Host, HostPattern, Labels, Namespace, ServiceName};

use crate::compile::Input;
use crate::traffic::services::target;

/// The names that objects may refer to.
pub(super) struct Registry<'a> {
    pub(super) input: &'a Input<'a>,
    /// `<namespace>/<name>` of every Gateway.
    pub(super) gateways: BTreeMap<String, &'a Manifest>,
    /// Hosts of ServiceEntries, each with who sees them and its ports.
    entries: Vec<EntryHost>,
    /// Subsets that DestinationRules define: fully qualified host → name.
    subsets: BTreeMap<String, BTreeMap<String, Labels>>,
}

struct EntryHost {
    host: HostPattern,
    ports: BTreeSet<u16>,
    namespace: String,
    export_to: Vec<String>,
}

/// A host that exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Its ports.
    pub(super) ports: BTreeSet<u16>,
    /// The service, unless it is a ServiceEntry's.
    pub(super) service: Option<ServiceName>,
}

/// What a Service of type ExternalName is another name of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Behind {
    /// The last of the names.
    pub(super) host: String,
    /// It names a service or the host of a ServiceEntry, whose routes and policies count then.
    pub(super) in_mesh: bool,
}

/// Why a host cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Nothing has that name.
    Unknown,
    /// Only other clusters have it, and the name stays in the cluster.
    OnlyRemote,
    /// A name in the clusterset zone of a service that no cluster exports to this one.
    NotExported,
    /// A ServiceEntry or a Service has it and does not export it to the namespace.
    NotVisible,
}

impl Missing {
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Unknown => "write the name of a Service, or add a ServiceEntry for the host",
            Self::OnlyRemote => {
                "other clusters export it: write <service>.<namespace>.svc.clusterset.local, or label a Service isthmus.dev/global: \"true\""
            }
            Self::NotExported => "add a ServiceExport in a cluster that has it",
            Self::NotVisible => {
                "add the namespace to exportTo of the ServiceEntry, or of the Service (annotation networking.istio.io/exportTo)"
            }
        }
    }
}

impl<'a> Registry<'a> {
    pub(super) fn new(input: &'a Input<'a>) -> Self {
        let mut registry = Self { input, gateways: BTreeMap::new(), entries: Vec::new(), subsets: BTreeMap::new() };
        for manifest in input.manifests {
            let key = manifest.key();
            match manifest {
                Manifest::Gateway(_) => {
                    registry.gateways.insert(format!("{}/{}", key.namespace, key.name), manifest);
                }
                Manifest::ServiceEntry(entry) => {
                    let ports = entry.spec.ports.iter().filter_map(|port| u16::try_from(port.number).ok()).collect();
                    registry.add_entry(&entry.spec.hosts, &ports, &key.namespace, &entry.spec.export_to);
                }
                Manifest::DestinationRule(rule) => {
                    let host = qualified(&rule.spec.host, &key.namespace);
                    let subsets = registry.subsets.entry(host).or_default();
                    subsets.extend(rule.spec.subsets.iter().map(|subset| (subset.name.clone(), subset.labels.clone())));
                }
                _ => {}
            }
        }
        registry
    }

    fn add_entry(&mut self, hosts: &[String], ports: &BTreeSet<u16>, namespace: &str, export_to: &[String]) {
        let hosts = hosts.iter().filter_map(|host| host.parse().ok());
        self.entries.extend(hosts.map(|host| EntryHost {
            host,
            ports: ports.clone(),
            namespace: namespace.to_owned(),
            export_to: export_to.to_vec(),
        }));
    }

    /// What a host is another name of, if it is that of a Service of type ExternalName.
    pub(super) fn behind(&self, host: &str, namespace: &str) -> Option<Behind> {
        let mut host = Host::parse(host, &Namespace::new(namespace).ok()?);
        let external_name = |host: &Host| {
            let Host::Cluster(name) = host else { return None };
            let service = self.input.local.services.get(name)?;
            Some(target(service.names.external_name.as_ref()?, name))
        };
        host = external_name(&host)?;
        for _ in 0..mesh::ALIASES_MAX {
            host = external_name(&host).unwrap_or(host);
        }
        let text = host.text();
        let is_entry = || self.entries.iter().any(|entry| entry.host.as_str() == text || entry.host.matches(&text));
        Some(Behind { in_mesh: !matches!(host, Host::External(_)) || is_entry(), host: text })
    }

    /// Looks a host up as an object in `namespace` means it.
    pub(super) fn host(&self, host: &str, namespace: &str) -> Result<Known, Missing> {
        match self.behind(host, namespace) {
            Some(Behind { host, in_mesh: true }) => self.named(&host, namespace),
            // It is reached all the same, at every port.
            Some(Behind { in_mesh: false, .. }) => Ok(Known { ports: BTreeSet::new(), service: None }),
            None => self.named(host, namespace),
        }
    }

    fn named(&self, host: &str, namespace: &str) -> Result<Known, Missing> {
        let host_name = host.trim_end_matches('.').to_ascii_lowercase();
        let named =
            self.entries.iter().filter(|entry| entry.host.as_str() == host_name || entry.host.matches(&host_name));
        let named: Vec<_> = named.collect();
        if let Some(entry) = named.iter().find(|entry| visible(&entry.export_to, &entry.namespace, namespace)) {
            return Ok(Known { ports: entry.ports.clone(), service: None });
        }
        let missing = if named.is_empty() { Missing::Unknown } else { Missing::NotVisible };
        let Ok(namespace) = Namespace::new(namespace) else { return Err(missing) };
        let hidden = |name: &ServiceName| {
            let service = self.input.local.services.get(name);
            service.is_some_and(|service| !service.visible_to.includes(&namespace))
        };
        if Host::parse(&host_name, &namespace).service().is_some_and(hidden) {
            return Err(Missing::NotVisible);
        }
        match Host::parse(&host_name, &namespace) {
            Host::Cluster(name) => self.cluster(&name).ok_or(match self.input.imported.contains_key(&name) {
                true => Missing::OnlyRemote,
                false => missing,
            }),
            Host::Clusterset(name) => self.clusterset(&name).ok_or(Missing::NotExported),
            _ => Err(missing),
        }
    }

    fn cluster(&self, name: &ServiceName) -> Option<Known> {
        let service = self.input.local.services.get(name)?;
        let mut ports: BTreeSet<u16> = service.ports.iter().map(|port| port.number).collect();
        if service.global {
            ports.extend(self.input.imported.get(name).iter().flat_map(|imported| &imported.ports));
        }
        Some(Known { ports, service: Some(name.clone()) })
    }

    fn clusterset(&self, name: &ServiceName) -> Option<Known> {
        let local = self.input.local.services.get(name).filter(|service| service.export.is_some());
        let imported = self.input.imported.get(name);
        if local.is_none() && imported.is_none() {
            return None;
        }
        let own = local.into_iter().flat_map(|service| &service.ports).map(|port| port.number);
        let ports = own.chain(imported.iter().flat_map(|imported| &imported.ports).copied()).collect();
        Some(Known { ports, service: Some(name.clone()) })
    }

    /// The labels of a subset of a host; the clusterset name and the cluster's name of a service have the same subsets.
    pub(super) fn subset(&self, host: &str, namespace: &str, subset: &str) -> Option<&Labels> {
        let behind = self.behind(host, namespace).filter(|behind| behind.in_mesh);
        let host = behind.map_or_else(|| qualified(host, namespace), |behind| behind.host);
        let other = host.strip_suffix(".clusterset.local").map(|service| format!("{service}.cluster.local"));
        let of = |host: &String| self.subsets.get(host).and_then(|subsets| subsets.get(subset));
        let wildcards = || {
            let matching = self.subsets.iter().filter(|(pattern, _)| {
                pattern.parse::<HostPattern>().is_ok_and(|pattern| pattern.is_wildcard() && pattern.matches(&host))
            });
            matching.filter_map(|(_, subsets)| subsets.get(subset)).next()
        };
        of(&host).or_else(|| other.as_ref().and_then(of)).or_else(wildcards)
    }
}

/// A host as one name, whichever short form it was written in.
pub(super) fn qualified(host: &str, namespace: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let Ok(namespace) = Namespace::new(namespace) else { return host };
    match Host::parse(&host, &namespace) {
        Host::Cluster(name) => format!("{}.{}.svc.cluster.local", name.name(), name.namespace()),
        Host::Clusterset(name) => name.clusterset_host(),
        _ => host,
    }
}

/// Whether `exportTo` of an object in `own` lets `namespace` see it.
pub(super) fn visible(export_to: &[String], own: &str, namespace: &str) -> bool {
    export_to.is_empty() || export_to.iter().any(|to| to == "*" || to == namespace || (to == "." && own == namespace))
}
