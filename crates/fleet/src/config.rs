//! Writes the configuration files and credentials of a fleet's components.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use identity::bootstrap::{Registration, register};
use mesh::Namespace;
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::layout::{ANNOTATIONS, Layout};
use crate::network;
use crate::plan::{ClusterPlan, EDGE_NAMESPACE, EdgePlan, HubNode, Plan, PodPlan, at, port};
use crate::process::{make_parent, write_atomic};

/// The namespace of Isthmus' own components.
const SYSTEM: &str = mesh::SYSTEM_NAMESPACE;
/// How long proxies let streams finish after SIGTERM, in seconds.
const DRAIN_SECONDS: u64 = 5;

/// Writes `hub-<id>/hub.yaml` of every node.
pub fn write_hub(layout: &Layout, plan: &Plan) -> Result<()> {
    let address = |node: &HubNode, port| at(node.ip, port).to_string();
    let members: Vec<Value> = plan
        .hub
        .iter()
        .map(|node| json!({"id": node.id, "api": address(node, port::HUB_API), "join": address(node, port::HUB_JOIN)}))
        .collect();
    for node in &plan.hub {
        let directory = layout.hub(node.id);
        let config = json!({
            "node_id": node.id,
            "mesh_id": plan.mesh.as_str(),
            "data_dir": directory,
            "listen": {
                "api": address(node, port::HUB_API),
                "join": address(node, port::HUB_JOIN),
                "admin": address(node, port::ADMIN),
            },
            "members": members,
        });
        write_yaml(&directory.join("hub.yaml"), &config)?;
    }
    Ok(())
}

/// Writes `agent/agent.yaml` of a cluster.
pub fn write_agent(layout: &Layout, plan: &Plan, cluster: &ClusterPlan) -> Result<()> {
    let name = cluster.name.as_str();
    let gateways: Vec<Value> = cluster
        .gateways
        .iter()
        .map(|gateway| {
            json!({
                "name": gateway.name,
                "hbone": at(gateway.ip, port::HBONE).to_string(),
                "quic": at(gateway.ip, port::QUIC).to_string(),
            })
        })
        .collect();
    let config = json!({
        "cluster": name,
        "mesh_id": plan.mesh.as_str(),
        "data_dir": layout.agent(name),
        "source": {"directory": layout.manifests(name)},
        "listen": {
            "discovery": at(cluster.agent, port::DISCOVERY).to_string(),
            "ca": at(cluster.agent, port::CA).to_string(),
            "admin": at(cluster.agent, port::ADMIN).to_string(),
        },
        "gateways": gateways,
    });
    write_yaml(&layout.agent(name).join("agent.yaml"), &config)
}

/// Registers every proxy of a cluster with its agent and writes its configuration and credential.
pub fn write_proxies(layout: &Layout, plan: &Plan, cluster: &ClusterPlan) -> Result<()> {
    let name = cluster.name.as_str();
    for gateway in &cluster.gateways {
        let directory = layout.component(name, &gateway.name);
        let credential = enrol(layout, cluster, Enrolment::system(&gateway.name, "gateway"), &directory)?;
        let config = json!({
            "name": gateway.name,
            "credential": credential,
            "cache_dir": directory.join("cache"),
            "listen": {
                "hbone": at(gateway.ip, port::HBONE).to_string(),
                "quic": at(gateway.ip, port::QUIC).to_string(),
                "admin": at(gateway.ip, port::ADMIN).to_string(),
            },
            "drain_seconds": DRAIN_SECONDS,
        });
        write_yaml(&directory.join("gateway.yaml"), &config)?;
    }
    cluster.edges.iter().try_for_each(|edge| write_edge(layout, cluster, edge))?;
    write_dns(layout, plan, cluster)?;
    cluster.pods.iter().filter(|pod| pod.mesh).try_for_each(|pod| write_sidecar(layout, plan, cluster, pod))
}

fn write_edge(layout: &Layout, cluster: &ClusterPlan, edge: &EdgePlan) -> Result<()> {
    let directory = layout.component(cluster.name.as_str(), &edge.name);
    let enrolment = Enrolment {
        namespace: EDGE_NAMESPACE,
        name: &edge.name,
        service_account: &edge.service_account,
        labels: edge.labels.clone(),
        locality: String::new(),
    };
    let credential = enrol(layout, cluster, enrolment, &directory)?;
    let config = json!({
        "name": edge.name,
        "role": edge.role.as_str(),
        "credential": credential,
        "cache_dir": directory.join("cache"),
        "listen": {
            "mtls": at(edge.ip, port::HBONE).to_string(),
            "admin": at(edge.ip, port::ADMIN).to_string(),
        },
        "bind": edge.ip.to_string(),
        "dns": cluster.resolver().to_string(),
        "drain_seconds": DRAIN_SECONDS,
    });
    write_yaml(&directory.join("gateway.yaml"), &config)
}

fn write_dns(layout: &Layout, plan: &Plan, cluster: &ClusterPlan) -> Result<()> {
    let directory = layout.component(cluster.name.as_str(), "dns");
    let credential = enrol(layout, cluster, Enrolment::system("dns", "dns"), &directory)?;
    let config = json!({
        "credential": credential,
        "cache_dir": directory.join("cache"),
        "listen": {
            "dns": cluster.resolver().to_string(),
            "admin": at(cluster.dns, port::ADMIN).to_string(),
        },
        // A namespace has no way to the machine's resolver.
        "forward": if plan.ground == Ground::Loopback { vec!["resolv.conf"] } else { vec![] },
        // … and its workloads no other DNS.
        "serve_cluster_domain": plan.ground != Ground::Loopback,
    });
    write_yaml(&directory.join("dns.yaml"), &config)
}

