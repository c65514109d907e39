//! Conditions of HTTP rules.

use std::collections::BTreeMap;

use federation_crds::istio::virtual_service as crd;
use mesh::{ClaimMatch, HttpMatch, Namespace, Pattern, StringMatch};

use super::objects::Notes;

/// A match; `None` when some part of it does not compile, because without that part it would match too much.
pub(super) fn http_match(found: &crd::HttpMatchRequest, path: &str, notes: &mut Notes<'_>) -> Option<HttpMatch> {
    let mut reading = Reading { path, notes, complete: true };
    let compiled = HttpMatch {
        name: Some(found.name.clone()).filter(|name| !name.is_empty()),
        uri: reading.one(&found.uri, "uri"),
        ignore_uri_case: found.ignore_uri_case,
        scheme: reading.one(&found.scheme, "scheme"),
        method: reading.one(&found.method, "method"),
        authority: reading.one(&found.authority, "authority"),
        headers: reading.headers(&found.headers, "headers"),
        without_headers: reading.headers(&found.without_headers, "withoutHeaders"),
        claims: reading.claims(&found.headers, "headers"),
        without_claims: reading.claims(&found.without_headers, "withoutHeaders"),
        query_params: reading.map(&found.query_params, "queryParams", str::to_owned, text_match),
        port: reading.port(found.port),
        source_labels: found.source_labels.clone(),
        source_namespace: reading.namespace(&found.source_namespace),
        gateways: found.gateways.iter().cloned().collect(),
    };
    reading.complete.then_some(compiled)
}

struct Reading<'a, 'b> {
    path: &'a str,
    notes: &'a mut Notes<'b>,
    complete: bool,
}

type Read = fn(&crd::StringMatch) -> Result<StringMatch, String>;

impl Reading<'_, '_> {
    fn kept<T>(&mut self, field: &str, result: Result<T, String>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(why) => {
                self.notes.not_compiled(format!("{}.{field}", self.path), why);
                self.complete = false;
                None
            }
        }
    }

    fn one(&mut self, value: &Option<crd::StringMatch>, field: &str) -> Option<StringMatch> {
        // No kind of comparison means that there is nothing to compare.
        let value = value.as_ref().filter(|value| **value != crd::StringMatch::default())?;
        self.kept(field, text_match(value))
    }

    /// Names of headers are lower case.
    fn headers(&mut self, map: &BTreeMap<String, crd::StringMatch>, field: &str) -> BTreeMap<String, StringMatch> {
        let headers = map.iter().filter(|(key, _)| !key.starts_with('@'));
        let headers = headers.map(|(key, value)| (key.clone(), value.clone())).collect();
        self.map(&headers, field, |name| name.to_ascii_lowercase(), header_match)
    }

    /// Keys that begin with `@` mean claims of the request's token.
    fn claims(&mut self, map: &BTreeMap<String, crd::StringMatch>, field: &str) -> Vec<ClaimMatch> {
        let mut compiled = Vec::new();
        for (key, value) in map.iter().filter(|(key, _)| key.starts_with('@')) {
            let path = ClaimMatch::path_of(key).ok_or_else(|| {
                format!("{key:?} is neither @request.auth.claims.<name> nor @request.auth.claims[<name>]")
            });
            let read = path.and_then(|path| Ok(ClaimMatch { path, value: header_match(value)? }));
            compiled.extend(self.kept(&format!("{field}[{key:?}]"), read));
        }
        compiled
    }

    fn map(
        &mut self,
        map: &BTreeMap<String, crd::StringMatch>,
        field: &str,
        name: fn(&str) -> String,
        read: Read,
    ) -> BTreeMap<String, StringMatch> {
        let mut compiled = BTreeMap::new();
        for (key, value) in map {
            if let Some(value) = self.kept(&format!("{field}[{key:?}]"), read(value)) {
                compiled.insert(name(key), value);
            }
        }
        compiled
    }

    fn port(&mut self, port: i64) -> Option<u16> {
        if port == 0 {
            return None;
        }
        self.kept("port", u16::try_from(port).map_err(|_| format!("{port} is no port")))
    }

    fn namespace(&mut self, namespace: &str) -> Option<Namespace> {
        if namespace.is_empty() {
            return None;
        }
        self.kept("sourceNamespace", Namespace::new(namespace).map_err(|error| error.to_string()))
    }
}

/// Istio's StringMatch.
pub(super) fn text_match(value: &crd::StringMatch) -> Result<StringMatch, String> {
    Ok(match (&value.exact, &value.prefix, &value.regex) {
        (Some(exact), ..) => StringMatch::Exact(exact.clone()),
        (_, Some(prefix), _) => StringMatch::Prefix(prefix.clone()),
        (.., Some(regex)) => StringMatch::Regex(Pattern::new(regex.clone()).map_err(|error| error.to_string())?),
        (None, None, None) => StringMatch::Present,
    })
}

/// Of a header, `*` and an empty prefix mean that it is there.
fn header_match(value: &crd::StringMatch) -> Result<StringMatch, String> {
    match (&value.exact, &value.prefix, &value.regex) {
        (None, Some(prefix), _) if prefix.is_empty() => Ok(StringMatch::Present),
        (None, None, Some(regex)) if regex == "*" => Ok(StringMatch::Present),
        _ => text_match(value),
    }
}
