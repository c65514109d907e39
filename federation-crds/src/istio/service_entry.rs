//! ServiceEntry (`networking.istio.io`): hosts that are added to the registry.

#![expect(
    missing_docs,
    reason = "the fields are those of https://istio.io/latest/docs/reference/config/networking/service-entry/"
)]

use std::collections::BTreeMap;

use super::IstioStatus;
use super::fields::{message, words};
use super::workload_entry::WorkloadEntrySpec;

message! {
    /// The specification of a ServiceEntry.
    kube(kind = "ServiceEntry", shortname = "se")
    struct ServiceEntrySpec {
        hosts: Vec<String>,
        addresses: Vec<String>,
        ports: Vec<EntryPort>,
        location: Location,
        resolution: Resolution,
        endpoints: Vec<WorkloadEntrySpec>,
        workload_selector: Option<LabelSelector>,
        export_to: Vec<String>,
        subject_alt_names: Vec<String>,
    }

    /// A port of the host.
    struct EntryPort {
        number: i64,
        protocol: String,
        name: String,
        target_port: i64,
    }

    /// The workloads that an object is for.
    struct LabelSelector {
        labels: BTreeMap<String, String>,
    }
}

words! {
    /// Whether the host is part of the mesh.
    enum Location { MeshExternal = "MESH_EXTERNAL", MeshInternal = "MESH_INTERNAL" }

    /// How endpoints are found.
    enum Resolution {
        None = "NONE", Static = "STATIC", Dns = "DNS", DnsRoundRobin = "DNS_ROUND_ROBIN", DynamicDns = "DYNAMIC_DNS",
    }
}
