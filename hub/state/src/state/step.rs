//! One command in progress: remembers what it touched, so that it can be undone, or turned into rows and changes.

use std::collections::BTreeMap;

use mesh::ClusterName;

use crate::command::{Action, Applied, AuditEntry, Change, Command, Outcome, Refusal, RowChange};
use crate::key::Key;
use crate::limits::{AUDIT_KEPT, REQUESTS_KEPT};
use crate::resource::{Resource, Value};
use crate::row::{self, Meta, Request};
use crate::state::State;
use crate::token::Token;

/// How an accepted command ended.
pub(super) enum Done {
    /// Something changed; the words are for the audit log.
    Changed(String),
    /// It had taken effect before, at this revision.
    Replayed(u64),
}

/// The state while one command is applied.
pub(super) struct Step<'a> {
    state: &'a mut State,
    /// The counters before.
    meta: Meta,
    /// Resources as they were before, first touch only.
    resources: BTreeMap<Key, Option<Resource>>,
    /// Tokens as they were before, first touch only.
    tokens: BTreeMap<String, Option<Token>>,
}

impl<'a> Step<'a> {
    /// Starts; the command will have the next revision.
    pub(super) fn begin(state: &'a mut State) -> Self {
        let meta = state.meta;
        state.meta.revision += 1;
        Self { state, meta, resources: BTreeMap::new(), tokens: BTreeMap::new() }
    }

    /// The state as changed so far.
    pub(super) fn state(&self) -> &State {
        self.state
    }

    /// The revision that the command gets if it changes something.
    pub(super) fn revision(&self) -> u64 {
        self.state.meta.revision
    }

    /// Puts a resource.
    pub(super) fn put(&mut self, key: Key, value: Value) {
        let resource = Resource { revision: self.revision(), value };
        self.set(key, Some(resource));
    }

    /// Removes a resource, if it is there.
    pub(super) fn delete(&mut self, key: Key) {
        if self.state.resources.contains_key(&key) {
            self.set(key, None);
        }
    }

    fn set(&mut self, key: Key, resource: Option<Resource>) {
        self.resources.entry(key.clone()).or_insert_with(|| self.state.resources.get(&key).cloned());
        self.state.place(key, resource);
    }

    /// Stores a token.
    pub(super) fn put_token(&mut self, id: &str, token: Token) {
        let before = self.state.tokens.insert(id.to_owned(), token);
        self.tokens.entry(id.to_owned()).or_insert(before);
    }

    /// Removes a token, if it is there.
    pub(super) fn delete_token(&mut self, id: &str) {
        if let Some(before) = self.state.tokens.remove(id) {
            self.tokens.entry(id.to_owned()).or_insert(Some(before));
        }
    }

    /// The next unused address number.
    pub(super) fn next_address(&mut self) -> u32 {
        self.state.meta.addresses += 1;
        self.state.meta.addresses
    }

    /// Ends the command: either everything it did stands, with rows and changes, or nothing does.
    pub(super) fn end(mut self, command: &Command, outcome: Result<Done, Refusal>) -> Applied {
        match outcome {
            Ok(Done::Changed(action)) => {
                let revision = self.revision();
                let outcome = Ok(Outcome { revision, replayed: false });
                let mut rows = BTreeMap::new();
                self.remember_request(command, &mut rows);
                self.remember_audit(command, action, &mut rows);
                let changes = self.changes(&mut rows);
                rows.insert(row::meta_key(), Some(row::encode(&self.state.meta)));
                let rows = rows.into_iter().map(|(key, value)| RowChange { key, value }).collect();
                Applied { outcome, revision, changes, rows }
            }
            Ok(Done::Replayed(revision)) => self.undo(Ok(Outcome { revision, replayed: true })),
            Err(refusal) => self.undo(Err(refusal)),
        }
    }

    fn undo(self, outcome: Result<Outcome, Refusal>) -> Applied {
        for (key, before) in self.resources {
            self.state.place(key, before);
        }
        for (id, before) in self.tokens {
            match before {
                Some(token) => self.state.tokens.insert(id, token),
                None => self.state.tokens.remove(&id),
            };
        }
        self.state.meta = self.meta;
        Applied { outcome, revision: self.meta.revision, changes: Vec::new(), rows: Vec::new() }
    }

    fn changes(&mut self, rows: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Vec<Change> {
        for id in self.tokens.keys() {
            rows.insert(row::token_key(id), self.state.tokens.get(id).map(row::encode));
        }
        let revision = self.state.meta.revision;
        let touched = std::mem::take(&mut self.resources).into_iter();
        let with_after = touched.map(|(key, before)| {
            let after = self.state.resources.get(&key).cloned();
            Change { revision, key, before, after }
        });
        let changes: Vec<Change> = with_after.filter(|change| change.before != change.after).collect();
        for change in &changes {
            rows.insert(row::resource_key(&change.key), change.after.as_ref().map(row::encode));
        }
        changes
    }

    fn remember_request(&mut self, command: &Command, rows: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        let Action::Transact { request_id, .. } = &command.action else { return };
        let position = self.state.meta.requests;
        self.state.meta.requests += 1;
        let request =
            Request { actor: command.actor.clone(), id: request_id.clone(), revision: self.state.meta.revision };
        rows.insert(row::request_key(position), Some(row::encode(&request)));
        self.state.request_index.insert((request.actor.clone(), request.id.clone()), position);
        self.state.requests.insert(position, request);
        while self.state.requests.len() > REQUESTS_KEPT {
            if let Some((position, oldest)) = self.state.requests.pop_first() {
                self.state.request_index.remove(&(oldest.actor, oldest.id));
                rows.insert(row::request_key(position), None);
            }
        }
    }

    /// The ring is for administration: agents' transactions go to the log line only, or they would push out the rest.
    fn remember_audit(&mut self, command: &Command, action: String, rows: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>) {
        if matches!(&command.action, Action::Transact { role: crate::Role::Agent(_), .. }) {
            return;
        }
        let position = self.state.meta.audits;
        self.state.meta.audits += 1;
        let entry = AuditEntry {
            revision: self.state.meta.revision,
            at_ms: command.now_ms,
            actor: command.actor.clone(),
            action,
        };
        rows.insert(row::audit_key(position), Some(row::encode(&entry)));
        self.state.audit.insert(position, entry);
        while self.state.audit.len() > AUDIT_KEPT {
            if let Some((position, _)) = self.state.audit.pop_first() {
                rows.insert(row::audit_key(position), None);
            }
        }
    }

    /// Whether the cluster is a member at this point of the command.
    pub(super) fn require_member(&self, cluster: &ClusterName) -> Result<(), Refusal> {
        match self.state.cluster(cluster) {
            Some(_) => Ok(()),
            None => Err(Refusal::NotMember { cluster: cluster.clone() }),
        }
    }
}
