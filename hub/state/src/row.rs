//! The state as rows: one byte of table, then a key that sorts, then a postcard value. The shell stores rows and knows
//! nothing of what is in them.

use mesh::{ClusterName, ServiceName};
use serde::{Deserialize, Serialize};

use crate::command::AuditEntry;
use crate::key::Key;
use crate::resource::Resource;
use crate::token::Token;

/// A row that cannot be read back. The store is damaged or was written by another version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// The key has no known shape.
    #[error("row key {0:?} is not one of this version")]
    Key(Vec<u8>),
    /// The value does not decode.
    #[error("the value of row {0:?} does not decode")]
    Value(Vec<u8>),
    /// There is no meta row although there are others.
    #[error("the meta row is missing")]
    NoMeta,
    /// The rows were read, but contradict each other.
    #[error("the rows contradict each other: {0}")]
    Broken(String),
}

/// Counters of the state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The revision of the last change.
    pub(crate) revision: u64,
    /// Addresses handed out so far.
    pub(crate) addresses: u32,
    /// Request ids remembered so far.
    pub(crate) requests: u64,
    /// Audit entries written so far.
    pub(crate) audits: u64,
}

/// A request that was applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Who sent it.
    pub(crate) actor: String,
    /// Its id, unique per actor.
    pub(crate) id: String,
    /// The revision at which it took effect.
    pub(crate) revision: u64,
}

/// One row, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Row {
    /// The counters.
    Meta(Meta),
    /// A resource.
    Resource(Key, Resource),
    /// A token by id.
    Token(String, Token),
    /// A remembered request by position.
    Request(u64, Request),
    /// An audit entry by position.
    Audit(u64, AuditEntry),
}

const META: u8 = b'm';
const RESOURCE: u8 = b'r';
const TOKEN: u8 = b't';
const REQUEST: u8 = b'q';
const AUDIT: u8 = b'a';

pub(crate) fn meta_key() -> Vec<u8> {
    vec![META]
}

pub(crate) fn resource_key(key: &Key) -> Vec<u8> {
    let (kind, cluster, service) = match key {
        Key::Cluster(cluster) => (b'c', cluster.as_str(), None),
        Key::Bundle(cluster) => (b'b', cluster.as_str(), None),
        Key::Gateways(cluster) => (b'g', cluster.as_str(), None),
        Key::Export(cluster, service) => (b'e', cluster.as_str(), Some(service)),
        Key::Address(service) => (b'a', "", Some(service)),
        Key::Lease(cluster) => (b'l', cluster.as_str(), None),
        Key::Drain(cluster) => (b'd', cluster.as_str(), None),
    };
    let mut bytes = vec![RESOURCE, kind];
    bytes.extend_from_slice(cluster.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(service.map(ServiceName::to_string).unwrap_or_default().as_bytes());
    bytes
}

pub(crate) fn token_key(id: &str) -> Vec<u8> {
    [&[TOKEN], id.as_bytes()].concat()
}

pub(crate) fn request_key(position: u64) -> Vec<u8> {
    [&[REQUEST][..], &position.to_be_bytes()].concat()
}

pub(crate) fn audit_key(position: u64) -> Vec<u8> {
    [&[AUDIT][..], &position.to_be_bytes()].concat()
}

#[expect(clippy::expect_used, reason = "postcard fails only on types without a length, and there are none in a row")]
pub(crate) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("rows have lengths")
}

impl Row {
    /// Reads one row back.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Self, RowError> {
        let bad = || RowError::Key(key.to_vec());
        let (table, rest) = key.split_first().ok_or_else(bad)?;
        let position = || rest.try_into().map(u64::from_be_bytes).map_err(|_| bad());
        Ok(match *table {
            META if rest.is_empty() => Self::Meta(decode_value(key, value)?),
            RESOURCE => Self::Resource(decode_resource_key(rest).ok_or_else(bad)?, decode_value(key, value)?),
            TOKEN => Self::Token(String::from_utf8(rest.to_vec()).map_err(|_| bad())?, decode_value(key, value)?),
            REQUEST => Self::Request(position()?, decode_value(key, value)?),
            AUDIT => Self::Audit(position()?, decode_value(key, value)?),
            _ => return Err(bad()),
        })
    }
}

fn decode_value<T: for<'a> Deserialize<'a>>(key: &[u8], value: &[u8]) -> Result<T, RowError> {
    match postcard::take_from_bytes(value) {
        Ok((decoded, [])) => Ok(decoded),
        Ok(_) | Err(_) => Err(RowError::Value(key.to_vec())),
    }
}

fn decode_resource_key(bytes: &[u8]) -> Option<Key> {
    let (kind, rest) = bytes.split_first()?;
    let (cluster, service) = std::str::from_utf8(rest).ok()?.split_once('\0')?;
    let cluster_name = || ClusterName::new(cluster).ok();
    let service_name = || service.parse::<ServiceName>().ok();
    let alone = service.is_empty();
    match kind {
        b'c' if alone => cluster_name().map(Key::Cluster),
        b'b' if alone => cluster_name().map(Key::Bundle),
        b'g' if alone => cluster_name().map(Key::Gateways),
        b'e' => Some(Key::Export(cluster_name()?, service_name()?)),
        b'a' if cluster.is_empty() => service_name().map(Key::Address),
        b'l' if alone => cluster_name().map(Key::Lease),
        b'd' if alone => cluster_name().map(Key::Drain),
        _ => None,
    }
}
