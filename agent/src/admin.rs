//! What the agent shows under `/debug`.

use std::collections::BTreeMap;
use std::sync::Arc;

use config::{Finding, Local};
use discovery::Kind;
use discovery::server::{Clients, Snapshot};
use mesh::{LocalGateway, Service, virtual_ports};
use prost::Message;
use serde_json::{Value, json};
use telemetry::{Admin, Readiness, Registry};
use tokio::sync::watch;

use crate::exports::book::Book;
use crate::exports::conditions::{conditions, invalid};
use crate::facts::Facts;
use crate::source::Files;

/// Everything that can be looked at.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) files: watch::Receiver<Arc<Files>>,
    pub(crate) local: watch::Receiver<Arc<Local>>,
    pub(crate) findings: watch::Receiver<Arc<Vec<Finding>>>,
    pub(crate) in_force: watch::Receiver<Arc<BTreeMap<String, String>>>,
    pub(crate) book: watch::Receiver<Arc<Book>>,
    pub(crate) facts: watch::Receiver<Arc<Facts>>,
    pub(crate) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) clients: Clients,
}

/// The admin interface of an agent.
pub(crate) fn admin(registry: Registry, readiness: Readiness, shown: Shown) -> Admin {
    let (source, exports, imports, clients, addresses, snapshot) =
        (shown.clone(), shown.clone(), shown.clone(), shown.clone(), shown.clone(), shown);
    Admin::new(registry, readiness)
        .route("/debug/source", move |_| ready(source.source()))
        .route("/debug/exports", move |_| ready(exports.exports()))
        .route("/debug/imports", move |_| ready(imports.imports()))
        .route("/debug/clients", move |_| ready(clients.clients()))
        .route("/debug/addresses", move |_| ready(addresses.addresses()))
        .route("/debug/snapshot", move |_| ready(snapshot.snapshot()))
}

fn ready(value: Value) -> std::future::Ready<Value> {
    std::future::ready(value)
}

impl Shown {
    fn source(&self) -> Value {
        let (files, local) = (self.files.borrow(), self.local.borrow());
        let services: Vec<Value> = local
            .services
            .iter()
            .map(|(name, service)| {
                let ready = service.endpoints.iter().filter(|endpoint| endpoint.ready).count();
                json!({
                    "service": name.to_string(),
                    "endpoints": service.endpoints.len(),
                    "ready": ready,
                    "exported": service.export.is_some(),
                })
            })
            .collect();
        json!({
            "files": files.status(),
            "duplicates": files.duplicates(),
            "problems": local.problems,
            "in_force": &**self.in_force.borrow(),
            "findings": self.findings.borrow().as_slice(),
            "services": services,
            "workloads": local.workloads.keys().collect::<Vec<_>>(),
        })
    }

    fn exports(&self) -> Value {
        let book = self.book.borrow();
        let facts = self.facts.borrow();
        let export = |(name, export): (&mesh::ServiceName, &api::trust::Export)| {
            let groups = export.groups.iter().map(group);
            json!({
                "service": format!("{}/{}", export.namespace, export.name),
                "serial": export.serial,
                "to_clusters": export.to_clusters,
                "ports": export.ports.iter().map(|port| port.number).collect::<Vec<_>>(),
                "groups": groups.collect::<Vec<_>>(),
                "headless": export.headless,
                "session_affinity_seconds": export.session_affinity_seconds,
                "labels": export.labels,
                "annotations": export.annotations,
                "conditions": conditions(book.cluster(), name, export, &facts.accepted),
            })
        };
        let gateways = book.gateways().map(|set| json!({"serial": set.serial, "gateways": gateways(&set.gateways)}));
        let local = self.local.borrow();
        let refused = local.invalid_exports.iter();
        let refused = refused.map(|(name, why)| json!({"service": name.to_string(), "conditions": invalid(*why)}));
        let exports: Vec<Value> = book.exports().iter().map(export).chain(refused).collect();
        json!({"exports": exports, "gateways": gateways})
    }

