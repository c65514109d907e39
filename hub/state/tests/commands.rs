//! One story per rule: who is refused, with which reason, and what a retry does.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails, helpers too")]

use std::collections::BTreeSet;

use hub_state::{
    Action, Applied, Command, Compare, Facts, Join, Key, Leave, LeaveStep, Limits, NewToken, Operation, REQUESTS_KEPT,
    Refusal, Role, SignedFact, State, Statement, TOKENS_KEPT, TokenState, Value,
};
use mesh::{ClusterName, ServiceName, TrustDomain};

fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn apply_at(state: &mut State, now_ms: u64, action: Action) -> Applied {
    let applied = state.apply(&Command { actor: "spiffe://test".to_owned(), now_ms, action });
    state.validate().unwrap();
    applied
}

fn apply(state: &mut State, action: Action) -> Applied {
    apply_at(state, 1000, action)
}

fn refusal(applied: Applied) -> &'static str {
    applied.outcome.expect_err("it should be refused").code()
}

fn revision(applied: Applied) -> u64 {
    applied.outcome.expect("it should be accepted").revision
}

fn token(id: &str, name: &str, trust_domain: &str) -> Action {
    Action::CreateToken(NewToken {
        id: id.to_owned(),
        secret_sha256: [1; 32],
        cluster: cluster(name),
        trust_domain: domain(trust_domain),
        expires_at_ms: 2000,
    })
}

fn bundle(name: &str, trust_domain: &str, serial: u64) -> SignedFact {
    let statement = Statement::Bundle { trust_domain: domain(trust_domain) };
    SignedFact { bytes: vec![1; 100], facts: Facts { cluster: cluster(name), serial, statement } }
}

fn join(id: &str, name: &str) -> Join {
    let trust_domain = format!("{name}.demo");
    Join {
        token_id: id.to_owned(),
        secret_sha256: [1; 32],
        cluster: cluster(name),
        trust_domain: domain(&trust_domain),
        request_id: "request-1".to_owned(),
        key_fingerprint: [9; 32],
        bundle: bundle(name, &trust_domain, 1),
    }
}

fn member(state: &mut State, name: &str) {
    revision(apply(state, token(&format!("t-{name}"), name, &format!("{name}.demo"))));
    revision(apply(
        state,
        Action::Join(Join { key_fingerprint: [name.len() as u8; 32], ..join(&format!("t-{name}"), name) }),
    ));
}

fn export(name: &str, service: &str, serial: u64, to: &[&str]) -> Operation {
    let statement = Statement::Export {
        service: service.parse().unwrap(),
        to_clusters: to.iter().map(|name| cluster(name)).collect::<BTreeSet<_>>(),
    };
    let facts = Facts { cluster: cluster(name), serial, statement };
    Operation::Put { key: facts.key(), fact: SignedFact { bytes: vec![2; 10], facts } }
}

fn transact(role: Role, id: &str, operations: Vec<Operation>) -> Action {
    Action::Transact { request_id: id.to_owned(), role, compares: vec![], operations }
}

fn east() -> Role {
    Role::Agent(cluster("east"))
}

fn two_members() -> State {
    let mut state = State::default();
    member(&mut state, "east");
    member(&mut state, "west2");
    state
}

#[test]
fn a_join_makes_a_member_with_a_live_lease() {
    let state = two_members();
    let kinds: Vec<String> = state.resources().keys().map(Key::to_string).collect();
    assert_eq!(kinds, ["cluster/east", "cluster/west2", "bundle/east", "bundle/west2", "lease/east", "lease/west2"]);
    assert_eq!(state.cluster_of(&domain("east.demo")), Some(&cluster("east")));
}

#[test]
fn a_token_is_good_for_one_join_and_its_retries() {
    let mut state = State::default();
    apply(&mut state, token("a", "east", "east.demo"));
    let first = revision(apply(&mut state, Action::Join(join("a", "east"))));
    // The same key and request id, even after the expiry.
    let again = apply_at(&mut state, 9000, Action::Join(join("a", "east")));
    assert_eq!(revision(again), first);
    let other_request = Join { request_id: "request-2".to_owned(), ..join("a", "east") };
    assert_eq!(refusal(apply(&mut state, Action::Join(other_request))), "token-used");
    let other_key = Join { key_fingerprint: [8; 32], ..join("a", "east") };
    assert_eq!(refusal(apply(&mut state, Action::Join(other_key))), "token-used");
}