fn write_sidecar(layout: &Layout, plan: &Plan, cluster: &ClusterPlan, pod: &PodPlan) -> Result<()> {
    let directory = layout.pod(cluster.name.as_str(), &pod.name);
    let enrolment = Enrolment {
        namespace: pod.namespace.as_str(),
        name: &pod.name,
        service_account: &pod.service_account,
        labels: pod.labels.clone(),
        locality: pod.locality.clone(),
    };
    let credential = enrol(layout, cluster, enrolment, &directory)?;
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            let mut listed = json!({"number": port.number, "protocol": port.protocol.as_str()});
            if plan.ground == Ground::Loopback {
                listed["app"] = at(pod.ip, port.app).to_string().into();
            }
            listed
        })
        .collect();
    let mut config = json!({
        "credential": credential,
        "cache_dir": directory.join("cache"),
        "listen": {
            "outbound": pod.proxy().to_string(),
            "mtls": at(pod.ip, port::HBONE).to_string(),
            "admin": at(pod.ip, port::ADMIN).to_string(),
        },
        "bind": pod.ip.to_string(),
        "ports": ports,
        "drain_seconds": DRAIN_SECONDS,
        "dns": cluster.resolver().to_string(),
    });
    if plan.ground == Ground::Netns {
        config["capture"] = json!({"udp": true});
        // Peers dial either of the pod's addresses.
        config["listen"]["mtls"] = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port::HBONE)).to_string().into();
    }
    if plan.ground == Ground::Netns {
        write_yaml(&directory.join(ANNOTATIONS), &json!(annotations(cluster, pod)))?;
    }
    write_yaml(&directory.join("sidecar.yaml"), &config)
}

/// What of a pod is captured, by the pod's annotations as its user wrote them. Besides what they leave out, requests to the
/// shim and to the explicit proxy go past.
fn annotations(cluster: &ClusterPlan, pod: &PodPlan) -> BTreeMap<String, String> {
    let mut annotations = pod.annotations.clone();
    let past = [
        ("excludeOutboundIPRanges", format!("{}/32,{}/128", cluster.dns, network::ipv6(cluster.dns))),
        ("excludeInboundPorts", pod.proxy_port.to_string()),
    ];
    for (name, value) in past {
        let all = annotations.entry(format!("traffic.sidecar.istio.io/{name}")).or_default();
        *all = if all.is_empty() { value } else { format!("{all},{value}") };
    }
    annotations
}

/// Who is registered.
struct Enrolment<'a> {
    namespace: &'a str,
    name: &'a str,
    service_account: &'a str,
    labels: BTreeMap<String, String>,
    locality: String,
}

impl<'a> Enrolment<'a> {
    fn system(name: &'a str, service_account: &'a str) -> Self {
        Self { namespace: SYSTEM, name, service_account, labels: BTreeMap::new(), locality: String::new() }
    }
}

/// Registers one proxy with the agent and returns the path of its credential.
fn enrol(
    layout: &Layout,
    cluster: &ClusterPlan,
    enrolment: Enrolment<'_>,
    directory: &Path,
) -> Result<std::path::PathBuf> {
    let agent = layout.agent(cluster.name.as_str());
    let roots = agent.join("ca/ca.crt");
    let address = |ip: Ipv4Addr, port| at(ip, port).to_string();
    let registration = Registration {
        workload: format!("{}/{}", enrolment.namespace, enrolment.name),
        namespace: Namespace::new(enrolment.namespace)?,
        service_account: enrolment.service_account.to_owned(),
        cluster: cluster.name.clone(),
        trust_domain: cluster.trust_domain.clone(),
        roots_pem: std::fs::read_to_string(&roots).with_context(|| format!("cannot read {}", roots.display()))?,
        ca_addresses: vec![address(cluster.agent, port::CA)],
        discovery_addresses: vec![address(cluster.agent, port::DISCOVERY)],
        labels: enrolment.labels,
        locality: enrolment.locality,
    };
    let path = directory.join("credential.json");
    make_parent(&path)?;
    register(&agent, &registration, &path)
        .with_context(|| format!("cannot register {} with its agent", registration.workload))?;
    Ok(path)
}

fn write_yaml(path: &Path, config: &Value) -> Result<()> {
    let text = serde_saphyr::to_string(config).with_context(|| format!("cannot write {}", path.display()))?;
    write_atomic(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_leaves_out_what_it_says_besides_the_shim_and_the_explicit_proxy() {
        let file = "name: f\nground: netns\nclusters: [{name: east, workloads: [\n\
                    {name: a, annotations: {traffic.sidecar.istio.io/excludeInboundPorts: '8080', other: x}}, {name: b}]}]\n";
        let file = crate::file::FleetFile::parse(file).unwrap_or_else(|error| panic!("{error}"));
        let plan = Plan::new(&file, 0);
        let said = |n: usize| annotations(&plan.clusters[0], &plan.clusters[0].pods[n]);
        let ports = |n: usize| said(n)["traffic.sidecar.istio.io/excludeInboundPorts"].clone();
        let explicit = port::EXPLICIT;
        assert_eq!((ports(0), ports(1)), (format!("8080,{explicit}"), explicit.to_string()));
        assert_eq!(said(0)["other"], "x");
        assert!(said(1)["traffic.sidecar.istio.io/excludeOutboundIPRanges"].contains("/32,"));
    }
}
