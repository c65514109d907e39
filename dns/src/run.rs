//! The process: credentials, discovery, listeners, admin.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use discovery::{Client, ClientConfig, Role};
use identity::bootstrap::Credential;
use mesh::{Question, QuestionKind, Zones};
use serde_json::json;
use telemetry::{Admin, Readiness, Registry, Shutdown};
use tokio::net::{TcpListener, UdpSocket};

use crate::config::{Config, Upstream};
use crate::forward::Forwarder;
use crate::metrics::Metrics;
use crate::serve::serve;
use crate::shim::Shim;

/// How long the end of the process waits for the listeners to drain.
const DRAIN: Duration = Duration::from_secs(5);
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Why the shim does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The credential cannot be used.
    #[error("the credential cannot be used")]
    Credential(#[source] identity::bootstrap::BootstrapError),
    /// Discovery cannot start.
    #[error("discovery cannot start")]
    Discovery(#[source] discovery::StartError),
    /// A listener cannot be bound.
    #[error("{what} cannot listen on {address}\nhint: is another process there, and is the address local?")]
    Bind {
        /// `DNS` or `admin`.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// Runs the shim until it is shut down. It starts without its agent and without its upstreams.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), RunError> {
    let registry = Registry::new("dns");
    let readiness = Readiness::new();
    let waiting = readiness.block("no view of the mesh yet");
    let bind = |what, address| move |source| RunError::Bind { what, address, source };
    let listen = |address: SocketAddr| telemetry::when_free(address, move || TcpListener::bind(address));
    let udp = telemetry::when_free(config.listen_dns, || UdpSocket::bind(config.listen_dns)).await;
    let udp = udp.map_err(bind("DNS", config.listen_dns))?;
    let tcp = listen(config.listen_dns).await.map_err(bind("DNS", config.listen_dns))?;
    let admin = listen(config.listen_admin).await.map_err(bind("admin", config.listen_admin))?;

    let credential = Credential::load(&config.credential).map_err(RunError::Credential)?;
    let client_config = ClientConfig {
        role: Role::Dns,
        credential,
        cache_dir: config.cache_dir.clone(),
        dialer: dial::Dialer::unmarked(),
    };
    let client = Client::start(client_config, shutdown.ended(), &registry).map_err(RunError::Discovery)?;
    let upstreams = upstreams(&config);
    tracing::info!(listen = %config.listen_dns, ?upstreams, "answering");
    let metrics = Metrics::register(&registry);
    let forwarder = Forwarder::new(upstreams, config.cache, metrics.clone());
    let kept = forwarder.clone();
    let zones = Zones { cluster: config.serve_cluster_domain };
    let shim = Shim::new(client.view(), zones, forwarder, metrics);

    let watched = client.clone();
    tokio::spawn(async move {
        watched.ready().await;
        drop(waiting);
    });
    let (admin_shutdown, admin_api) = (shutdown.clone(), admin_api(&client, zones, kept, registry, readiness));
    tokio::spawn(async move {
        if let Err(error) = admin_api.serve(admin, admin_shutdown).await {
            tracing::error!(%error, "the admin listener broke");
        }
    });
    shutdown.spawn(serve(Arc::new(shim), udp, tcp, config.tcp, shutdown.draining()));
    shutdown.finish(DRAIN).await;
    Ok(())
}

fn admin_api(client: &Client, zones: Zones, forwarder: Forwarder, registry: Registry, readiness: Readiness) -> Admin {
    let (client, shown) = (client.clone(), client.clone());
    let admin = Admin::new(registry, readiness).route("/debug/view", move |_| {
        let client = client.clone();
        async move {
            let view = Arc::clone(&client.view().borrow());
            json!({
                "revision": view.revision,
                "cluster": view.cluster(),
                "age_ms": client.age().map(|age| age.as_millis() as u64),
                "hosts": view.hosts,
            })
        }
    });
    let view = shown.view();
    let admin = admin.route("/debug/explain", move |query| {
        let view = Arc::clone(&view.borrow());
        std::future::ready(explain(&view, zones, &query))
    });
    admin.route("/debug/cache", move |_| {
        let (entries, bytes) = forwarder.kept();
        std::future::ready(json!({"entries": entries, "bytes": bytes}))
    })
}

/// What the shim would answer to `name=` and `type=` now, and why.
fn explain(view: &mesh::View, zones: Zones, query: &telemetry::Query) -> serde_json::Value {
    let Some(name) = query.get("name") else {
        return json!({"error": "name: is missing", "hint": "/debug/explain?name=reviews.default.svc.clusterset.local&type=A"});
    };
    let asked = query.get("type").unwrap_or("A").to_ascii_uppercase();
    let Some(kind) = QuestionKind::from_text(&asked) else {
        return json!({"error": format!("type: {asked:?} is none that is explained"), "hint": "A, AAAA, SRV, TXT, CNAME, PTR, SOA or ANY"});
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let decision = mesh::resolve(view, zones, &Question { name: &name, kind });
    let because: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
    json!({
        "name": name, "type": asked, "revision": view.revision, "cluster": view.cluster(), "decision": decision,
        "because": because,
    })
}

/// The servers to forward to, without the shim itself: where the shim is the system's resolver, `resolv.conf` names it.
fn upstreams(config: &Config) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for upstream in &config.forward {
        match upstream {
            Upstream::Server(address) => found.push(*address),
            Upstream::ResolvConf => match std::fs::read_to_string(RESOLV_CONF) {
                Ok(text) => found.extend(name_servers(&text)),
                Err(error) => tracing::warn!(%error, "{RESOLV_CONF} cannot be read"),
            },
        }
    }
    found.retain(|address| *address != config.listen_dns);
    found
}

fn name_servers(text: &str) -> Vec<SocketAddr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next())?
    });
    // A zone after '%' belongs to link-local addresses, which need an interface: not supported.
    servers.filter_map(|server| server.parse::<IpAddr>().ok()).map(|ip| SocketAddr::new(ip, 53)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_in_resolv_conf() {
        let text =
            "# x\nsearch a.b\nnameserver 10.0.0.2\n nameserver\t::1 \nnameserver fe80::1%eth0\noptions ndots:5\n";
        let expected: Vec<SocketAddr> = vec!["10.0.0.2:53".parse().unwrap(), "[::1]:53".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}