#[test]
fn a_full_table_of_tokens_drops_the_oldest_that_are_worthless_and_only_those() {
    let token_until = |id: &str, name: &str, expires_at_ms| {
        let Action::CreateToken(new) = token(id, name, &format!("{name}.demo")) else { unreachable!() };
        Action::CreateToken(NewToken { expires_at_ms, ..new })
    };
    let mut state = State::default();
    revision(apply(&mut state, token_until("used", "east", 6000)));
    revision(apply(&mut state, Action::Join(join("used", "east"))));
    revision(apply(&mut state, token_until("revoked", "west", 7000)));
    revision(apply(&mut state, Action::RevokeToken { id: "revoked".to_owned() }));
    revision(apply(&mut state, token_until("expired", "west", 2000)));
    for n in state.tokens().len()..TOKENS_KEPT {
        revision(state.apply(&Command {
            actor: "spiffe://test".to_owned(),
            now_ms: 1000,
            action: token_until(&format!("good-{n:04}"), "west", 5000),
        }));
    }
    for dropped in ["expired", "used", "revoked"] {
        assert!(state.tokens().contains_key(dropped));
        let before = state.rows();
        let applied = apply_at(&mut state, 3000, token_until(&format!("after-{dropped}"), "west", 8000));
        assert!(!state.tokens().contains_key(dropped));
        assert_eq!(state.tokens().len(), TOKENS_KEPT);
        let mut rows = before;
        for change in &applied.rows {
            match &change.value {
                Some(value) => rows.insert(change.key.clone(), value.clone()),
                None => rows.remove(&change.key),
            };
        }
        assert_eq!(rows, state.rows(), "the rows follow");
        revision(applied);
    }
    let full = state.clone();
    assert_eq!(refusal(apply_at(&mut state, 3000, token_until("more", "west", 8000))), "invalid");
    assert_eq!(state, full, "nothing that is good was dropped");
    // A retry of the last creation needs no room.
    assert!(apply_at(&mut state, 3000, token_until("after-revoked", "west", 8000)).outcome.unwrap().replayed);
    revision(apply_at(&mut state, 5000, token_until("more", "west", 8000)));
    assert!(!state.tokens().contains_key("good-0003"), "the first of those that have expired");
}

#[test]
fn a_token_is_refused_when_expired_revoked_unknown_or_for_somebody_else() {
    let mut state = State::default();
    apply(&mut state, token("a", "east", "east.demo"));
    let refused = |state: &mut State, join: Join| refusal(apply(state, Action::Join(join)));
    assert_eq!(refusal(apply_at(&mut state, 2000, Action::Join(join("a", "east")))), "token-expired");
    assert_eq!(refused(&mut state, join("b", "east")), "token-unknown");
    assert_eq!(refused(&mut state, Join { secret_sha256: [2; 32], ..join("a", "east") }), "token-unknown");
    assert_eq!(refused(&mut state, join("a", "west")), "token-elsewhere");
    let other_domain = Join { trust_domain: domain("west.demo"), ..join("a", "east") };
    assert_eq!(refused(&mut state, other_domain), "token-elsewhere");
    let other_bundle = Join { bundle: bundle("east", "west.demo", 1), ..join("a", "east") };
    assert_eq!(refused(&mut state, other_bundle), "mismatch");
    apply(&mut state, Action::RevokeToken { id: "a".to_owned() });
    assert_eq!(refused(&mut state, join("a", "east")), "token-revoked");
    assert_eq!(state.tokens()["a"].state(1000), TokenState::Revoked);
    assert!(state.resources().is_empty());
}

#[test]
fn the_hub_s_name_and_another_member_s_trust_domain_are_refused() {
    let mut state = two_members();
    assert_eq!(refusal(apply(&mut state, token("x", "hub", "x.demo"))), "reserved");
    assert_eq!(refusal(apply(&mut state, token("x", "north", "hub.demo"))), "reserved");
    assert_eq!(refusal(apply(&mut state, token("x", "north", "east.demo"))), "trust-domain-taken");
    let as_hub = Join { trust_domain: domain("hub.demo"), ..join("t-east", "east") };
    assert_eq!(refusal(apply(&mut state, Action::Join(as_hub))), "reserved");
}

