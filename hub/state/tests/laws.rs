//! Laws that hold after every command, whatever the commands are.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails, helpers too")]

use std::collections::{BTreeMap, BTreeSet};

use hub_state::{
    Action, Command, Compare, Facts, History, Join, Key, Leave, LeaveStep, NewToken, Operation, Resources, Role,
    SignedFact, State, Statement, Value, Viewer, diff, patch, projection,
};
use mesh::{ClusterName, ServiceName, TrustDomain};
use proptest::prelude::*;

const CLUSTERS: [&str; 4] = ["east", "west", "north", "hub"];
const SERVICES: [&str; 4] = ["default/web", "default/api", "shop/cart", "shop/pay"];

fn cluster(index: usize) -> ClusterName {
    ClusterName::new(CLUSTERS[index % CLUSTERS.len()]).unwrap()
}

fn trust_domain(index: usize) -> TrustDomain {
    TrustDomain::new(format!("{}.demo", CLUSTERS[index % CLUSTERS.len()])).unwrap()
}

fn service(index: usize) -> ServiceName {
    SERVICES[index % SERVICES.len()].parse().unwrap()
}

fn fact(of: usize, serial: u64, statement: Statement) -> SignedFact {
    let bytes = format!("{of}/{serial}/{statement:?}").into_bytes();
    SignedFact { bytes, facts: Facts { cluster: cluster(of), serial, statement } }
}

fn statements() -> impl Strategy<Value = Statement> {
    prop_oneof![
        1 => (0..4usize).prop_map(|of| Statement::Bundle { trust_domain: trust_domain(of) }),
        1 => Just(Statement::Gateways),
        6 => (0..4usize, proptest::collection::btree_set(0..4usize, 0..3)).prop_map(|(of, to)| Statement::Export {
            service: service(of),
            to_clusters: to.into_iter().map(cluster).collect(),
        }),
    ]
}

fn keys() -> impl Strategy<Value = Key> {
    (0..7usize, 0..4usize, 0..4usize).prop_map(|(kind, of, named)| match kind {
        0 => Key::Cluster(cluster(of)),
        1 => Key::Bundle(cluster(of)),
        2 => Key::Gateways(cluster(of)),
        3 => Key::Export(cluster(of), service(named)),
        4 => Key::Address(service(named)),
        5 => Key::Lease(cluster(of)),
        _ => Key::Drain(cluster(of)),
    })
}

fn operations() -> impl Strategy<Value = Operation> {
    prop_oneof![
        8 => (0..3usize, 0..5u64, statements()).prop_map(|(of, serial, statement)| {
            let fact = fact(of, serial, statement);
            Operation::Put { key: fact.facts.key(), fact }
        }),
        1 => (keys(), 0..3usize, statements())
            .prop_map(|(key, of, statement)| Operation::Put { key, fact: fact(of, 9, statement) }),
        2 => keys().prop_map(|key| Operation::Delete { key }),
    ]
}

fn roles() -> impl Strategy<Value = Role> {
    prop_oneof![
        8 => (0..3usize).prop_map(|of| Role::Agent(cluster(of))),
        1 => Just(Role::Operator),
        1 => Just(Role::Hub),
    ]
}

