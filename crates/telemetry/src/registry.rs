//! The metrics of a process.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::text;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{self, Metric};

use crate::process::ProcessCollector;

/// All metrics of a process (or of one component in a test). Clones are the same registry. Metrics are kept by whoever
/// updates them; the registry holds a clone and reads it when asked.
#[derive(Debug, Clone)]
pub struct Registry {
    // Held only while registering and encoding, never across an await and never on the data path.
    inner: Arc<Mutex<registry::Registry>>,
}

impl Registry {
    /// A registry with the metrics of the process and `isthmus_build_info` in it.
    pub fn new(component: &str) -> Self {
        let mut inner = registry::Registry::default();
        let labels = vec![("component", component.to_owned()), ("version", env!("CARGO_PKG_VERSION").to_owned())];
        inner.register("isthmus_build", "What runs here", Info::new(labels));
        inner.register_collector(Box::new(ProcessCollector));
        let help = "Connections that a listener closed or did not take to protect the process";
        inner.register("isthmus_listener_shed", help, crate::shed::family().clone());
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Registers a metric and gives it back for whoever updates it. The encoder adds `_total` to the names of counters and a
    /// full stop to the help. A name must be registered once only.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.with(|registry| registry.register(name, help, metric.clone()));
        metric
    }

    /// The same for a metric that begins as its default.
    pub fn make<M: Metric + Clone + Default>(&self, name: &str, help: &str) -> M {
        self.register(name, help, M::default())
    }

    /// Anything else that the library's registry can do, such as collectors.
    pub fn with<T>(&self, register: impl FnOnce(&mut registry::Registry) -> T) -> T {
        register(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All metrics in the OpenMetrics text format, which Prometheus reads.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if text::encode(&mut out, &inner).is_err() {
            tracing::error!("a metric could not be encoded; the metrics after it are missing");
        }
        out
    }
}

/// For tests: a registry of the component `test`.
impl Default for Registry {
    fn default() -> Self {
        Self::new("test")
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    #[test]
    fn what_is_registered_is_encoded_beside_the_metrics_of_the_process() {
        let registry = Registry::new("gateway");
        let streams: Counter = registry.make("isthmus_streams", "Streams carried");
        streams.inc_by(3);
        let text = registry.encode();
        assert!(text.contains("isthmus_streams_total 3\n"), "{text}");
        assert!(text.contains("isthmus_build_info{component=\"gateway\",version=\""), "{text}");
        for name in [
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_cpu_seconds_total",
        ] {
            let line =
                text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {text}"));
            let value: f64 = line.trim().parse().unwrap();
            assert!(value >= 0.0, "{name} {value}");
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