#[test]
fn a_member_joins_again_only_with_its_own_key() {
    let mut state = two_members();
    apply(&mut state, token("again", "east", "east.demo"));
    let stranger = Join { key_fingerprint: [77; 32], ..join("again", "east") };
    assert_eq!(refusal(apply(&mut state, Action::Join(stranger))), "already-member");
    let same = Join { key_fingerprint: [4; 32], ..join("again", "east") };
    revision(apply(&mut state, Action::Join(same)));
}

#[test]
fn a_retried_transaction_is_applied_once() {
    let mut state = two_members();
    let action = transact(east(), "r1", vec![export("east", "default/web", 1, &[])]);
    let first = revision(apply(&mut state, action.clone()));
    let after = state.clone();
    let again = apply(&mut state, action).outcome.unwrap();
    assert_eq!((again.revision, again.replayed), (first, true));
    assert_eq!(state, after);
}

#[test]
fn the_memory_of_requests_is_bounded_and_in_order() {
    let mut state = two_members();
    for at in 0..REQUESTS_KEPT as u64 + 1 {
        let operation = export("east", "default/web", 1, &[]);
        let command =
            Command { actor: "a".to_owned(), now_ms: 0, action: transact(east(), &format!("r{at}"), vec![operation]) };
        state.apply(&command).outcome.unwrap();
    }
    state.validate().unwrap();
    let replayed = |state: &mut State, id: &str| {
        let action = transact(east(), id, vec![export("east", "default/web", 1, &[])]);
        state.apply(&Command { actor: "a".to_owned(), now_ms: 0, action }).outcome.unwrap().replayed
    };
    assert!(replayed(&mut state, "r1"));
    assert!(!replayed(&mut state, "r0"));
}

#[test]
fn a_compare_must_hold() {
    let mut state = two_members();
    let key = Key::Export(cluster("east"), "default/web".parse().unwrap());
    let with = |revision: u64, id: &str| Action::Transact {
        request_id: id.to_owned(),
        role: east(),
        compares: vec![Compare { key: key.clone(), revision }],
        operations: vec![export("east", "default/web", 1, &[])],
    };
    let created = revision(apply(&mut state, with(0, "a")));
    assert_eq!(refusal(apply(&mut state, with(0, "b"))), "conflict");
    revision(apply(&mut state, with(created, "c")));
}

/// An address tells that somebody exports the service, perhaps to others only.
#[test]
fn a_compare_does_not_tell_what_others_export() {
    let mut state = two_members();
    let private = export("west2", "default/secret", 1, &["west2"]);
    revision(apply(&mut state, transact(Role::Agent(cluster("west2")), "1", vec![private])));
    for service in ["default/secret", "default/nothing"] {
        let asked = Action::Transact {
            request_id: service.to_owned(),
            role: east(),
            compares: vec![Compare { key: Key::Address(service.parse().unwrap()), revision: 0 }],
            operations: vec![export("east", "default/web", 1, &[])],
        };
        assert_eq!(refusal(apply(&mut state, asked)), "forbidden", "{service}");
    }
}

#[test]
fn a_cluster_writes_its_own_keys_only() {
    let mut state = two_members();
    let operations = vec![export("east", "default/web", 1, &[]), export("west2", "default/web", 1, &[])];
    assert_eq!(refusal(apply(&mut state, transact(east(), "r", operations))), "forbidden");
    assert!(state.resources().keys().all(|key| !matches!(key, Key::Export(..))), "nothing is half applied");
    let mut stolen = export("west2", "default/web", 1, &[]);
    if let Operation::Put { key, .. } = &mut stolen {
        *key = Key::Export(cluster("east"), "default/web".parse().unwrap());
    }
    assert_eq!(refusal(apply(&mut state, transact(east(), "r", vec![stolen]))), "mismatch");
    let stranger = transact(Role::Agent(cluster("north")), "r", vec![export("north", "a/b", 1, &[])]);
    assert_eq!(refusal(apply(&mut state, stranger)), "not-member");
}