fn actions() -> impl Strategy<Value = Action> {
    let compares =
        proptest::collection::vec((keys(), 0..6u64).prop_map(|(key, revision)| Compare { key, revision }), 0..2);
    let transact = (roles(), 0..40u8, compares, proptest::collection::vec(operations(), 1..3)).prop_map(
        |(role, id, mut compares, operations)| {
            compares.truncate(usize::from(id % 8 == 0));
            Action::Transact { request_id: id.to_string(), role, compares, operations }
        },
    );
    prop_oneof![
        12 => transact,
        // An operator's deletion of a whole cluster.
        1 => (0..3usize, 0..40u8).prop_map(|(of, id)| Action::Transact {
            request_id: format!("delete-{id}"),
            role: Role::Operator,
            compares: vec![],
            operations: vec![Operation::Delete { key: Key::Cluster(cluster(of)) }],
        }),
        3 => (0..4usize, 0..4usize).prop_map(|(id, of)| Action::CreateToken(NewToken {
            id: id.to_string(),
            secret_sha256: [id as u8; 32],
            cluster: cluster(of),
            trust_domain: trust_domain(of),
            expires_at_ms: 1 << 40,
        })),
        1 => (0..4usize).prop_map(|id| Action::RevokeToken { id: id.to_string() }),
        5 => (0..4usize, 0..4usize, 0..2u8).prop_map(|(id, of, key)| Action::Join(Join {
            token_id: id.to_string(),
            secret_sha256: [id as u8; 32],
            cluster: cluster(of),
            trust_domain: trust_domain(of),
            request_id: "join".to_owned(),
            key_fingerprint: [key; 32],
            bundle: fact(of, 1, Statement::Bundle { trust_domain: trust_domain(of) }),
        })),
        1 => (0..4usize, 0..3u64).prop_map(|(of, epoch)| Action::ExpireLease { cluster: cluster(of), epoch }),
        1 => (0..4usize).prop_map(|of| Action::ReviveLease { cluster: cluster(of) }),
        2 => (0..4usize, roles(), 0..3u64)
            .prop_map(|(of, role, over_ms)| Action::Drain { cluster: cluster(of), role, over_ms }),
        1 => (0..4usize, roles()).prop_map(|(of, role)| Action::Undrain { cluster: cluster(of), role }),
        2 => (0..4usize, roles(), any::<bool>(), any::<bool>()).prop_map(|(of, role, force, first)| {
            let step = if first { LeaveStep::Withdraw } else { LeaveStep::Remove };
            Action::Leave(Leave { cluster: cluster(of), role, force, step })
        }),
    ]
}

/// Random commands behind a prologue that makes three members, so that most of the rest has something to bite on.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    proptest::collection::vec(actions(), 1..60).prop_map(|actions| {
        let prologue = (0..3usize).flat_map(|of| {
            let token = NewToken {
                id: format!("p{of}"),
                secret_sha256: [7; 32],
                cluster: cluster(of),
                trust_domain: trust_domain(of),
                expires_at_ms: 1 << 40,
            };
            let join = Join {
                token_id: format!("p{of}"),
                secret_sha256: [7; 32],
                cluster: cluster(of),
                trust_domain: trust_domain(of),
                request_id: "p".to_owned(),
                key_fingerprint: [0; 32],
                bundle: fact(of, 1, Statement::Bundle { trust_domain: trust_domain(of) }),
            };
            [Action::CreateToken(token), Action::Join(join)]
        });
        let actions = prologue.chain(actions).enumerate();
        actions.map(|(at, action)| Command { actor: format!("actor-{}", at % 3), now_ms: at as u64, action }).collect()
    })
}

fn viewers() -> Vec<Viewer> {
    let agents = (0..4).map(|of| Viewer::Cluster(cluster(of)));
    std::iter::once(Viewer::Operator).chain(agents).collect()
}

