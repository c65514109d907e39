//! The certificate authority as a service: SVIDs for workloads that prove their bootstrap secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::agent::certificate_authority_server::CertificateAuthority;
use api::agent::{IssueSvidRequest, IssueSvidResponse};
use config::Local;
use identity::ClusterCa;
use identity::bootstrap::{BootstrapError, Registered};
use mesh::{SYSTEM_NAMESPACE, SpiffeId};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// A CSR is a few hundred bytes.
const MAX_CSR: usize = 16 * 1024;

/// Why no SVID is issued.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Unknown workload and wrong secret look alike to the caller, so that names cannot be probed.
    #[error("the workload is not registered, or its secret is another one")]
    NotProven,
    /// The CSR is not one, or does not prove its key.
    #[error("no certificate can be issued")]
    Issue(#[source] identity::IssueError),
    /// The registration is there but cannot be used.
    #[error("the registration cannot be used")]
    Registration(#[source] BootstrapError),
    /// An identity is asked for under which the workload may not speak for others.
    #[error(
        "{0:?} is not issued to this workload; hint: gateways get identities that a ServiceExport names, and nobody else"
    )]
    StandIn(String),
    /// The CSR is too large.
    #[error("the CSR has more than {MAX_CSR} bytes")]
    TooLarge,
}

/// Issues SVIDs; the registrations are read live.
#[derive(Clone)]
pub struct Authority {
    ca: Arc<ClusterCa>,
    data_dir: PathBuf,
    ttl: Duration,
    /// Which identities exports name for pods without a sidecar.
    local: watch::Receiver<Arc<Local>>,
}

impl Authority {
    /// An authority over the registrations in `data_dir/bootstrap`.
    pub fn new(ca: Arc<ClusterCa>, data_dir: &Path, ttl: Duration, local: watch::Receiver<Arc<Local>>) -> Self {
        Self { ca, data_dir: data_dir.to_owned(), ttl, local }
    }

    /// Issues an SVID as the registration says, whatever the CSR asks for. Blocking: it reads a file.
    pub fn issue(&self, request: &IssueSvidRequest, now: SystemTime) -> Result<(SpiffeId, IssueSvidResponse), Refused> {
        if request.csr.len() > MAX_CSR {
            return Err(Refused::TooLarge);
        }
        let registered = match Registered::load(&self.data_dir, &request.workload) {
            Ok(registered) if registered.check(&request.secret) => registered,
            Ok(_) | Err(BootstrapError::NotRegistered(_) | BootstrapError::Name(_)) => return Err(Refused::NotProven),
            Err(error) => return Err(Refused::Registration(error)),
        };
        let own = registered.spiffe_id(self.ca.trust_domain()).map_err(Refused::Registration)?;
        let (id, chain) = match request.stand_in.as_str() {
            "" => (own.clone(), self.ca.issue(&request.csr, &own, self.ttl, now)),
            asked => {
                let id = stand_in(&own, asked, &self.local.borrow());
                let id = id.ok_or_else(|| Refused::StandIn(shown(asked)))?;
                // Who steals it from a gateway can answer as the service, but call nobody in its name.
                let chain = self.ca.issue_to_server(&request.csr, &id, self.ttl, now);
                (id, chain)
            }
        };
        let chain = chain.map_err(Refused::Issue)?;
        let chain = chain.iter().map(|der| der.as_ref().to_vec()).collect();
        let roots = vec![self.ca.root_der().as_ref().to_vec()];
        Ok((id, IssueSvidResponse { chain, roots }))
    }
}

/// The identity that a gateway asks for, if an export of the cluster lets gateways speak under it.
fn stand_in(own: &SpiffeId, asked: &str, local: &Local) -> Option<SpiffeId> {
    let asked: SpiffeId = asked.parse().ok()?;
    let ours = asked.trust_domain() == own.trust_domain() && asked.namespace().as_str() != SYSTEM_NAMESPACE;
    let mut endpoints = local.services.values().flat_map(|service| &service.endpoints);
    let named = endpoints.any(|endpoint| endpoint.stand_in.as_ref() == Some(&asked));
    (own.is_system("gateway") && ours && named).then_some(asked)
}

