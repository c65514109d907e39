//! `hubctl clusters|services|exports|gateways`: what the hub keeps, read linearizably.

pub(super) mod seen;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use ::mesh::{Constituent, Merged, merge_exports};
use anyhow::{Context as _, Result};
use api::hub::{Address, Cluster, Drain, Kind, Lease, ReadRequest, Resource};
use api::trust::{Export, GatewaySet, Port, Signed};
use fleet::http::get_json;
use fleet::plan::{at, port};
use hub_client::HubClient;
use prost::Message;
use serde_json::{Value, json};

use crate::context::Context;
use crate::output::{self, Table};

/// Everything the operator may see.
async fn read(context: &Context) -> Result<Vec<Resource>> {
    let request = ReadRequest { kind: Kind::Unspecified.into(), cluster: String::new(), stale: false };
    Ok(context.hub()?.read(request).await?.resources)
}

/// The resources of one kind: owning cluster, name, decoded value.
fn of_kind<M: Message + Default>(resources: &[Resource], kind: Kind) -> Result<Vec<(String, String, M)>> {
    let of = resources.iter().filter_map(|resource| Some((resource.key.as_ref()?, &resource.value)));
    of.filter(|(key, _)| key.kind() == kind)
        .map(|(key, value)| {
            let decoded = M::decode(value.as_slice()).with_context(|| format!("the hub's {kind:?} is malformed"))?;
            Ok((key.cluster.clone(), key.name.clone(), decoded))
        })
        .collect()
}

/// The payloads of signed resources. Operators look at them; only agents rely on them, and check the signature.
fn signed<M: Message + Default>(resources: &[Resource], kind: Kind) -> Result<Vec<(String, M)>> {
    of_kind::<Signed>(resources, kind)?
        .into_iter()
        .map(|(cluster, name, signed)| {
            let payload = M::decode(signed.payload.as_slice());
            Ok((cluster.clone(), payload.with_context(|| format!("{cluster}'s {kind:?} {name} is malformed"))?))
        })
        .collect()
}

/// Whether a cluster's lease is live; one that is no member has none.
pub(super) async fn lease_is_live(client: Result<HubClient, String>, cluster: &str) -> Result<bool, String> {
    let request = ReadRequest { kind: Kind::Lease.into(), cluster: cluster.to_owned(), stale: false };
    let read = client?.with_deadline(Duration::from_secs(2)).read(request).await;
    let resources = read.map_err(|error| format!("its lease is not known: {error}"))?.resources;
    let leases = of_kind::<Lease>(&resources, Kind::Lease).map_err(|error| format!("{error:#}"))?;
    Ok(leases.iter().any(|(.., lease)| lease.live))
}

