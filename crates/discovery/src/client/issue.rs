//! Gets the proxy's SVID from the cluster's CA and replaces it at half of its life.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::agent::IssueSvidRequest;
use api::agent::certificate_authority_client::CertificateAuthorityClient;
use dial::Dialer;
use identity::bootstrap::Credential;
use identity::{Credentials, KeyRequest, NOT_BEFORE_ALLOWANCE, PeerPolicy, Svid, TrustBundles};
use mesh::SpiffeId;
use rand::Rng;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connect::{self, ALPN, ConnectError};
use super::metrics::Metrics;
use crate::backoff::Backoff;

/// Bound on one whole attempt.
const ATTEMPT: Duration = Duration::from_secs(15);

/// Why no SVID was issued.
#[derive(Debug, thiserror::Error)]
enum IssueError {
    #[error("no CA address is configured")]
    NoAddress,
    #[error("the attempt took too long")]
    TimedOut,
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("TLS cannot be set up")]
    Tls(#[source] identity::TlsConfigError),
    #[error("the key or its certificate cannot be used")]
    Key(#[from] identity::SvidError),
    #[error("the CA refused")]
    Refused(#[from] Box<tonic::Status>),
}

/// The task that keeps the SVID fresh.
pub(super) struct Issuer {
    credential: Credential,
    /// Without an SVID of its own: the CA listener asks for no client certificate.
    anonymous: Credentials,
    svid: watch::Sender<Option<Arc<Svid>>>,
    metrics: Metrics,
    dialer: Dialer,
    /// Not the own identity but one under which the proxy speaks for others.
    stand_in: Option<SpiffeId>,
}

impl Issuer {
    pub(super) fn new(
        credential: Credential,
        bundles: watch::Receiver<Arc<TrustBundles>>,
        svid: watch::Sender<Option<Arc<Svid>>>,
        metrics: Metrics,
        dialer: Dialer,
    ) -> Self {
        let (_, none) = watch::channel(None);
        Self { credential, anonymous: Credentials::new(none, bundles), svid, metrics, dialer, stand_in: None }
    }

    /// For an identity under which the proxy speaks for others.
    pub(super) fn standing_in(self, identity: SpiffeId) -> Self {
        Self { stand_in: Some(identity), ..self }
    }

    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::new();
        for attempt in 0_usize.. {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = tokio::time::timeout(ATTEMPT, self.issue(attempt)) => outcome,
            };
            let wait = match outcome.unwrap_or(Err(IssueError::TimedOut)) {
                Ok(svid) => {
                    backoff.reset();
                    if self.stand_in.is_none() {
                        self.metrics.svid_issued(svid.not_after());
                    }
                    let wait =
                        rotation_delay(&(svid.not_before()..svid.not_after()), SystemTime::now(), &mut rand::rng());
                    tracing::info!(identity = %svid.id(), renew_in_ms = wait.as_millis() as u64, "svid issued");
                    self.svid.send_replace(Some(Arc::new(svid)));
                    wait
                }
                Err(error) => {
                    let wait = backoff.next_delay(&mut rand::rng());
                    self.metrics.svid_failed();
                    tracing::warn!(error = &error as &dyn std::error::Error, "no svid was issued");
                    wait
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn issue(&self, attempt: usize) -> Result<Svid, IssueError> {
        let addresses = &self.credential.ca_addresses;
        let address = addresses.get(attempt % addresses.len().max(1)).ok_or(IssueError::NoAddress)?;
        let trust_domain = self.credential.trust_domain.clone();
        let policy = PeerPolicy::System { account: "agent", trust_domain: Some(trust_domain) };
        let config = self.anonymous.client_config_open(policy, ALPN).map_err(IssueError::Tls)?;
        let channel = connect::connect(self.dialer, address, config, &self.anonymous).await?;
        let request = KeyRequest::generate()?;
        let response = CertificateAuthorityClient::new(channel)
            .issue_svid(IssueSvidRequest {
                workload: self.credential.workload.clone(),
                secret: self.credential.secret.reveal().to_owned(),
                csr: request.csr_der().to_vec(),
                stand_in: self.stand_in.as_ref().map(ToString::to_string).unwrap_or_default(),
            })
            .await
            .map_err(Box::new)?;
        Ok(request.complete(response.into_inner().chain)?)
    }
}

/// Half of the remaining life, give or take a tenth, so that a fleet does not renew all at once. Where the own clock is behind the
/// CA's, more seems to remain than was given: the certificate's own two times say how much that was.
fn rotation_delay(validity: &Range<SystemTime>, now: SystemTime, rng: &mut impl Rng) -> Duration {
    let issued = validity.start + NOT_BEFORE_ALLOWANCE;
    let remaining = validity.end.duration_since(issued.max(now)).unwrap_or_default();
    remaining.mul_f64(rng.random_range(0.4..0.6)).max(Duration::from_millis(200))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: i64) -> Duration {
        Duration::from_secs(count.unsigned_abs())
    }

    #[test]
    fn an_svid_is_replaced_around_half_of_its_life() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut rng = rand::rng();
        for _ in 0..100 {
            // The CA's clock, from the own one; the life that it gives; the bounds of the delay.
            for (ahead, life, expected) in
                [(0, 3600, 1440..=2160), (600, 3600, 1440..=2160), (600, 60, 24..=36), (-600, 3600, 1200..=1800)]
            {
                let ca = if ahead < 0 { now - seconds(-ahead) } else { now + seconds(ahead) };
                let delay = rotation_delay(&(ca - NOT_BEFORE_ALLOWANCE..ca + seconds(life)), now, &mut rng);
                assert!(expected.contains(&delay.as_secs()), "{ahead} {life}: {delay:?}");
            }
        }
        let over = now - NOT_BEFORE_ALLOWANCE - seconds(60)..now - seconds(1);
        assert_eq!(rotation_delay(&over, now, &mut rng), Duration::from_millis(200));
    }
}
