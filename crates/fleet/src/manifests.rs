//! Manifests of a cluster: those that follow from the fleet file, and those that a user applies.

mod store;

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::file::Export;
use crate::network::ipv6;
use crate::plan::{ClusterPlan, EDGE_NAMESPACE, EdgePlan, PodPlan, ServicePlan};

pub use store::{Applied, apply, delete, documents, file_name, read_all};

/// Annotation of an EndpointSlice: the service account of its endpoints.
pub const SERVICE_ACCOUNT: &str = federation_crds::SERVICE_ACCOUNT_ANNOTATION;
/// Annotation of an EndpointSlice: whether a sidecar stands beside its endpoints.
pub const MESHED: &str = federation_crds::MESHED_ANNOTATION;
/// Annotation of an EndpointSlice: labels of its pods, `key=value` joined by commas.
pub const POD_LABELS: &str = federation_crds::POD_LABELS_ANNOTATION;
/// Annotation of an EndpointSlice: the locality of its endpoints.
pub const LOCALITY: &str = federation_crds::LOCALITY_ANNOTATION;

/// The manifests that the fleet file implies for a cluster: a Service and one EndpointSlice per pod for each service, and a
/// ServiceExport where it is exported; and the same for ingress and egress gateways.
pub fn generate(cluster: &ClusterPlan) -> Vec<Value> {
    let mut objects = Vec::new();
    for plan in &cluster.services {
        objects.push(service(plan));
        let pods = cluster.pods.iter().filter(|pod| plan.pods.contains(&pod.name));
        objects.extend(pods.flat_map(|pod| endpoint_slices(plan, pod)));
        objects.extend(export(plan));
    }
    for edge in &cluster.edges {
        objects.extend([edge_service(edge), edge_slice(edge)]);
    }
    objects
}

fn service(service: &ServicePlan) -> Value {
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let mut declared = json!({"name": port.name, "port": port.port, "targetPort": port.port});
            port.protocol.declare(&mut declared);
            declared
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "namespace": service.namespace.as_str()},
        "spec": with_cluster_ips(json!({"ports": ports}), &service.cluster_ips),
    })
}

/// Without cluster IPs the agent gives addresses out.
fn with_cluster_ips(mut spec: Value, cluster_ips: &[IpAddr]) -> Value {
    if let Some(first) = cluster_ips.first() {
        spec["clusterIP"] = json!(first);
        spec["clusterIPs"] = json!(cluster_ips);
        spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
        spec["ipFamilyPolicy"] = json!("PreferDualStack");
    }
    spec
}

/// A slice of IPv4 and, where pods have both, one of IPv6. By name the first one comes first: the agent reads them so.
fn endpoint_slices(service: &ServicePlan, pod: &PodPlan) -> Vec<Value> {
    let mut slice = endpoint_slice(service, pod);
    if service.cluster_ips.len() < 2 {
        return vec![slice];
    }
    let mut slice6 = slice.clone();
    slice["metadata"]["name"] = json!(format!("{}-{}-ipv4", service.name, pod.name));
    slice6["metadata"]["name"] = json!(format!("{}-{}-ipv6", service.name, pod.name));
    slice6["addressType"] = json!("IPv6");
    slice6["endpoints"][0]["addresses"] = json!([ipv6(pod.ip)]);
    vec![slice, slice6]
}

/// One slice per pod, because service account and labels are annotations of the slice.
fn endpoint_slice(service: &ServicePlan, pod: &PodPlan) -> Value {
    let labels: Vec<String> = pod.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let ports: Vec<Value> = pod
        .ports
        .iter()
        .map(|port| {
            let mut declared = json!({"name": port.name, "port": port.number});
            port.protocol.declare(&mut declared);
            declared
        })
        .collect();
    let mut slice = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}", service.name, pod.name),
            "namespace": service.namespace.as_str(),
            "labels": {"kubernetes.io/service-name": service.name},
            "annotations": {
                SERVICE_ACCOUNT: pod.service_account,
                MESHED: pod.mesh.to_string(),
                POD_LABELS: labels.join(","),
            },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [pod.ip.to_string()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": pod.name, "namespace": pod.namespace.as_str()},
        }],
        "ports": ports,
    });
    if !pod.locality.is_empty() {
        slice["metadata"]["annotations"][LOCALITY] = pod.locality.as_str().into();
    }
    slice
}

fn edge_service(edge: &EdgePlan) -> Value {
    let ports = edge
        .ports
        .iter()
        .map(|port| json!({"name": port.name, "port": port.port, "targetPort": port.target, "protocol": "TCP"}));
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": edge.name, "namespace": EDGE_NAMESPACE, "labels": edge.labels},
        "spec": with_cluster_ips(json!({"selector": edge.labels, "ports": ports.collect::<Vec<_>>()}), &edge.cluster_ips),
    })
}

/// Meshed: sidecars dial its mTLS port, as they do with every workload.
fn edge_slice(edge: &EdgePlan) -> Value {
    let labels: Vec<String> = edge.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let ports = edge.ports.iter().map(|port| json!({"name": port.name, "port": port.target, "protocol": "TCP"}));
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": edge.name,
            "namespace": EDGE_NAMESPACE,
            "labels": {"kubernetes.io/service-name": edge.name},
            "annotations": {
                SERVICE_ACCOUNT: edge.service_account,
                MESHED: "true",
                POD_LABELS: labels.join(","),
            },
        },
        "addressType": "IPv4",
        "endpoints": [{
            "addresses": [edge.ip.to_string()],
            "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": edge.name, "namespace": EDGE_NAMESPACE},
        }],
        "ports": ports.collect::<Vec<_>>(),
    })
}

fn export(service: &ServicePlan) -> Option<Value> {
    let mut metadata = json!({"name": service.name, "namespace": service.namespace.as_str()});
    match &service.export {
        Export::No => return None,
        Export::All => {}
        Export::To(clusters) => {
            let clusters: Vec<&str> = clusters.iter().map(|cluster| cluster.as_str()).collect();
            metadata["annotations"] = json!({federation_crds::EXPORT_TO_ANNOTATION: clusters.join(",")});
        }
    }
    Some(json!({"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceExport", "metadata": metadata}))
}
