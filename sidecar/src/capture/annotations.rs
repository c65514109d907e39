//! Settings as annotations of a pod, the way users of Istio have them.

use std::collections::BTreeMap;

use super::options::{Options, OptionsError, Setting};

const PREFIX: &str = "traffic.sidecar.istio.io/";
/// How Istio intercepts; only its default exists here.
pub const INTERCEPTION_MODE: &str = "sidecar.istio.io/interceptionMode";
const REROUTE: &str = "istio.io/reroute-virtual-interfaces";

/// Annotation → setting.
const KNOWN: [(&str, Setting); 9] = [
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", Setting::IncludeOutboundIpRanges),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", Setting::ExcludeOutboundIpRanges),
    ("traffic.sidecar.istio.io/includeInboundPorts", Setting::IncludeInboundPorts),
    ("traffic.sidecar.istio.io/excludeInboundPorts", Setting::ExcludeInboundPorts),
    ("traffic.sidecar.istio.io/includeOutboundPorts", Setting::IncludeOutboundPorts),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", Setting::ExcludeOutboundPorts),
    ("traffic.sidecar.istio.io/excludeInterfaces", Setting::ExcludeInterfaces),
    ("traffic.sidecar.istio.io/kubevirtInterfaces", Setting::VirtualInterfaces),
    (REROUTE, Setting::VirtualInterfaces),
];

/// Why annotations are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// A value cannot be.
    #[error(transparent)]
    Value(#[from] OptionsError),
    /// It looks like a setting of capture, but is none.
    #[error("{name} is no annotation that is known\nhint: {hint}")]
    Unknown {
        /// The annotation.
        name: String,
        /// The ones that are.
        hint: String,
    },
    /// An interception mode that does not exist here.
    #[error("{INTERCEPTION_MODE}: {mode:?} is not supported\nhint: leave it out or write REDIRECT")]
    Mode {
        /// What was asked for.
        mode: String,
    },
    /// The file is of neither shape.
    #[error(
        "{at}: {why}\nhint: write a YAML map of annotations, or the lines of a downward API volume: name=\"value\""
    )]
    Shape {
        /// Which line or position.
        at: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Options {
    /// Takes over the annotations of a pod; those of other systems are none of its business.
    pub fn annotate(&mut self, annotations: &BTreeMap<String, String>) -> Result<(), AnnotationError> {
        for (name, value) in annotations {
            match KNOWN.iter().find(|(known, _)| known == name) {
                Some((_, setting)) => self.set(*setting, name, value)?,
                None if name == INTERCEPTION_MODE && value != "REDIRECT" => {
                    return Err(AnnotationError::Mode { mode: value.clone() });
                }
                None if name.starts_with(PREFIX) => {
                    let names: Vec<&str> = KNOWN.iter().filter_map(|(known, _)| known.strip_prefix(PREFIX)).collect();
                    let hint = format!("below {PREFIX} there are {}", names.join(", "));
                    return Err(AnnotationError::Unknown { name: name.clone(), hint });
                }
                None => {}
            }
        }
        Ok(())
    }
}

/// Reads a YAML map, or what a downward API volume holds for `metadata.annotations`: a line `name="value"` for each, with
/// the value in Go's quotes.
pub fn read_annotations(text: &str) -> Result<BTreeMap<String, String>, AnnotationError> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty()).peekable();
    let downward = lines
        .peek()
        .and_then(|line| line.split_once('='))
        .is_some_and(|(name, value)| !name.contains([' ', ':', '#']) && value.starts_with('"') && value.ends_with('"'));
    if !downward {
        let shape = |error: serde_saphyr::Error| AnnotationError::Shape {
            at: "annotations".to_owned(),
            why: error.without_snippet().to_string(),
        };
        return serde_saphyr::from_str::<Option<BTreeMap<String, String>>>(text)
            .map(Option::unwrap_or_default)
            .map_err(shape);
    }
    let line = |(number, line): (usize, &str)| {
        let shape = |why: &str| AnnotationError::Shape { at: format!("line {}", number + 1), why: why.to_owned() };
        let (name, quoted) = line.split_once('=').ok_or_else(|| shape("it has no ="))?;
        // Values with escapes that JSON does not have (\x…) are of other systems, if there are any.
        let value = serde_json::from_str(quoted).map_err(|_| shape("the value is not quoted"))?;
        Ok((name.to_owned(), value))
    };
    lines.enumerate().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::options::Captured;
    use super::*;

    fn annotated(name: &str, value: &str) -> Result<Options, AnnotationError> {
        let mut options = Options::new(15001, 15006);
        options.annotate(&BTreeMap::from([(name.to_owned(), value.to_owned())])).map(|()| options)
    }

    #[test]
    fn annotations_are_read_as_istio_reads_them() {
        let ports = annotated("traffic.sidecar.istio.io/excludeInboundPorts", "8080, 9090").unwrap();
        assert_eq!(ports.exclude_inbound_ports, [8080, 9090].into());
        let none = annotated("traffic.sidecar.istio.io/includeInboundPorts", "").unwrap();
        assert_eq!(none.include_inbound_ports, Captured::Only([].into()));
        let all = annotated("traffic.sidecar.istio.io/includeOutboundIPRanges", "*").unwrap();
        assert_eq!(all.include_outbound_ranges, Captured::All);
        let ranges = annotated("traffic.sidecar.istio.io/includeOutboundIPRanges", "10.1.2.3/8,fd00::/8").unwrap();
        let expected = vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        assert_eq!(ranges.include_outbound_ranges, Captured::Only(expected));
        assert!(annotated("prometheus.io/scrape", "anything").is_ok());
        assert!(annotated(INTERCEPTION_MODE, "REDIRECT").is_ok());
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_name_with_a_hint() {
        let cases = [
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "22,ssh", "\"ssh\" is no port"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "0", "\"0\" is no port"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "70000", "\"70000\" is no port"),
            ("traffic.sidecar.istio.io/excludeOutboundPorts", "*", "\"*\" is no port"),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.0.0.1", "\"10.0.0.1\" is no network"),
            ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "*", "\"*\" is no network"),
            ("traffic.sidecar.istio.io/excludeInterfaces", "eth0\" accept; #", "is no interface"),
            ("traffic.sidecar.istio.io/kubevirtInterfaces", "averyveryverylongname", "is no interface"),
            ("traffic.sidecar.istio.io/excludeOutboundPort", "22", "excludeOutboundPorts"),
            (INTERCEPTION_MODE, "TPROXY", "\"TPROXY\" is not supported"),
        ];
        for (name, value, expected) in cases {
            let error = annotated(name, value).unwrap_err().to_string();
            let complete = error.contains(expected) && error.starts_with(name) && error.contains("hint: ");
            assert!(complete, "{error}");
        }
    }

    #[test]
    fn files_are_yaml_or_of_a_downward_api_volume() {
        let name = "traffic.sidecar.istio.io/excludeOutboundPorts";
        let expected = BTreeMap::from([(name.to_owned(), "22".to_owned())]);
        for text in [format!("{name}: \"22\"\n"), format!("{name}=\"22\"\n"), format!("{{\"{name}\": \"22\"}}")] {
            assert_eq!(read_annotations(&text), Ok(expected.clone()), "{text}");
        }
        assert_eq!(read_annotations(""), Ok(BTreeMap::new()));
        assert!(read_annotations("- 1").is_err() && read_annotations("a=\"1\"\nb").is_err());
    }
}
