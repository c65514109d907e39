//! `envoy.service.auth.v3.Authorization/Check`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderValueOption, SocketAddress, address, header_value_option::HeaderAppendAction,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request as Asked, TlsSession};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::Timestamp;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};
use mesh::ExternalAuthorizer;
use prost::Message;

use super::{Edits, HeaderEdit, How, Peeked, Verdict, Written};
use crate::body;
use crate::guard::{Facts, ResponseHeaders};
use crate::headers;
use crate::outbound::Outbound;

const PATH: &str = "/envoy.service.auth.v3.Authorization/Check";

/// One check; `request` is missing for opaque connections.
pub(super) async fn check(
    outbound: &Outbound,
    authorizer: &ExternalAuthorizer,
    facts: &Facts,
    request: Option<(&Request<()>, &Peeked)>,
) -> Verdict {
    let question = CheckRequest { attributes: Some(attributes(facts, request)) };
    let call = match question_of(authorizer, &question) {
        Ok(call) => call,
        Err(error) => return Verdict::Failed(error.to_string()),
    };
    let response = match super::call(outbound, authorizer, call).await {
        Ok(response) => response,
        Err(fault) => return Verdict::Failed(fault.message),
    };
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Verdict::Failed(format!("it answered {}", head.status.as_u16()));
    }
    match super::read(body).await {
        Err(error) => Verdict::Failed(error),
        Ok((bytes, trailers)) => {
            let status = trailers.as_ref().and_then(body::grpc_status).or_else(|| body::grpc_status(&head.headers));
            match status.as_deref() {
                None | Some("0") => answer(bytes),
                Some(code) => Verdict::Failed(format!("it answered with gRPC status {code}")),
            }
        }
    }
}

fn question_of(authorizer: &ExternalAuthorizer, question: &CheckRequest) -> Result<Request<body::Body>, http::Error> {
    let message = question.encode_to_vec();
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    let host = super::http_check::host_text(&authorizer.destination.host);
    let port = authorizer.destination.port.unwrap_or(80);
    let uri = Uri::builder().scheme("http").authority(format!("{host}:{port}")).path_and_query(PATH).build()?;
    Request::builder()
        .method(Method::POST)
        .version(http::Version::HTTP_2)
        .uri(uri)
        .header(http::header::CONTENT_TYPE, "application/grpc")
        .header(http::header::TE, "trailers")
        .body(body::full(framed.freeze()))
}

fn attributes(facts: &Facts, request: Option<(&Request<()>, &Peeked)>) -> AttributeContext {
    let principal = facts.peer.as_ref().map(|peer| peer.id.to_string()).unwrap_or_default();
    let source = Peer { address: facts.source.map(socket), principal, ..Peer::default() };
    let dialled = facts.destination_ip.map(|ip| SocketAddr::new(ip, facts.port));
    let destination = Peer { address: dialled.map(socket), ..Peer::default() };
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    };
    let http = request.map(|(request, peeked)| http_request(facts, request, peeked));
    let tls_session = facts.sni.as_ref().map(|sni| TlsSession { sni: sni.to_string() });
    AttributeContext {
        source: Some(source),
        destination: Some(destination),
        request: Some(Asked { time: Some(time), http }),
        tls_session,
        ..AttributeContext::default()
    }
}

fn http_request(facts: &Facts, request: &Request<()>, peeked: &Peeked) -> HttpRequest {
    let authority = headers::authority(request).map(|authority| authority.to_string()).unwrap_or_default();
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_else(|| "/".into());
    let method = request.method().to_string();
    let mut fields = texts(request.headers());
    for (name, value) in
        [(":authority", &authority), (":path", &path), (":method", &method), (":scheme", &facts.scheme.to_owned())]
    {
        fields.insert(name.to_owned(), value.clone());
    }
    if peeked.wanted {
        fields.insert("x-envoy-auth-partial-body".into(), peeked.partial.to_string());
    }
    let length =
        request.headers().get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    // Envoy sends what is not UTF-8 in the same field, broken; this way it is text at least.
    let body = String::from_utf8_lossy(&peeked.bytes).into_owned();
    HttpRequest {
        id: fields.get("x-request-id").cloned().unwrap_or_default(),
        method,
        headers: fields,
        path,
        host: authority,
        scheme: facts.scheme.to_owned(),
        size: length.unwrap_or(-1),
        protocol: format!("{:?}", request.version()).replace("HTTP/2.0", "HTTP/2"),
        body,
        ..HttpRequest::default()
    }
}

fn texts(headers: &HeaderMap) -> HashMap<String, String> {
    let mut texts: HashMap<String, String> = HashMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let text = texts.entry(name.as_str().to_owned()).or_default();
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&value);
    }
    texts
}

fn socket(address: SocketAddr) -> Address {
    let ip: IpAddr = address.ip().to_canonical();
    let port_specifier = Some(PortSpecifier::PortValue(address.port().into()));
    let socket = SocketAddress { address: ip.to_string(), port_specifier, ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

/// Reads the one message of the answer.
fn answer(mut bytes: Bytes) -> Verdict {
    let broken = || Verdict::Failed("its answer cannot be read".into());
    if bytes.len() < 5 || bytes.get_u8() != 0 {
        return broken();
    }
    let length = usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX);
    if bytes.len() < length {
        return broken();
    }
    match CheckResponse::decode(bytes.slice(..length)) {
        Ok(response) => verdict(response),
        Err(_) => broken(),
    }
}

/// What an answer means; `status` decides, the rest says how.
pub(super) fn verdict(response: CheckResponse) -> Verdict {
    let allowed = response.status.as_ref().is_none_or(|status| status.code == 0);
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if allowed => {
            let mut reply = ResponseHeaders::default();
            for edit in ok.response_headers_to_add.iter().filter_map(edit) {
                reply.edit(edit);
            }
            Verdict::Allowed(Box::new(Edits {
                set: ok.headers.iter().filter_map(edit).collect(),
                remove: ok.headers_to_remove.iter().filter_map(|name| name.parse().ok()).collect(),
                query_set: ok.query_parameters_to_set.into_iter().map(|pair| (pair.key, pair.value)).collect(),
                query_remove: ok.query_parameters_to_remove,
                response: reply,
            }))
        }
        _ if allowed => Verdict::Allowed(Box::default()),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.and_then(|status| u16::try_from(status.code).ok());
            let status = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::FORBIDDEN);
            let mut headers = HeaderMap::new();
            denied.headers.iter().filter_map(edit).for_each(|edit| edit.apply(&mut headers));
            Verdict::Denied(Box::new(Written { status, headers, body: denied.body.into() }))
        }
        _ => {
            let (status, headers, body) = (StatusCode::FORBIDDEN, HeaderMap::new(), Bytes::new());
            Verdict::Denied(Box::new(Written { status, headers, body }))
        }
    }
}

fn edit(option: &HeaderValueOption) -> Option<HeaderEdit> {
    let header = option.header.as_ref()?;
    let name: HeaderName = header.key.parse().ok()?;
    let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let value = HeaderValue::from_bytes(bytes).ok()?;
    #[expect(deprecated, reason = "authorizers in use set the field that newer ones have replaced")]
    let append = option.append.as_ref().map(|append| append.value);
    let how = match (append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(true), _) => How::Append,
        (_, Ok(HeaderAppendAction::AddIfAbsent)) => How::AddIfAbsent,
        (_, Ok(HeaderAppendAction::OverwriteIfExists)) => How::OverwriteIfPresent,
        // Envoy's authorization client overwrites unless it is told to append.
        _ => How::Overwrite,
    };
    Some(HeaderEdit { name, value, how })
}
