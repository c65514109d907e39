//! The paths that the own gateways have to other clusters.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::output::Table;

/// One row of `/debug/paths` of a gateway.
#[derive(Debug, Deserialize)]
struct Path {
    cluster: String,
    remote_gateway: String,
    address: String,
    usable: bool,
    rtt_ms: Option<f64>,
    streams: u64,
    last_error: Option<String>,
    /// What new flows take; absent from gateways that know QUIC only.
    #[serde(default = "quic")]
    transport: String,
    #[serde(default)]
    connections: Vec<Connection>,
}

/// One connection of a path.
#[derive(Debug, Deserialize)]
struct Connection {
    transport: String,
    usable: bool,
}

fn quic() -> String {
    "quic".to_owned()
}

impl Path {
    /// Such as `quic x3`: the transport, and how many connections take new flows over it.
    fn over(&self) -> String {
        let usable = self.connections.iter().filter(|it| it.usable && it.transport == self.transport).count();
        if usable > 0 { format!("{} x{usable}", self.transport) } else { self.transport.clone() }
    }
}

/// What the own gateways have to the clusters that the decision names.
pub(super) fn paths(gateways: &Map<String, Value>, clusters: &[&str]) -> String {
    let mut table = Table::new(&["  FROM", "TO", "ADDRESS", "USABLE", "OVER", "RTT", "STREAMS"]);
    for (gateway, rows) in gateways {
        let from = format!("  {gateway}");
        let Ok(rows) = Vec::<Path>::deserialize(rows) else {
            let why = rows["error"].as_str().unwrap_or("its answer is not understood");
            let none = String::new;
            table.row([from, none(), none(), format!("no: {why}"), none(), none(), none()]);
            continue;
        };
        for path in rows.iter().filter(|path| clusters.contains(&path.cluster.as_str())) {
            let usable = match (path.usable, &path.last_error) {
                (true, _) => "yes".to_owned(),
                (false, Some(error)) => format!("no: {error}"),
                (false, None) => "no".to_owned(),
            };
            table.row([
                from.clone(),
                format!("{}/{}", path.cluster, path.remote_gateway),
                path.address.clone(),
                usable,
                path.over(),
                path.rtt_ms.map(|ms| format!("{ms:.1} ms")).unwrap_or_default(),
                path.streams.to_string(),
            ]);
        }
    }
    table.render()
}
