//! `extensionProviders`: the external authorizers among them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use federation_crds::istio::parse_duration;
use mesh::{
    Destination, ExternalAuthorizer, ExternalAuthorizerBody, ExternalAuthorizerProtocol, Host, Namespace, StringMatch,
};
use serde::Deserialize;
use serde_json::Value;

use super::{Number, ROOT_NAMESPACE, Reader};

/// Istio's default for one check.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// What both kinds have, and what only `envoyExtAuthzHttp` has.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawAuthorizer {
    service: String,
    port: Number,
    timeout: Option<String>,
    #[serde(default)]
    fail_open: bool,
    status_on_error: Option<String>,
    include_request_body_in_check: Option<RawBody>,
    path_prefix: Option<String>,
    #[serde(default, alias = "includeHeadersInCheck")]
    include_request_headers_in_check: Vec<String>,
    #[serde(default)]
    include_additional_headers_in_check: BTreeMap<String, String>,
    #[serde(default)]
    headers_to_upstream_on_allow: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_deny: Vec<String>,
    #[serde(default)]
    headers_to_downstream_on_allow: Vec<String>,
    clear_route_cache: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawBody {
    max_request_bytes: Number,
    #[serde(default)]
    allow_partial_message: bool,
    pack_as_bytes: Option<bool>,
}

impl RawAuthorizer {
    /// Names what has no effect.
    fn note(&self, path: &str, reader: &mut Reader<'_>) {
        let packed = self.include_request_body_in_check.as_ref().and_then(|body| body.pack_as_bytes);
        if packed == Some(true) {
            let path = format!("{path}.includeRequestBodyInCheck.packAsBytes");
            reader.without_effect(&path, "the body goes in the field body; what is no UTF-8 in it is replaced");
        }
        if self.clear_route_cache == Some(false) {
            let hint = "a gateway chooses the route after the authorizer has answered, as with true";
            reader.without_effect(&format!("{path}.clearRouteCache"), hint);
        }
    }
}

/// Reads those that authorize. A provider that cannot be read does not exist, so that policies that name it deny.
pub(super) fn read(value: &Value, path: &str, reader: &mut Reader<'_>) -> BTreeMap<String, Arc<ExternalAuthorizer>> {
    let mut authorizers = BTreeMap::new();
    let Some(entries) = value.as_array() else {
        reader.wrong(path, "must be a list", "begin each provider with - name:");
        return authorizers;
    };
    for (index, entry) in entries.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Some(name) = entry.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            reader.wrong(&format!("{path}.name"), "is required", "policies name the provider by it");
            continue;
        };
        if authorizers.contains_key(name) {
            let message = format!("the name {name:?} is used twice");
            reader.wrong(&format!("{path}.name"), &message, "give each provider a name of its own");
        } else if let Some(authorizer) = provider(name, entry, &path, reader) {
            authorizers.insert(name.to_owned(), Arc::new(authorizer));
        }
    }
    authorizers
}

fn provider(name: &str, entry: &Value, path: &str, reader: &mut Reader<'_>) -> Option<ExternalAuthorizer> {
    let mut found = None;
    for (kind, value) in entry.as_object()?.iter().filter(|(kind, _)| *kind != "name") {
        let path = format!("{path}.{kind}");
        match kind.as_str() {
            "envoyExtAuthzHttp" | "envoyExtAuthzGrpc" => {
                let raw: RawAuthorizer = reader.typed(&path, value)?;
                raw.note(&path, reader);
                match authorizer(name, raw, kind == "envoyExtAuthzGrpc") {
                    Ok(authorizer) => found = Some(authorizer),
                    Err((field, why, hint)) => reader.wrong(&format!("{path}.{field}"), &why, hint),
                }
            }
            _ => reader.without_effect(
                &path,
                "only envoyExtAuthzHttp and envoyExtAuthzGrpc are implemented; metrics and logs need no provider",
            ),
        }
    }
    found
}

/// Field, what is wrong with it, and what to write instead.
type Wrong = (&'static str, String, &'static str);

