//! `fleet call`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::call::{Call, Reply, Speak, parse_url};
use fleet::{Fleet, Hint};
use hyper::Method;
use hyper::header::HeaderMap;
use serde_json::{Value, json};

use crate::cli;
use crate::output::{self, Format, note};

/// Makes the call and prints the body, or with `-o json` the whole reply as one document. Exit code 1 if the service answered with a failure.
pub(super) async fn run(fleet: &Fleet, options: cli::Call, format: Format) -> Result<u8> {
    let (_, pod) = fleet.meshed_pod(&options.workload)?;
    let include = options.include;
    let reply = prepare(pod.proxy(), options)?.send().await?;
    let grpc_failed = reply.grpc_status.as_ref().filter(|(code, _)| *code != 0);
    let failed = reply.status.is_some_and(|status| status.as_u16() >= 400) || grpc_failed.is_some();
    if format.is_document() {
        output::document(format, &document(&reply))?;
        return Ok(u8::from(failed));
    }
    if include {
        head(&reply);
    }
    output::bytes(&reply.body)?;
    if let Some((code, message)) = grpc_failed {
        note(&format!("gRPC status {code}: {message}"));
    }
    if failed && !include {
        head(&reply);
    }
    Ok(u8::from(failed))
}

fn prepare(proxy: std::net::SocketAddr, options: cli::Call) -> Result<Call> {
    let mut call = Call::get(proxy, &options.url)?;
    call.url = parse_url(&options.url)?;
    call.speak = options.protocol;
    call.within = Duration::from_secs(options.timeout);
    for header in &options.headers {
        call.header(header)?;
    }
    if let Some(data) = &options.data {
        call.body = match data.strip_prefix('@') {
            Some(path) => std::fs::read(path).with_context(|| format!("cannot read {path}"))?.into(),
            None => data.clone().into(),
        };
        call.method = Method::POST;
    }
    if let Some(method) = &options.method {
        call.method =
            method.parse().map_err(|_| Hint::error(format!("{method:?} is no HTTP method"), "for example -X POST"))?;
    }
    if call.speak == Speak::Grpc {
        call.method = Method::POST;
    }
    Ok(call)
}

/// The reply as one document: a body that is JSON as such, lines of JSON (gRPC messages) as a list, any other as text.
fn document(reply: &Reply) -> Value {
    let text = String::from_utf8_lossy(&reply.body);
    let lines = || text.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
    let body = match serde_json::from_str(&text) {
        Ok(value) if reply.grpc_status.is_none() => value,
        _ => match lines() {
            Ok(messages) if reply.grpc_status.is_some() => Value::Array(messages),
            _ => Value::String(text.into_owned()),
        },
    };
    json!({
        "status": reply.status.map(|status| status.as_u16()),
        "grpcStatus": reply.grpc_status.as_ref().map(|(code, message)| json!({"code": code, "message": message})),
        "headers": fields(&reply.headers),
        "body": body,
        "trailers": fields(&reply.trailers),
    })
}

/// Names may repeat, so each has a list.
fn fields(headers: &HeaderMap) -> Value {
    let values = |name| headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    headers.keys().map(|name| (name.to_string(), json!(values(name).collect::<Vec<_>>()))).collect()
}

fn head(reply: &Reply) {
    if let Some(status) = reply.status {
        note(&format!("{status}"));
    }
    for (name, value) in reply.headers.iter().chain(&reply.trailers) {
        note(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    }
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;

    fn reply(body: &str, grpc_status: Option<(i32, String)>) -> Reply {
        let mut headers = HeaderMap::new();
        headers.append("set-cookie", "a".parse().expect("a value"));
        headers.append("set-cookie", "b".parse().expect("a value"));
        let body = body.to_owned().into();
        Reply { status: Some(StatusCode::OK), grpc_status, headers, body, trailers: HeaderMap::new() }
    }

    #[test]
    fn a_reply_is_one_document() {
        let http = document(&reply(r#"{"pod": "web-1"}"#, None));
        assert_eq!(http["body"]["pod"], "web-1");
        assert_eq!((&http["status"], &http["headers"]["set-cookie"]), (&json!(200), &json!(["a", "b"])));
        assert_eq!(document(&reply("no json", None))["body"], "no json");
        let grpc = document(&reply("{\"index\":0}\n{\"index\":1}\n", Some((0, String::new()))));
        assert_eq!((&grpc["body"][1]["index"], &grpc["grpcStatus"]["code"]), (&json!(1), &json!(0)));
    }
}
