//! `hubctl explain`: the decision that a workload's sidecar would act on now, and the paths that its gateways have.

mod told;

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::forward::parse_target;
use fleet::http::get_json;
use fleet::plan::{at, port};
use serde_json::json;

use crate::cli::Explain;
use crate::context::Context;
use crate::output::{self, Format};

/// One admin listener answers within this time.
const WITHIN: Duration = Duration::from_secs(5);

pub(super) async fn run(context: &Context, options: Explain) -> Result<u8> {
    let fleet = context.fleet()?;
    let (cluster, pod) = fleet.meshed_pod(&options.from)?;
    let (host, number) = parse_target(&options.to)?;
    let path = format!("/debug/explain?host={host}&port={number}");
    let decision = get_json(pod.admin(), &path, WITHIN)
        .await
        .with_context(|| format!("the sidecar of {} does not explain", options.from))?;
    let mut gateways = serde_json::Map::new();
    for gateway in &cluster.gateways {
        let paths = match get_json(at(gateway.ip, port::ADMIN), "/debug/paths", WITHIN).await {
            Ok(paths) => paths,
            Err(error) => json!({"error": format!("{error:#}")}),
        };
        gateways.insert(format!("{}/{}", cluster.name, gateway.name), paths);
    }
    if context.output == Format::Json {
        output::json(&json!({"from": options.from, "to": options.to, "decision": decision, "gateways": gateways}))?;
    } else {
        output::text(&told::tell(&options.from, &decision, &gateways)?)?;
    }
    Ok(0)
}