pub(super) async fn clusters(context: &Context) -> Result<u8> {
    let resources = read(context).await?;
    let leases: BTreeMap<String, Lease> = of_kind::<Lease>(&resources, Kind::Lease)?
        .into_iter()
        .map(|(cluster, _, lease)| (if lease.cluster.is_empty() { cluster } else { lease.cluster.clone() }, lease))
        .collect();
    let gateways = signed::<GatewaySet>(&resources, Kind::Gateways)?;
    let exports = signed::<Export>(&resources, Kind::Export)?;
    let drains = of_kind::<Drain>(&resources, Kind::Drain)?;
    let clusters = of_kind::<Cluster>(&resources, Kind::Cluster)?;
    let mut seen = seen::observations(context).await;
    // Who has left still looks, and sees nothing.
    seen.retain(|from, _| clusters.iter().any(|(.., cluster)| cluster.name == *from));
    let mut table =
        Table::new(&["CLUSTER", "TRUST DOMAIN", "STATE", "LEASE", "DRAIN", "GATEWAYS", "EXPORTS", "JOINED"]);
    let mut rows = Vec::new();
    for (_, _, cluster) in clusters {
        let lease = match leases.get(&cluster.name) {
            Some(lease) if lease.live => "live".to_owned(),
            Some(lease) => format!("stale since {}", when(lease.changed_at_ms)),
            None => "never".to_owned(),
        };
        let live = leases.get(&cluster.name).is_some_and(|lease| lease.live);
        let seen = seen::judge(&cluster.name, live, &seen);
        let drain = drains.iter().find(|(name, ..)| *name == cluster.name).map(|(.., drain)| drain);
        let drain = drain.map(|drain| drain_of(drain, now_ms())).unwrap_or_default();
        let of = gateways.iter().filter(|(name, _)| *name == cluster.name);
        let gateways: usize = of.map(|(_, set)| set.gateways.len()).sum();
        let exports = exports.iter().filter(|(name, _)| *name == cluster.name).count();
        rows.push(json!({
            "cluster": cluster.name, "trustDomain": cluster.trust_domain, "state": seen.state, "unreachableFrom": seen.unreachable_from,
            "lease": lease, "drain": drain, "gateways": gateways, "exports": exports, "joinedAtMs": cluster.joined_at_ms,
        }));
        let joined = when(cluster.joined_at_ms);
        let counts = [gateways.to_string(), exports.to_string()];
        let cells = [cluster.name, cluster.trust_domain, seen.to_string(), lease, drain].into_iter();
        table.row(cells.chain(counts).chain([joined]));
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

pub(super) async fn services(context: &Context) -> Result<u8> {
    let resources = read(context).await?;
    let addresses: BTreeMap<String, Address> =
        of_kind::<Address>(&resources, Kind::Address)?.into_iter().map(|(_, name, address)| (name, address)).collect();
    let mut services: BTreeMap<String, Vec<Export>> = BTreeMap::new();
    for (_, export) in signed::<Export>(&resources, Kind::Export)? {
        services.entry(format!("{}/{}", export.namespace, export.name)).or_default().push(export);
    }
    let mut table = Table::new(&["SERVICE", "TYPE", "ADDRESS", "PORTS", "EXPORTED BY", "CONFLICT"]);
    let mut rows = Vec::new();
    for (service, exports) in services {
        let Some(merged) = merged(exports.iter()) else { continue };
        let clusters: Vec<_> = exports.iter().map(|export| export.cluster.clone()).collect();
        let ports: Vec<String> =
            merged.ports.iter().map(|port| format!("{}/{}", port.number, port.protocol.as_str())).collect();
        let address = addresses.get(&service).filter(|_| !merged.headless);
        let address = address.map(|address| address.ipv4.clone()).unwrap_or_default();
        rows.push(import_of(&service, &address, &merged, &clusters));
        let conflict = if merged.conflicts.is_empty() { String::new() } else { merged.reason() };
        table.row([service, merged.kind().to_owned(), address, ports.join(","), clusters.join(","), conflict]);
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

/// What all exports of a service amount to: what a ServiceImport of it says.
fn import_of(service: &str, address: &str, merged: &Merged, clusters: &[String]) -> Value {
    let affinity = if merged.session_affinity.is_some() { "ClientIP" } else { "None" };
    let ports: Vec<String> =
        merged.ports.iter().map(|port| format!("{}/{}", port.number, port.protocol.as_str())).collect();
    json!({
        "service": service, "type": merged.kind(), "address": address, "ports": ports.join(","), "clusters": clusters,
        "sessionAffinity": affinity, "sessionAffinitySeconds": merged.session_affinity,
        "labels": merged.labels, "annotations": merged.annotations, "oldest": merged.oldest.as_str(),
        "conflict": merged.reason(), "message": merged.message(),
    })
}

/// All exports of one service as one (KEP-1645); those that cannot be read do not count.
fn merged<'a>(exports: impl Iterator<Item = &'a Export>) -> Option<Merged> {
    let exports: Vec<Constituent> = exports.filter_map(|export| Constituent::try_from(export).ok()).collect();
    merge_exports(&exports)
}

pub(super) async fn exports(context: &Context) -> Result<u8> {
    let resources = read(context).await?;
    let exports = signed::<Export>(&resources, Kind::Export)?;
    let mut table =
        Table::new(&["CLUSTER", "SERVICE", "PORTS", "HEALTHY", "GROUPS", "UNMESHED", "TO", "SERIAL", "CONFLICT"]);
    let mut rows: Vec<Value> = Vec::new();
    for (cluster, export) in &exports {
        let service = format!("{}/{}", export.namespace, export.name);
        let same = exports.iter().map(|(_, other)| other);
        let all = merged(same.filter(|other| (&other.namespace, &other.name) == (&export.namespace, &export.name)));
        let (reason, message) = all.map(|all| (all.reason(), all.message())).unwrap_or_default();
        let healthy: u32 = export.groups.iter().map(|group| group.healthy).sum();
        let to = if export.to_clusters.is_empty() { "every member".to_owned() } else { export.to_clusters.join(",") };
        let groups: Vec<Value> = export
            .groups
            .iter()
            .map(|group| {
                json!({
                    "serviceAccount": group.service_account, "labels": group.labels, "healthy": group.healthy,
                    "meshed": group.meshed,
                })
            })
            .collect();
        rows.push(json!({
            "cluster": cluster, "service": service, "ports": ports(&export.ports), "healthy": healthy,
            "groups": groups, "unmeshed": unmeshed(export), "to": export.to_clusters, "serial": export.serial,
            "labels": export.labels, "annotations": export.annotations, "conditions": conditions(&reason, &message),
        }));
        let (groups, serial) = (export.groups.len().to_string(), export.serial.to_string());
        let conflict = if message.is_empty() { String::new() } else { reason };
        let (ports, unmeshed) = (ports(&export.ports), unmeshed(export));
        table.row([cluster.clone(), service, ports, healthy.to_string(), groups, unmeshed, to, serial, conflict]);
    }
    for (cluster, service, conditions) in invalid_exports(context).await {
        let reason = conditions[0]["reason"].as_str().unwrap_or("Invalid").to_owned();
        rows.push(json!({"cluster": cluster, "service": service, "conditions": conditions}));
        let nothing = || "-".to_owned();
        table.row([cluster, service, nothing(), nothing(), nothing(), nothing(), nothing(), nothing(), reason]);
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

/// The conditions of an export that the hub has: its cluster found it valid, and it is published.
fn conditions(conflict: &str, message: &str) -> Value {
    let status = if message.is_empty() { "False" } else { "True" };
    json!([
        {"type": "Valid", "status": "True", "reason": "Valid", "message": ""},
        {"type": "Ready", "status": "True", "reason": "Exported", "message": ""},
        {"type": "Conflict", "status": status, "reason": conflict, "message": message},
    ])
}

/// ServiceExports that export nothing: cluster, service, conditions. Only the clusters' agents know them; asked are those of
/// the fleet, if there is one.
async fn invalid_exports(context: &Context) -> Vec<(String, String, Value)> {
    let Ok(fleet) = context.fleet() else { return Vec::new() };
    let mut found = Vec::new();
    for cluster in &fleet.plan().clusters {
        let answer = get_json(at(cluster.agent, port::ADMIN), "/debug/exports", Duration::from_secs(2)).await;
        let exports = answer.ok().and_then(|answer| answer["exports"].as_array().cloned()).unwrap_or_default();
        for export in exports {
            let valid = export["conditions"][0]["status"] != "False";
            if let (false, Some(service)) = (valid, export["service"].as_str()) {
                found.push((cluster.name.to_string(), service.to_owned(), export["conditions"].clone()));
            }
        }
    }
    found
}

pub(super) async fn gateways(context: &Context) -> Result<u8> {
    let resources = read(context).await?;
    let mut table = Table::new(&["CLUSTER", "GATEWAY", "QUIC ADDRESS", "SERIAL"]);
    let mut rows: Vec<Value> = Vec::new();
    for (cluster, set) in signed::<GatewaySet>(&resources, Kind::Gateways)? {
        for gateway in set.gateways {
            rows.push(json!({
                "cluster": cluster, "gateway": gateway.name, "quic": gateway.quic_address, "serial": set.serial,
            }));
            table.row([cluster.clone(), gateway.name, gateway.quic_address, set.serial.to_string()]);
        }
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

/// What becomes of the endpoints of an export that have no sidecar: `as <account>` where gateways speak for them.
fn unmeshed(export: &Export) -> String {
    let without: BTreeSet<&str> =
        export.groups.iter().filter(|group| !group.meshed).map(|group| group.service_account.as_str()).collect();
    let told = without.iter().map(|account| match *account {
        "" => "denied".to_owned(),
        account => format!("as {account}"),
    });
    if without.is_empty() { "none".to_owned() } else { told.collect::<Vec<_>>().join(", ") }
}

/// Ports of the gateways of a fleet at which clients without a sidecar reach services of other clusters.
pub(super) async fn listeners(context: &Context) -> Result<u8> {
    let fleet = context.fleet()?;
    let mut table = Table::new(&["CLUSTER", "GATEWAY", "SERVICE", "PORT", "LISTENER", "STATE"]);
    let mut rows: Vec<Value> = Vec::new();
    for cluster in &fleet.plan().clusters {
        for gateway in &cluster.gateways {
            let admin = at(gateway.ip, port::ADMIN);
            let found = get_json(admin, "/debug/listeners", Duration::from_secs(2)).await;
            let found = found.with_context(|| format!("{}/{} does not answer", cluster.name, gateway.name))?;
            for row in found.as_array().into_iter().flatten() {
                let text = |field: &str| row[field].as_str().unwrap_or_default().to_owned();
                rows.push(json!({
                    "cluster": cluster.name.as_str(), "gateway": gateway.name, "service": row["service"],
                    "port": row["port"], "listener": row["address"], "state": row["state"], "error": row["error"],
                }));
                let own = [cluster.name.to_string(), gateway.name.clone()].into_iter();
                table.row(own.chain([text("service"), row["port"].to_string(), text("address"), text("state")]));
            }
        }
    }
    output::print(context.output, &table, &rows)?;
    Ok(0)
}

fn ports(ports: &[Port]) -> String {
    let ports = ports.iter().map(|port| format!("{}/{}", port.number, port.protocol));
    ports.collect::<Vec<_>>().join(",")
}

/// How far a drain has come.
fn drain_of(drain: &Drain, now_ms: u64) -> String {
    if drain.leaving {
        return "leaving".to_owned();
    }
    match ::mesh::drain_share(drain.started_at_ms, drain.over_ms, now_ms) {
        0 => format!("drained, since {}", when(drain.started_at_ms.saturating_add(drain.over_ms))),
        share => format!("{share} % of its share, over {}", span(drain.over_ms / 1000)),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A moment in Unix milliseconds, as a person would say it.
pub(super) fn when(unix_ms: u64) -> String {
    let moment = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms);
    match SystemTime::now().duration_since(moment) {
        Ok(ago) => format!("{} ago", span(ago.as_secs())),
        Err(ahead) => format!("in {}", span(ahead.duration().as_secs())),
    }
}

fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}
