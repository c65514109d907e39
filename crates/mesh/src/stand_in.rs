//! Pods without a sidecar for which the gateways of their cluster speak to other clusters.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::Serialize;

use crate::model::{View, Workload};

/// A pod without a sidecar, of which a gateway ends the inner mTLS as the pod's sidecar would. The last hop, from the gateway
/// to the pod, is plain.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StandIn {
    /// Where the pod is.
    pub address: IpAddr,
    /// The pod's ports and what is configured for it, as its sidecar would have them.
    pub workload: Workload,
}

/// Whether a gateway dials what is said to be a pod's address itself. EndpointSlices are written by users of a namespace, and
/// must not lead to what only the gateway's own host reaches: its admin listener, or a cloud's metadata. Loopback addresses are
/// pods' only where gateways have such, too.
pub(crate) fn speaks_for(view: &View, address: IpAddr) -> bool {
    let address = address.to_canonical();
    let mut gateways = view.gateways.values().map(|gateway| gateway.hbone_address.ip().to_canonical());
    let nobody = match address {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.is_unspecified() || ip.is_multicast(),
    };
    !nobody && gateways.all(|gateway| gateway != address && (gateway.is_loopback() || !address.is_loopback()))
}

impl StandIn {
    /// Whether a gateway of the cluster speaks for what is there.
    pub fn is_spoken_for(&self, view: &View) -> bool {
        speaks_for(view, self.address)
    }

    /// Port of the pod → where to dial it.
    pub fn ports(&self) -> BTreeMap<u16, SocketAddr> {
        let place = |number| (number, SocketAddr::new(self.address, number));
        self.workload.ports.iter().map(|port| place(port.number)).collect()
    }

    /// What the pod's sidecar would see of the mesh: all that decisions on inbound connections ask for.
    pub fn view(&self, whole: &View) -> View {
        View {
            revision: whole.revision,
            mesh: whole.mesh.clone(),
            clusters: whole.clusters.clone(),
            workload: Some(Arc::new(self.workload.clone())),
            ..View::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Mesh;
    use crate::model::LocalGateway;

    #[test]
    fn gateways_dial_pods_and_nothing_of_their_own_host() {
        let loopback = Mesh::east().view();
        let mut real = loopback.clone();
        let gateway = real.gateways["gateway-1"].as_ref();
        let gateway = LocalGateway { hbone_address: "10.0.0.2:15008".parse().unwrap(), ..gateway.clone() };
        real.gateways.insert("gateway-1".into(), Arc::new(gateway));
        for (address, on_loopback, on_network) in [
            ("10.0.0.20", true, true),
            ("fd00::20", true, true),
            ("127.0.1.20", true, false),
            ("::ffff:127.0.0.1", true, false),
            ("::1", true, false),
            ("127.0.0.2", false, false),
            ("10.0.0.2", true, false),
            ("::ffff:10.0.0.2", true, false),
            ("169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("0.0.0.0", false, false),
            ("::", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
        ] {
            let found = [&loopback, &real].map(|view| speaks_for(view, address.parse().unwrap()));
            assert_eq!(found, [on_loopback, on_network], "{address}");
        }
    }
}