/// What must not be in a projection, said independently of how projections are made.
fn check_no_leak(all: &Resources, seen: &Resources, own: &ClusterName) -> Result<(), TestCaseError> {
    let exports = || all.values().filter_map(|resource| resource.value.signed()).map(|fact| &fact.facts);
    let offered = |facts: &Facts, to: &ClusterName| {
        matches!(&facts.statement, Statement::Export { to_clusters, .. }
            if facts.cluster == *to || to_clusters.is_empty() || to_clusters.contains(to))
    };
    let is_export = |facts: &Facts| matches!(facts.statement, Statement::Export { .. });
    for (key, resource) in seen {
        prop_assert_eq!(Some(resource), all.get(key));
        let allowed = match key {
            Key::Export(..) => resource.value.signed().is_some_and(|fact| offered(&fact.facts, own)),
            Key::Address(service) => {
                exports().any(|facts| facts.key().service() == Some(service) && offered(facts, own))
            }
            Key::Cluster(other) | Key::Bundle(other) | Key::Gateways(other) | Key::Lease(other) | Key::Drain(other) => {
                let receives =
                    exports().any(|facts| is_export(facts) && facts.cluster == *other && offered(facts, own));
                let gives = exports().any(|facts| is_export(facts) && facts.cluster == *own && offered(facts, other));
                other == own || receives || gives
            }
        };
        prop_assert!(allowed, "{} sees {}", own, key);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn every_command_keeps_the_laws_and_rows_are_the_state(commands in commands()) {
        let mut state = State::default();
        let mut stored: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for command in &commands {
            let before = state.clone();
            let applied = state.apply(command);
            prop_assert_eq!(state.validate(), Ok(()));
            prop_assert_eq!(applied.revision, state.revision());
            let is_new = matches!(&applied.outcome, Ok(outcome) if !outcome.replayed);
            prop_assert_eq!(state.revision(), before.revision() + u64::from(is_new));
            if !is_new {
                prop_assert_eq!(&before, &state, "a refused or replayed command changed something");
                prop_assert!(applied.rows.is_empty() && applied.changes.is_empty());
            }
            for row in applied.rows {
                match row.value {
                    Some(value) => stored.insert(row.key, value),
                    None => stored.remove(&row.key),
                };
            }
            prop_assert_eq!(&stored, &state.rows());
        }
        prop_assert_eq!(State::from_rows(&stored).unwrap(), state);
    }

    #[test]
    fn a_replayed_log_gives_the_same_rows(commands in commands(), cut in 0..60usize) {
        let mut first = State::default();
        let mut second = State::default();
        for (at, command) in commands.iter().enumerate() {
            let one = first.apply(command);
            prop_assert_eq!(one, second.apply(command));
            if at == cut {
                // A restart in the middle of the log.
                second = State::from_rows(second.rows()).unwrap();
            }
        }
        prop_assert_eq!(first.rows(), second.rows());
    }

    #[test]
    fn deltas_rebuild_projections_and_nothing_leaks(commands in commands()) {
        let mut state = State::default();
        let mut views: Vec<(Viewer, Resources)> = viewers().into_iter().map(|viewer| (viewer, Resources::new())).collect();
        for command in &commands {
            state.apply(command);
            for (viewer, view) in &mut views {
                let now = projection(state.resources(), viewer);
                let delta = diff(view, &now);
                patch(view, delta);
                prop_assert_eq!(&*view, &now);
                if let Viewer::Cluster(own) = viewer {
                    check_no_leak(state.resources(), &now, own)?;
                }
            }
        }
    }

    #[test]
    fn history_gives_back_every_revision_that_it_still_covers(commands in commands(), capacity in 1..200usize) {
        let mut state = State::default();
        let mut history = History::new(capacity, 0);
        let mut past = vec![(0, Resources::new())];
        for command in &commands {
            let applied = state.apply(command);
            history.push(applied.changes);
            past.push((state.revision(), state.resources().clone()));
        }
        for (revision, resources) in past {
            if let Some(found) = history.resources_at(state.resources(), revision) {
                prop_assert_eq!(found, resources);
            } else {
                prop_assert!(revision < state.revision());
            }
        }
    }

    #[test]
    fn an_address_never_changes_and_is_never_shared(commands in commands()) {
        let mut state = State::default();
        let mut known = BTreeMap::new();
        for command in &commands {
            state.apply(command);
            let mut numbers = BTreeSet::new();
            for (key, resource) in state.resources() {
                if let Value::Address(address) = &resource.value {
                    prop_assert!(numbers.insert(address.number));
                    prop_assert_eq!(known.entry(key.clone()).or_insert_with(|| address.clone()), address);
                }
            }
            prop_assert_eq!(known.len(), numbers.len());
        }
    }

    #[test]
    fn damaged_rows_are_an_error_and_never_a_panic(commands in commands(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut state = State::default();
        for command in &commands {
            state.apply(command);
        }
        let mut rows: Vec<(Vec<u8>, Vec<u8>)> = state.rows().into_iter().collect();
        let row = at.index(rows.len());
        let byte = at.index(rows[row].1.len());
        rows[row].1[byte] ^= 1 << bit;
        let _ = State::from_rows(rows);
    }
}