fn authorizer(name: &str, raw: RawAuthorizer, grpc: bool) -> Result<ExternalAuthorizer, Wrong> {
    let timeout = raw
        .timeout
        .as_deref()
        .map(parse_duration)
        .transpose()
        .map_err(|why| ("timeout", why, "write a number with a unit"))?;
    let status_on_error = match raw.status_on_error.as_deref() {
        None | Some("") => 403,
        Some(text) => text.parse().ok().filter(|status| (200..600).contains(status)).ok_or_else(|| {
            ("statusOnError", format!("{text:?} is not an HTTP status"), "write a number from 200 to 599")
        })?,
    };
    let port = u16::try_from(raw.port.0).ok().filter(|port| *port != 0);
    let port = port.ok_or_else(|| ("port", "is no port".to_owned(), "write a number from 1 to 65535"))?;
    let body = raw.include_request_body_in_check.as_ref().map(|body| ExternalAuthorizerBody {
        max_bytes: body.max_request_bytes.0,
        allow_partial: body.allow_partial_message,
    });
    if raw.include_request_body_in_check.as_ref().is_some_and(|body| body.pack_as_bytes == Some(true)) && !grpc {
        return Err((
            "includeRequestBodyInCheck.packAsBytes",
            "is of envoyExtAuthzGrpc only".to_owned(),
            "leave it out",
        ));
    }
    Ok(ExternalAuthorizer {
        name: name.to_owned(),
        destination: Destination { host: host(&raw.service)?, subset: None, port: Some(port) },
        timeout: timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(DEFAULT_TIMEOUT),
        fail_open: raw.fail_open,
        status_on_error,
        body,
        protocol: if grpc { grpc_protocol(&raw)? } else { http_protocol(raw)? },
    })
}

/// How `service` is written.
const SERVICE: &str = "write <service>.<namespace>.svc.cluster.local, or <namespace>/<host>";

/// `[namespace/]host`; the namespace is a hint for Istio's registry, names here are whole.
fn host(service: &str) -> Result<Host, Wrong> {
    let name = service.rsplit_once('/').map_or(service, |(_, name)| name);
    let namespace = service.rsplit_once('/').map_or(ROOT_NAMESPACE, |(namespace, _)| namespace);
    let namespace = Namespace::new(namespace).map_err(|error| ("service", error.to_string(), SERVICE))?;
    match Host::parse(name, &namespace) {
        Host::Address(_) | Host::Invalid(_) | Host::Pod { .. } => {
            Err(("service", format!("{service:?} is no service"), SERVICE))
        }
        host => Ok(host),
    }
}

fn grpc_protocol(raw: &RawAuthorizer) -> Result<ExternalAuthorizerProtocol, Wrong> {
    let http_only = [
        ("pathPrefix", raw.path_prefix.is_some()),
        ("includeRequestHeadersInCheck", !raw.include_request_headers_in_check.is_empty()),
        ("includeAdditionalHeadersInCheck", !raw.include_additional_headers_in_check.is_empty()),
        ("headersToUpstreamOnAllow", !raw.headers_to_upstream_on_allow.is_empty()),
        ("headersToDownstreamOnDeny", !raw.headers_to_downstream_on_deny.is_empty()),
        ("headersToDownstreamOnAllow", !raw.headers_to_downstream_on_allow.is_empty()),
    ];
    match http_only.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err((field, "is of envoyExtAuthzHttp only".to_owned(), "leave it out")),
        None => Ok(ExternalAuthorizerProtocol::Grpc),
    }
}

fn http_protocol(raw: RawAuthorizer) -> Result<ExternalAuthorizerProtocol, Wrong> {
    let path_prefix = raw.path_prefix.unwrap_or_default();
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return Err(("pathPrefix", format!("{path_prefix:?} is no path"), "begin it with /"));
    }
    let headers = raw.include_additional_headers_in_check.into_iter();
    Ok(ExternalAuthorizerProtocol::Http {
        path_prefix,
        include_request_headers: header_names(&raw.include_request_headers_in_check),
        add_request_headers: headers.map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
        upstream_headers: header_names(&raw.headers_to_upstream_on_allow),
        downstream_headers_on_deny: header_names(&raw.headers_to_downstream_on_deny),
        downstream_headers_on_allow: header_names(&raw.headers_to_downstream_on_allow),
    })
}

/// Names with a star at an end; lower case, as names are on the wire.
fn header_names(names: &[String]) -> Vec<StringMatch> {
    names.iter().map(|name| StringMatch::of_policy_value(&name.to_ascii_lowercase())).collect()
}
