//! The hash that sends equal requests to the same endpoint.

use std::net::IpAddr;

use http::header::COOKIE;

use super::context::Context;
use super::decision::{Affinity, SetCookie};
use super::draw::{Lot, draw};
use super::matching::{header, parameter};
use crate::policy::{Balancer, HashKey};
use crate::request::HttpRequest;

/// `None` when the policy wants none, or the request has nothing to hash: then any endpoint does.
pub(super) fn of(context: &Context<'_>, balancer: &Balancer) -> Option<Affinity> {
    let Balancer::ConsistentHash { key, .. } = balancer else { return None };
    let (http, connection) = (context.request.http, &context.request.connection);
    let hash = match key {
        HashKey::Header(name) => hash(header(http?, name)?.as_bytes()),
        HashKey::QueryParameter(name) => hash(parameter(http?, name)?.as_bytes()),
        HashKey::SourceIp => match connection.remote_ip.or(connection.source_ip)? {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        },
        HashKey::Cookie { name, .. } => match cookie(http?, name) {
            Some(value) => hash(value.as_bytes()),
            None => return made(key, draw(context.request.entropy, Lot::Cookie)),
        },
    };
    Some(Affinity { hash, set_cookie: None })
}

/// A new cookie, when the policy gives it a lifetime.
fn made(key: &HashKey, random: u64) -> Option<Affinity> {
    let HashKey::Cookie { name, path, ttl, attributes } = key else { return None };
    let value = format!("{random:016x}");
    let mut cookie = format!("{name}=\"{value}\"");
    match (*ttl)?.as_secs() {
        0 => {}
        seconds => cookie.push_str(&format!("; Max-Age={seconds}")),
    }
    if let Some(path) = path {
        cookie.push_str(&format!("; Path={path}"));
    }
    for (attribute, setting) in attributes {
        cookie.push_str("; ");
        cookie.push_str(attribute);
        if !setting.is_empty() {
            cookie.push('=');
            cookie.push_str(setting);
        }
    }
    cookie.push_str("; HttpOnly");
    Some(Affinity { hash: hash(value.as_bytes()), set_cookie: Some(SetCookie { value: cookie }) })
}

fn cookie<'a>(http: &HttpRequest<'a>, name: &str) -> Option<&'a str> {
    let fields = http.headers.get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let mut pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// FNV-1a, 64 bits, the same on every machine, with a final mix so that short texts differ in every bit.
fn hash(bytes: &[u8]) -> u64 {
    let step = |state: u64, byte: &u8| (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let state = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let mixed = (state ^ (state >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    mixed ^ (mixed >> 33)
}
