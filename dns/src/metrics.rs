//! The shim's metrics.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueryLabels {
    zone: &'static str,
    rcode: String,
    proto: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    zone: &'static str,
}

/// Queries counted by zone (`clusterset`, `cluster`, `forward`, or `invalid` for what is no question), rcode and protocol, and
/// how long their answers took. Labels never carry names: clients choose those.
#[derive(Debug, Clone)]
pub struct Metrics {
    queries: Family<QueryLabels, Counter>,
    durations: Family<ZoneLabels, Histogram, fn() -> Histogram>,
}

fn histogram() -> Histogram {
    Histogram::new([0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0])
}

impl Metrics {
    /// Registers the metrics.
    pub fn register(registry: &telemetry::Registry) -> Self {
        let constructor: fn() -> Histogram = histogram;
        let metrics = Self { queries: Family::default(), durations: Family::new_with_constructor(constructor) };
        registry.register("isthmus_dns_queries", "Queries answered", metrics.queries.clone());
        registry.register(
            "isthmus_dns_query_duration_seconds",
            "Time from a query to its answer",
            metrics.durations.clone(),
        );
        metrics
    }

    pub(crate) fn record(&self, zone: &'static str, proto: &'static str, code: ResponseCode, took: Duration) {
        self.queries.get_or_create(&QueryLabels { zone, rcode: rcode(code), proto }).inc();
        self.durations.get_or_create(&ZoneLabels { zone }).observe(took.as_secs_f64());
    }
}

/// The code as dig prints it.
fn rcode(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        ResponseCode::BADVERS => "BADVERS".to_owned(),
        // Codes come from upstreams: few exist, so they make no more labels than that.
        other => format!("RCODE{}", u16::from(other)),
    }
}
