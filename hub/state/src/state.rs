//! The state and the dispatch of commands.

mod join;
mod leases;
mod membership;
mod step;
mod tokens;
mod transact;

use std::collections::BTreeMap;

use mesh::{ClusterName, TrustDomain};

use crate::command::{Action, Applied, AuditEntry, Command};
use crate::key::Key;
use crate::limits::Usage;
use crate::resource::{ClusterRecord, Resource, Resources, Value};
use crate::row::{self, Meta, Request, Row, RowError};
use crate::token::Token;

/// Everything the hub's nodes agree on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Counters.
    pub(crate) meta: Meta,
    /// What clusters see parts of.
    pub(crate) resources: Resources,
    /// Join tokens by id.
    pub(crate) tokens: BTreeMap<String, Token>,
    /// The last applied transactions, by position.
    pub(crate) requests: BTreeMap<u64, Request>,
    /// The last audit entries, by position.
    pub(crate) audit: BTreeMap<u64, AuditEntry>,
    /// Derived: where in `requests` an (actor, request id) is.
    pub(crate) request_index: BTreeMap<(String, String), u64>,
    /// Derived: what each cluster uses of its quota.
    pub(crate) usage: BTreeMap<ClusterName, Usage>,
}

impl State {
    /// Applies one command: completely, or not at all. The same commands in the same order give the same rows anywhere.
    pub fn apply(&mut self, command: &Command) -> Applied {
        let mut step = step::Step::begin(self);
        let outcome = match &command.action {
            Action::Transact { request_id, role, compares, operations } => {
                let request = transact::Request { id: request_id, role, compares, operations };
                transact::apply(&mut step, command, &request)
            }
            Action::CreateToken(token) => tokens::create(&mut step, token, command.now_ms),
            Action::RevokeToken { id } => tokens::revoke(&mut step, id),
            Action::Join(join) => join::apply(&mut step, join, command.now_ms),
            Action::ExpireLease { cluster, epoch } => leases::expire(&mut step, cluster, *epoch, command.now_ms),
            Action::ReviveLease { cluster } => leases::revive(&mut step, cluster, command.now_ms),
            Action::Drain { cluster, role, over_ms } => {
                membership::drain(&mut step, (role, cluster), *over_ms, command.now_ms)
            }
            Action::Undrain { cluster, role } => membership::undrain(&mut step, role, cluster),
            Action::Leave(leave) => membership::leave(&mut step, leave, command.now_ms),
        };
        step.end(command, outcome)
    }

    /// The revision of the last change; 0 = nothing ever changed.
    pub fn revision(&self) -> u64 {
        self.meta.revision
    }

    /// All resources.
    pub fn resources(&self) -> &Resources {
        &self.resources
    }

    /// All tokens by id.
    pub fn tokens(&self) -> &BTreeMap<String, Token> {
        &self.tokens
    }

    /// Audit entries, newest first.
    pub fn audit(&self) -> impl Iterator<Item = &AuditEntry> {
        self.audit.values().rev()
    }

    /// The record of a member.
    pub fn cluster(&self, cluster: &ClusterName) -> Option<&ClusterRecord> {
        match self.resources.get(&Key::Cluster(cluster.clone())).map(|resource| &resource.value) {
            Some(Value::Cluster(record)) => Some(record),
            _ => None,
        }
    }

    /// The member that a trust domain belongs to.
    pub fn cluster_of(&self, trust_domain: &TrustDomain) -> Option<&ClusterName> {
        // Clusters sort before everything else.
        let clusters = self.resources.iter().map_while(|(key, resource)| match (key, &resource.value) {
            (Key::Cluster(cluster), Value::Cluster(record)) => Some((cluster, record)),
            _ => None,
        });
        clusters.filter(|(_, record)| record.trust_domain == *trust_domain).map(|(cluster, _)| cluster).next()
    }

    /// What a cluster uses of its quota.
    pub fn usage(&self, cluster: &ClusterName) -> Usage {
        self.usage.get(cluster).copied().unwrap_or_default()
    }

    /// The whole state as rows, sorted by key.
    pub fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        if self.meta != Meta::default() {
            rows.insert(row::meta_key(), row::encode(&self.meta));
        }
        rows.extend(self.resources.iter().map(|(key, value)| (row::resource_key(key), row::encode(value))));
        rows.extend(self.tokens.iter().map(|(id, token)| (row::token_key(id), row::encode(token))));
        rows.extend(self.requests.iter().map(|(at, request)| (row::request_key(*at), row::encode(request))));
        rows.extend(self.audit.iter().map(|(at, entry)| (row::audit_key(*at), row::encode(entry))));
        rows
    }

    /// Rebuilds the state from its rows, in any order.
    pub fn from_rows<K, V>(rows: impl IntoIterator<Item = (K, V)>) -> Result<Self, RowError>
    where
        K: AsRef<[u8]>,
        V: AsRef<[u8]>,
    {
        let mut state = Self::default();
        let mut has_meta = false;
        let mut is_empty = true;
        for (key, value) in rows {
            is_empty = false;
            match Row::decode(key.as_ref(), value.as_ref())? {
                Row::Meta(meta) => {
                    state.meta = meta;
                    has_meta = true;
                }
                Row::Resource(key, resource) => state.place(key, Some(resource)),
                Row::Token(id, token) => {
                    state.tokens.insert(id, token);
                }
                Row::Request(at, request) => {
                    state.request_index.insert((request.actor.clone(), request.id.clone()), at);
                    state.requests.insert(at, request);
                }
                Row::Audit(at, entry) => {
                    state.audit.insert(at, entry);
                }
            }
        }
        if !has_meta && !is_empty {
            return Err(RowError::NoMeta);
        }
        state.validate().map_err(|broken| RowError::Broken(broken.to_string()))?;
        Ok(state)
    }

    /// Puts or removes a resource and keeps the derived usage in step.
    pub(crate) fn place(&mut self, key: Key, resource: Option<Resource>) {
        let added = resource.as_ref().and_then(|resource| Usage::caused_by(&key, &resource.value));
        let before = match resource {
            Some(resource) => self.resources.insert(key.clone(), resource),
            None => self.resources.remove(&key),
        };
        if let Some((cluster, usage)) = before.and_then(|resource| Usage::caused_by(&key, &resource.value)) {
            let total = self.usage(&cluster).minus(usage);
            self.usage.insert(cluster.clone(), total);
            if total == Usage::default() {
                self.usage.remove(&cluster);
            }
        }
        if let Some((cluster, usage)) = added {
            let total = self.usage(&cluster).plus(usage);
            self.usage.insert(cluster, total);
        }
    }
}
