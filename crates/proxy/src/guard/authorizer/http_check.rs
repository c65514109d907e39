//! Authorizers that are asked by a request like the client's: 200 allows, 5xx is a failure, all else denies.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri};
use mesh::{ExternalAuthorizer, ExternalAuthorizerProtocol, Host, StringMatch};

use super::{Edits, HeaderEdit, How, Peeked, Verdict, Written};
use crate::body::{self, Body};
use crate::guard::{Facts, ResponseHeaders};
use crate::headers;
use crate::outbound::Outbound;

pub(super) async fn check(
    outbound: &Outbound,
    authorizer: &ExternalAuthorizer,
    facts: &Facts,
    request: &Request<()>,
    peeked: &Peeked,
) -> Verdict {
    let Some(question) = question(authorizer, facts, request, peeked) else {
        return Verdict::Failed("the request cannot be put before it".into());
    };
    let response = match super::call(outbound, authorizer, question).await {
        Ok(response) => response,
        Err(fault) => return Verdict::Failed(fault.message),
    };
    let (head, body) = response.into_parts();
    if head.status.is_server_error() {
        return Verdict::Failed(format!("it answered {}", head.status.as_u16()));
    }
    match super::read(body).await {
        Ok((body, _)) => verdict(&authorizer.protocol, head.status, &head.headers, body),
        Err(error) => Verdict::Failed(error),
    }
}

/// The client's method, path and authority, and of its headers those that are wanted.
fn question(
    authorizer: &ExternalAuthorizer,
    facts: &Facts,
    request: &Request<()>,
    peeked: &Peeked,
) -> Option<Request<Body>> {
    let ExternalAuthorizerProtocol::Http { path_prefix, include_request_headers, add_request_headers, .. } =
        &authorizer.protocol
    else {
        return None;
    };
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let authority = headers::authority(request)?;
    let target = format!("{path_prefix}{path}");
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(target).build().ok()?;
    let wanted = |name: &HeaderName| *name == AUTHORIZATION || any(include_request_headers, name);
    // A body that does not go along must not be announced.
    let kept = request.headers().iter().filter(|(name, _)| wanted(name) && ![HOST, CONTENT_LENGTH].contains(name));
    let mut fields: HeaderMap = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    if peeked.wanted {
        let partial = if peeked.partial { "true" } else { "false" };
        fields.insert("x-envoy-auth-partial-body", HeaderValue::from_static(partial));
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            fields.insert(CONTENT_TYPE, kind.clone());
        }
    }
    fields.entry("x-forwarded-proto").or_insert(HeaderValue::from_static(facts.scheme));
    if let Some(source) = facts.source
        && let Ok(value) = HeaderValue::from_str(&source.ip().to_canonical().to_string())
    {
        fields.entry("x-forwarded-for").or_insert(value);
    }
    for (name, value) in add_request_headers {
        fields.insert(name.parse::<HeaderName>().ok()?, value.parse().ok()?);
    }
    let mut question = Request::new(body::full(peeked.bytes.clone()));
    *question.method_mut() = request.method().clone();
    *question.uri_mut() = uri;
    *question.headers_mut() = fields;
    Some(question)
}

/// What an answer means.
pub(super) fn verdict(
    protocol: &ExternalAuthorizerProtocol,
    status: StatusCode,
    headers: &HeaderMap,
    body: Bytes,
) -> Verdict {
    let ExternalAuthorizerProtocol::Http {
        upstream_headers,
        downstream_headers_on_deny,
        downstream_headers_on_allow,
        ..
    } = protocol
    else {
        return Verdict::Failed("it is not asked by HTTP".into());
    };
    let chosen = |patterns: &[StringMatch]| -> Vec<HeaderEdit> {
        let names = headers.keys().filter(|name| any(patterns, name));
        let of = |name: &HeaderName| {
            let hows = std::iter::once(How::Overwrite).chain(std::iter::repeat(How::Append));
            let edit = |(value, how): (&HeaderValue, How)| HeaderEdit { name: name.clone(), value: value.clone(), how };
            headers.get_all(name).iter().zip(hows).map(edit).collect::<Vec<_>>()
        };
        names.flat_map(of).collect()
    };
    if status == StatusCode::OK {
        let mut response = ResponseHeaders::default();
        chosen(downstream_headers_on_allow).into_iter().for_each(|edit| response.edit(edit));
        return Verdict::Allowed(Box::new(Edits { set: chosen(upstream_headers), response, ..Edits::default() }));
    }
    // Without a list all go back to the client; with one some that an answer needs go as well.
    let always = [WWW_AUTHENTICATE, LOCATION, CONTENT_TYPE];
    let goes = |name: &HeaderName| {
        downstream_headers_on_deny.is_empty() || always.contains(name) || any(downstream_headers_on_deny, name)
    };
    let kept = headers.iter().filter(|(name, _)| goes(name) && !super::is_framing(name));
    let headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
    Verdict::Denied(Box::new(Written { status, headers, body }))
}

fn any(patterns: &[StringMatch], name: &HeaderName) -> bool {
    patterns.iter().any(|pattern| pattern.matches_ignoring_case(name.as_str()))
}

/// The host as an authority has it.
pub(super) fn host_text(host: &Host) -> String {
    match host {
        Host::Address(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
        host => host.text(),
    }
}