fn shown(asked: &str) -> String {
    asked.chars().take(300).collect()
}

#[tonic::async_trait]
impl CertificateAuthority for Authority {
    async fn issue_svid(&self, request: Request<IssueSvidRequest>) -> Result<Response<IssueSvidResponse>, Status> {
        let request = request.into_inner();
        let workload: String = request.workload.chars().take(200).collect();
        let authority = self.clone();
        let issued = tokio::task::spawn_blocking(move || authority.issue(&request, SystemTime::now())).await;
        match issued {
            Ok(Ok((identity, response))) => {
                tracing::info!(workload, %identity, "svid issued");
                Ok(Response::new(response))
            }
            Ok(Err(error)) => {
                tracing::warn!(workload, error = &error as &dyn std::error::Error, "no svid is issued");
                Err(match error {
                    Refused::NotProven | Refused::StandIn(_) => Status::permission_denied(error.to_string()),
                    Refused::Issue(_) | Refused::TooLarge => Status::invalid_argument(error.to_string()),
                    Refused::Registration(_) => Status::internal(error.to_string()),
                })
            }
            Err(_) => Err(Status::unavailable("the agent is shutting down")),
        }
    }
}

#[cfg(test)]
mod tests {
    use federation_crds::parse_manifests;

    use super::*;

    const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: legacy, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: legacy-1
  namespace: shop
  labels: {kubernetes.io/service-name: legacy}
  annotations: {isthmus.dev/service-account: old}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.0.0.9]}]
";

    fn local(export: &str) -> Local {
        let mut text = SERVICE.to_owned();
        if !export.is_empty() {
            text.push_str("---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\n");
            text.push_str(&format!("metadata: {{name: legacy, namespace: shop, annotations: {export}}}\n"));
        }
        let parsed = parse_manifests(&text, "test").expect("manifests");
        config::local::build(&parsed, &"east.demo".parse().expect("trust domain"))
    }

    #[test]
    fn gateways_get_the_identities_that_exports_name_and_nobody_else_does() {
        const GATEWAY: &str = "isthmus-system/sa/gateway";
        const ALLOW: &str = "{isthmus.dev/unmeshed: allow}";
        const NAMED: &str = "{isthmus.dev/unmeshed: allow, isthmus.dev/unmeshed-service-account: front}";
        let cases = [
            ("the pods' own account", GATEWAY, ALLOW, "east.demo/ns/shop/sa/old", true),
            ("the account that the export names", GATEWAY, NAMED, "east.demo/ns/shop/sa/front", true),
            ("not the pods' own then", GATEWAY, NAMED, "east.demo/ns/shop/sa/old", false),
            ("another account", GATEWAY, ALLOW, "east.demo/ns/shop/sa/admin", false),
            ("another namespace", GATEWAY, ALLOW, "east.demo/ns/default/sa/old", false),
            ("another trust domain", GATEWAY, ALLOW, "west.demo/ns/shop/sa/old", false),
            ("not exported", GATEWAY, "", "east.demo/ns/shop/sa/old", false),
            ("exported for meshed pods", GATEWAY, "{}", "east.demo/ns/shop/sa/old", false),
            ("denied", GATEWAY, "{isthmus.dev/unmeshed: deny}", "east.demo/ns/shop/sa/old", false),
            ("a workload", "shop/sa/web", ALLOW, "east.demo/ns/shop/sa/old", false),
            ("the DNS shim", "isthmus-system/sa/dns", ALLOW, "east.demo/ns/shop/sa/old", false),
            ("an agent's", GATEWAY, ALLOW, "east.demo/ns/isthmus-system/sa/agent", false),
            ("no identity", GATEWAY, ALLOW, "everything", false),
        ];
        for (name, own, export, asked, expected) in cases {
            let own = format!("spiffe://east.demo/ns/{own}").parse().expect("identity");
            let asked = if asked.contains('/') { format!("spiffe://{asked}") } else { asked.to_owned() };
            assert_eq!(stand_in(&own, &asked, &local(export)).is_some(), expected, "{name}");
        }
    }
}