#[test]
fn a_serial_never_goes_backwards_and_a_trust_domain_never_changes() {
    let mut state = two_members();
    revision(apply(&mut state, transact(east(), "1", vec![export("east", "default/web", 5, &[])])));
    revision(apply(&mut state, transact(east(), "2", vec![export("east", "default/web", 5, &[])])));
    let older = transact(east(), "3", vec![export("east", "default/web", 4, &[])]);
    assert!(matches!(apply(&mut state, older).outcome, Err(Refusal::Serial { stored: 5, offered: 4, .. })));
    let fact = bundle("east", "other.demo", 2);
    let moved = transact(east(), "4", vec![Operation::Put { key: fact.facts.key(), fact }]);
    assert_eq!(refusal(apply(&mut state, moved)), "mismatch");
}

#[test]
fn quotas_bound_exports_and_bytes() {
    let mut state = two_members();
    let names =
        |from: usize, to: usize| (from..to).map(|at| export("east", &format!("default/s{at}"), 1, &[])).collect();
    revision(apply(&mut state, transact(east(), "1", names(0, Limits::CURRENT.exports))));
    let one_more = names(Limits::CURRENT.exports, Limits::CURRENT.exports + 1);
    assert_eq!(refusal(apply(&mut state, transact(east(), "2", one_more))), "quota");
    let mut large = export("east", "default/s0", 2, &[]);
    if let Operation::Put { fact, .. } = &mut large {
        fact.bytes = vec![0; Limits::CURRENT.value_bytes + 1];
    }
    assert_eq!(refusal(apply(&mut state, transact(east(), "3", vec![large]))), "quota");
    let full = (0..257).map(|at| {
        let mut operation = export("east", &format!("default/s{at}"), 2, &[]);
        if let Operation::Put { fact, .. } = &mut operation {
            fact.bytes = vec![0; Limits::CURRENT.value_bytes];
        }
        operation
    });
    assert_eq!(refusal(apply(&mut state, transact(east(), "4", full.collect()))), "quota");
}

#[test]
fn an_address_outlives_its_export_and_its_cluster() {
    let mut state = two_members();
    let key = Key::Address("default/web".parse::<ServiceName>().unwrap());
    revision(apply(&mut state, transact(east(), "1", vec![export("east", "default/web", 1, &[])])));
    let first = state.resources()[&key].clone();
    let delete = Operation::Delete { key: Key::Cluster(cluster("east")) };
    revision(apply(&mut state, transact(Role::Operator, "2", vec![delete])));
    assert!(state.resources().keys().all(|key| key.cluster() != Some(&cluster("east"))));
    let west = Role::Agent(cluster("west2"));
    revision(apply(&mut state, transact(west, "3", vec![export("west2", "default/web", 1, &[])])));
    assert_eq!(state.resources()[&key], first);
}

#[test]
fn a_lease_expires_only_in_the_epoch_that_was_looked_at() {
    let mut state = two_members();
    let lease = |state: &State| match &state.resources()[&Key::Lease(cluster("east"))].value {
        Value::Lease(lease) => (lease.live, lease.epoch),
        other => panic!("{other:?}"),
    };
    let expire = |epoch| Action::ExpireLease { cluster: cluster("east"), epoch };
    let revive = || Action::ReviveLease { cluster: cluster("east") };
    assert_eq!(lease(&state), (true, 1));
    apply(&mut state, expire(0));
    assert_eq!(lease(&state), (true, 1));
    apply(&mut state, expire(1));
    assert_eq!(lease(&state), (false, 2));
    apply(&mut state, revive());
    assert_eq!(lease(&state), (true, 3));
    // Decided before the revival: too late.
    apply(&mut state, expire(1));
    assert_eq!(lease(&state), (true, 3));
}

#[test]
fn administration_is_audited_and_agents_do_not_push_it_out() {
    let mut state = two_members();
    apply(&mut state, transact(east(), "1", vec![export("east", "default/web", 1, &[])]));
    let actions: Vec<&str> = state.audit().map(|entry| entry.action.as_str()).collect();
    assert_eq!(
        actions,
        [
            "join cluster west2 (west2.demo)",
            "create token t-west2 for cluster west2 (west2.demo)",
            "join cluster east (east.demo)",
            "create token t-east for cluster east (east.demo)"
        ]
    );
}

