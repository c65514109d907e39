//! `fleet call`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use fleet::call::{Call, Reply, Speak, parse_url};
use fleet::{Fleet, Hint};
use hyper::Method;

use crate::cli;
use crate::output::{self, note};

/// Makes the call and prints the body. Exit code 1 if the service answered with a failure.
pub(super) async fn run(fleet: &Fleet, options: cli::Call) -> Result<u8> {
    let (_, pod) = fleet.meshed_pod(&options.workload)?;
    let include = options.include;
    let reply = prepare(pod.proxy(), options)?.send().await?;
    if include {
        head(&reply);
    }
    output::bytes(&reply.body)?;
    let grpc_failed = reply.grpc_status.as_ref().filter(|(code, _)| *code != 0);
    if let Some((code, message)) = grpc_failed {
        note(&format!("gRPC status {code}: {message}"));
    }
    let failed = reply.status.is_some_and(|status| status.as_u16() >= 400) || grpc_failed.is_some();
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

fn head(reply: &Reply) {
    if let Some(status) = reply.status {
        note(&format!("{status}"));
    }
    for (name, value) in reply.headers.iter().chain(&reply.trailers) {
        note(&format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    }
}
