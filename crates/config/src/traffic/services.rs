//! What Services say of themselves: who sees them, and of what those of type ExternalName are other names.

use std::collections::BTreeMap;

use federation_crds::Kind;
use mesh::{EntryConfig, Host, Labels, NamedEndpoint, ObjectRef, Resolution, ServiceName, Visibility};

use crate::compile::{Compiled, Input};

/// What a Service of type ExternalName is another name of. A CNAME is a full name, so that only full names of services mean
/// services: `httpbin.org` is no service `httpbin` of a namespace `org`.
pub(crate) fn target(external_name: &str, alias: &ServiceName) -> Host {
    let name = external_name.trim_end_matches('.').to_ascii_lowercase();
    let in_zone = |zone: &&str| name.strip_suffix(*zone).is_some_and(|rest| rest.ends_with('.'));
    match [mesh::CLUSTER_ZONE, mesh::CLUSTERSET_ZONE].iter().any(in_zone) {
        true => Host::parse(&name, alias.namespace()),
        false => Host::External(name),
    }
}

pub(super) fn compile(input: &Input<'_>, compiled: &mut Compiled) {
    for (name, service) in &input.local.services {
        if service.visible_to != Visibility::Everywhere {
            compiled.services.entry(name.clone()).or_default().visible_to = service.visible_to.clone();
        }
        let Some(external_name) = &service.names.external_name else { continue };
        let target = target(external_name, name);
        let config = compiled.services.entry(name.clone()).or_default();
        if let Host::External(host) = &target {
            config.entry = Some(entry(name, host));
        }
        config.alias = Some(target);
    }
}

/// Where the host is, if no ServiceEntry says it.
fn entry(name: &ServiceName, host: &str) -> EntryConfig {
    let host = NamedEndpoint {
        host: host.to_owned(),
        ports: BTreeMap::new(),
        labels: Labels::new(),
        locality: String::new(),
        weight: 1,
    };
    EntryConfig {
        origin: ObjectRef {
            kind: Kind::Service.as_str().to_owned(),
            namespace: name.namespace().to_string(),
            name: name.name().to_owned(),
        },
        visible_to: Visibility::Everywhere,
        resolution: Resolution::Dns,
        external: true,
        networks: Vec::new(),
        hosts: vec![host],
        subject_alt_names: Vec::new(),
    }
}