fn leave(name: &str, role: Role, step: LeaveStep, force: bool) -> Action {
    Action::Leave(Leave { cluster: cluster(name), role, force, step })
}

fn exports(state: &mut State, name: &str, service: &str, id: &str) -> Applied {
    let operations = vec![export(name, service, 7, &[])];
    let role = Role::Agent(cluster(name));
    apply(state, Action::Transact { request_id: id.to_owned(), role, compares: vec![], operations })
}

#[test]
fn a_cluster_drains_and_comes_back() {
    let mut state = State::default();
    member(&mut state, "east");
    member(&mut state, "west");
    let drain = |role: Role, name: &str, over_ms| Action::Drain { cluster: cluster(name), role, over_ms };
    let west = Role::Agent(cluster("west"));
    assert_eq!(refusal(apply(&mut state, drain(west.clone(), "east", 60_000))), "forbidden");
    assert_eq!(refusal(apply(&mut state, drain(Role::Operator, "north", 60_000))), "not-member");
    assert_eq!(refusal(apply(&mut state, drain(Role::Operator, "east", 1 << 40))), "invalid");
    revision(apply_at(&mut state, 5000, drain(Role::Operator, "east", 60_000)));
    let again = apply_at(&mut state, 9000, drain(Role::Operator, "east", 60_000));
    assert!(again.outcome.unwrap().replayed, "a retry does not begin anew");
    let Value::Drain(record) = &state.resources()[&Key::Drain(cluster("east"))].value else { panic!("no drain") };
    assert_eq!((record.started_at_ms, record.over_ms, record.leaving), (5000, 60_000, false));
    revision(apply(&mut state, drain(west.clone(), "west", 1)));
    revision(apply(&mut state, Action::Undrain { cluster: cluster("west"), role: west }));
    assert!(!state.resources().contains_key(&Key::Drain(cluster("west"))));
}

#[test]
fn a_cluster_leaves_in_two_steps_and_its_name_is_free_again() {
    let mut state = State::default();
    member(&mut state, "east");
    member(&mut state, "west");
    revision(apply(&mut state, token("t-other", "east", "east.demo")));
    revision(exports(&mut state, "east", "default/web", "1"));
    let operator = |step, force| leave("east", Role::Operator, step, force);
    assert_eq!(refusal(apply(&mut state, operator(LeaveStep::Remove, true))), "invalid");
    let surprise = apply(&mut state, operator(LeaveStep::Withdraw, false)).outcome.unwrap_err();
    assert_eq!(
        surprise.to_string(),
        "nobody but east exports default/web; hint: export them elsewhere first, or leave with --force"
    );
    revision(exports(&mut state, "west", "default/web", "2"));
    let foreign = leave("east", Role::Agent(cluster("west")), LeaveStep::Withdraw, true);
    assert_eq!(refusal(apply(&mut state, foreign)), "forbidden");
    revision(apply(&mut state, operator(LeaveStep::Withdraw, false)));
    assert!(
        !state.resources().keys().any(|key| matches!(key, Key::Export(exporter, _) if exporter.as_str() == "east"))
    );
    assert!(state.tokens().values().all(|token| token.cluster.as_str() != "east"), "its tokens are void");
    assert!(state.resources().contains_key(&Key::Bundle(cluster("east"))), "it is still believed");
    assert_eq!(refusal(exports(&mut state, "east", "default/web", "3")), "leaving");
    assert_eq!(
        refusal(apply(&mut state, Action::Undrain { cluster: cluster("east"), role: Role::Operator })),
        "leaving"
    );
    let own = leave("east", Role::Agent(cluster("east")), LeaveStep::Remove, false);
    revision(apply(&mut state, own));
    assert!(state.resources().keys().all(|key| key.cluster().is_none_or(|it| it.as_str() != "east")));
    let told: Vec<&str> = state.audit().take(2).map(|entry| entry.action.as_str()).collect();
    assert_eq!(told, ["cluster east left", "cluster east leaves: exports withdrawn, tokens void"]);
    // The name is free for another cluster with a key of its own.
    revision(apply(&mut state, token("t-new", "east", "east.demo")));
    revision(apply(&mut state, Action::Join(Join { key_fingerprint: [77; 32], ..join("t-new", "east") })));
}