    fn imports(&self) -> Value {
        let facts = self.facts.borrow();
        let members: Vec<Value> = facts
            .accepted
            .members
            .iter()
            .map(|(cluster, member)| {
                let exports = member.exports.iter().map(|(name, fact)| {
                    json!({
                        "service": name.to_string(),
                        "serial": fact.value.serial,
                        "present": fact.present,
                        "groups": fact.value.groups.iter().map(group).collect::<Vec<_>>(),
                    })
                });
                let roots = member.trust.roots().iter().map(|root| identity::root_hash(root));
                json!({
                    "cluster": cluster.to_string(),
                    "trust_domain": member.trust.trust_domain().to_string(),
                    "bundle": {
                        "serial": member.bundle.value.serial,
                        "present": member.bundle.present,
                        "roots": roots.collect::<Vec<_>>(),
                    },
                    "gateways": member.gateways.as_ref().map(|fact| json!({
                        "serial": fact.value.serial,
                        "present": fact.present,
                        "gateways": gateways(&fact.value.gateways),
                    })),
                    "exports": exports.collect::<Vec<_>>(),
                    "stale_since_ms": facts.side.stale.get(cluster),
                    "share_percent": facts.side.draining.get(cluster).map_or(100, |drain| drain.share_percent),
                })
            })
            .collect();
        let refused = facts.refused.iter().map(|refused| {
            json!({
                "kind": refused.refusal.kind.as_str(),
                "cluster": refused.refusal.cluster,
                "name": refused.refusal.name,
                "reason": refused.refusal.reason.as_str(),
                "message": refused.refusal.to_string(),
                "revision": refused.revision,
            })
        });
        let addresses = &facts.side.addresses;
        json!({
            "hub_revision": facts.hub_revision,
            "clusters": members,
            "refused": refused.collect::<Vec<_>>(),
            "addresses": addresses,
        })
    }

    fn clients(&self) -> Value {
        let clients = self.clients.list();
        let client = |client: &discovery::server::ClientState| {
            let progress = client.progress.iter().map(|(kind, progress)| {
                let value = json!({
                    "acked_revision": progress.acked_revision,
                    "resources": progress.resources,
                    "refused": progress.refused,
                });
                (kind.to_string(), value)
            });
            let acked = client.progress.values().map(|progress| progress.acked_revision).min();
            json!({
                "node": client.node,
                "identity": client.identity,
                "acked_revision": acked,
                "kinds": progress.collect::<serde_json::Map<_, _>>(),
            })
        };
        json!({"clients": clients.iter().map(client).collect::<Vec<_>>()})
    }

    /// What kube-proxy would have: where the addresses of services lead for pods without a sidecar.
    fn addresses(&self) -> Value {
        let Some(snapshot) = self.snapshots.borrow().clone() else { return json!({"revision": null, "ports": []}) };
        let gateways = snapshot.of_kind(Kind::LocalGateway).filter_map(|(_, entry)| {
            let gateway = api::discovery::LocalGateway::decode(entry.bytes.as_slice()).ok()?;
            Some(LocalGateway::try_from(&gateway).ok()?.hbone_address.ip())
        });
        let gateways = gateways.collect();
        let services = snapshot.of_kind(Kind::Service).filter_map(|(_, entry)| {
            let service = api::discovery::Service::decode(entry.bytes.as_slice()).ok()?;
            Service::try_from(&service).ok()
        });
        let ports: Vec<_> = services.flat_map(|service| virtual_ports(&service, &gateways)).collect();
        json!({"revision": snapshot.revision, "ports": ports})
    }

    fn snapshot(&self) -> Value {
        let Some(snapshot) = self.snapshots.borrow().clone() else { return json!({"revision": null}) };
        let kinds = Kind::ALL.map(|kind| {
            let versions = snapshot.of_kind(kind).map(|(name, entry)| (name.clone(), json!(entry.version)));
            (kind.to_string(), Value::Object(versions.collect()))
        });
        json!({
            "revision": snapshot.revision,
            "resources": kinds.into_iter().collect::<serde_json::Map<_, _>>(),
            "shared": snapshot.shared,
        })
    }
}

fn group(group: &api::trust::Group) -> Value {
    json!({
        "service_account": group.service_account,
        "labels": group.labels,
        "locality": group.locality,
        "meshed": group.meshed,
        "healthy": group.healthy,
    })
}

fn gateways(gateways: &[api::trust::Gateway]) -> Vec<Value> {
    gateways.iter().map(|gateway| json!({"name": gateway.name, "quic": gateway.quic_address})).collect()
}
