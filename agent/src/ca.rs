//! The certificate authority as a service: SVIDs for workloads that prove their bootstrap secret.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::agent::certificate_authority_server::CertificateAuthority;
use api::agent::{IssueSvidRequest, IssueSvidResponse};
use identity::ClusterCa;
use identity::bootstrap::{BootstrapError, Registered};
use mesh::SpiffeId;
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
}

impl Authority {
    /// An authority over the registrations in `data_dir/bootstrap`.
    pub fn new(ca: Arc<ClusterCa>, data_dir: &Path, ttl: Duration) -> Self {
        Self { ca, data_dir: data_dir.to_owned(), ttl }
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
        let id = registered.spiffe_id(self.ca.trust_domain()).map_err(Refused::Registration)?;
        let chain = self.ca.issue(&request.csr, &id, self.ttl, now).map_err(Refused::Issue)?;
        let chain = chain.iter().map(|der| der.as_ref().to_vec()).collect();
        let roots = vec![self.ca.root_der().as_ref().to_vec()];
        Ok((id, IssueSvidResponse { chain, roots }))
    }
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
                    Refused::NotProven => Status::permission_denied(error.to_string()),
                    Refused::Issue(_) | Refused::TooLarge => Status::invalid_argument(error.to_string()),
                    Refused::Registration(_) => Status::internal(error.to_string()),
                })
            }
            Err(_) => Err(Status::unavailable("the agent is shutting down")),
        }
    }
}
