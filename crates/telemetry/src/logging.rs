//! Logs as JSON lines on stderr.

use std::fmt;

use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that sets what is logged, such as `info,gateway=debug`; `info` by default.
pub const LOG_VARIABLE: &str = "ISTHMUS_LOG";

/// What is logged by default. hickory tells every DNS question at info: that is what metrics are for.
const DEFAULT_FILTER: &str = "info,hickory_server=warn";

/// Logs from here on, one JSON object a line, each with the component's name. A second call changes nothing, so that
/// several components can run in the process of one test.
pub fn init_logging(component: &str) {
    let wanted = std::env::var(LOG_VARIABLE).unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.is_empty() { DEFAULT_FILTER } else { &wanted });
    let refused = filter.is_err();
    let format = WithComponent { component: component.to_owned(), inner: Format::default().json().flatten_event(true) };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)))
        .with_writer(std::io::stderr)
        .fmt_fields(JsonFields::new())
        .event_format(format);
    if subscriber.try_init().is_ok() && refused {
        tracing::warn!(value = wanted, "{LOG_VARIABLE} is not a log filter; logging at info");
    }
}

/// The JSON format with one more field in front.
struct WithComponent {
    component: String,
    inner: Format<Json>,
}

impl<S, N> FormatEvent<S, N> for WithComponent
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.inner.format_event(ctx, Writer::new(&mut line), event)?;
        let name = serde_json::Value::from(self.component.as_str());
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"component\":{name},{rest}")
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_json_object_that_names_the_component() {
        let out = Shared::default();
        let writer = out.clone();
        let format = WithComponent { component: "dns".to_owned(), inner: Format::default().json().flatten_event(true) };
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .fmt_fields(JsonFields::new())
            .event_format(format)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("query", id = 7);
            span.in_scope(|| tracing::info!(name = "a\"b\n", "answered"));
        });
        let text = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&line["component"], &line["level"]), (&"dns".into(), &"INFO".into()));
        assert_eq!((&line["message"], &line["name"]), (&"answered".into(), &"a\"b\n".into()));
        assert_eq!(line["span"]["id"], 7);
    }
}
