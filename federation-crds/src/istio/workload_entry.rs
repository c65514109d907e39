//! WorkloadEntry (`networking.istio.io`): one workload outside of Kubernetes.

#![expect(
    missing_docs,
    reason = "the fields are those of https://istio.io/latest/docs/reference/config/networking/workload-entry/"
)]

use std::collections::BTreeMap;

use super::IstioStatus;
use super::fields::message;

message! {
    /// The specification of a WorkloadEntry; also one endpoint of a ServiceEntry.
    kube(kind = "WorkloadEntry", shortname = "we")
    struct WorkloadEntrySpec {
        address: String,
        ports: BTreeMap<String, i64>,
        labels: BTreeMap<String, String>,
        network: String,
        locality: String,
        weight: i64,
        service_account: String,
    }
}
