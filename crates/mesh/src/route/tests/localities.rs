//! Which localities come first.

use super::table;

const REQUEST: &str = "GET reviews.default.svc.clusterset.local/";

fn config(locality: &str) -> String {
    format!(
        "client default at=us/a/1 rack=7
        service reviews v1@us/a/1 v2@us/a/2 v3@us/b/1 v4@eu/a/1 v5@ap/a/1 v6@us/a/1 export
        import west reviews v1*2@us/a/1 v2*2@eu/b/1
        dr reviews {locality}"
    )
}

const ALL: &str = "v1-1 v2-1 v3-1 v4-1 v5-1 v6-1";

#[track_caller]
fn expect(locality: &str, expected: &str) {
    table(&config(locality), &[(locality, REQUEST, &format!("reviews:80 {expected}"))]);
}

#[test]
fn without_a_policy_there_are_no_localities() {
    expect("", &format!("{ALL} > west/v1*2 west/v2*2"));
}

#[test]
fn the_nearest_come_first_in_the_own_cluster_and_then_in_others() {
    expect("locality=failover", "v1-1 v6-1 > v2-1 > v3-1 > v4-1 v5-1 > west/v1*2 > west/v2*2");
    expect("locality=failover:us>eu", "v1-1 v6-1 > v2-1 > v3-1 > v4-1 > v5-1 > west/v1*2 > west/v2*2");
    expect("locality=failover:eu>us", "v1-1 v6-1 > v2-1 > v3-1 > v4-1 v5-1 > west/v1*2 > west/v2*2");
    let nowhere = "service reviews v1@us v2@eu\ndr reviews locality=failover:us>eu";
    table(nowhere, &[("a client without a locality", "GET reviews/", "reviews:80 v1-1 v2-1")]);
}

#[test]
fn labels_in_order_say_what_is_near() {
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    expect(&format!("locality=priority:{region},{zone}"), "v1-1 v2-1 v6-1 > v3-1 > v4-1 v5-1 > west/v1*2 > west/v2*2");
    expect(&format!("locality=priority:{region}=eu"), "v4-1 > v1-1 v2-1 v3-1 v5-1 v6-1 > west/v2*2 > west/v1*2");
    expect("locality=priority:version=v3", "v3-1 > v1-1 v2-1 v4-1 v5-1 v6-1 > west/v1*2 west/v2*2");
    expect("locality=priority:rack", &format!("{ALL} > west/v1*2 west/v2*2"));
    expect("locality=priority:topology.istio.io/cluster", &format!("{ALL} > west/v1*2 west/v2*2"));
    let subzone = format!("{region},{zone},topology.istio.io/subzone");
    expect(&format!("locality=priority:{subzone}"), "v1-1 v6-1 > v2-1 > v3-1 > v4-1 v5-1 > west/v1*2 > west/v2*2");
}

/// istio.io, "Partitioning services": subsets and sources by labels that nobody writes.
#[test]
fn where_something_is_can_be_selected_like_its_labels() {
    let (region, zone) = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone");
    let cases = [
        ("topology.istio.io/cluster:east", ALL),
        ("topology.istio.io/cluster:west", "west/v1*2 west/v2*2"),
        (&*format!("{region}:eu"), "v4-1 > west/v2*2"),
        (&format!("{zone}:b"), "v3-1 > west/v2*2"),
        ("topology.istio.io/subzone:2", "v2-1"),
    ];
    for (label, expected) in cases {
        let config = format!("{}\nvs reviews!clusterset\n  -> reviews part", config(&format!("subset=part:{label}")));
        table(&config, &[(label, REQUEST, &format!("reviews/part:80 {expected}"))]);
        let config = config.replace("!clusterset", "").replace(" export", " export global");
        table(&config, &[(label, "GET reviews/", &format!("reviews/part:80 {expected}"))]);
    }
    for label in ["topology.istio.io/cluster:north", "topology.istio.io/network:n1", "rack:7"] {
        let config = format!("{}\nvs reviews!clusterset\n  -> reviews part", config(&format!("subset=part:{label}")));
        table(&config, &[(label, REQUEST, "refuse no-endpoint")]);
    }
    let named = "entry a.example dns hosts=b.example,c.example\n dr a.example subset=own:topology.istio.io/cluster:east
        vs a.example\n  -> a.example own";
    table(named, &[("hosts of an entry", "GET a.example/", "a.example/own:80 b.example:80 c.example:80")]);
}

#[test]
fn a_source_has_the_labels_of_its_place() {
    let from = |label: &str| format!("{}\nvs reviews!clusterset\n  label:{label} -> direct", config(""));
    for label in ["topology.istio.io/cluster=east", "topology.kubernetes.io/zone=a", "topology.istio.io/subzone=1"] {
        table(&from(label), &[(label, REQUEST, "direct")]);
    }
    let elsewhere = format!("reviews:80 {ALL} > west/v1*2 west/v2*2");
    for label in ["topology.istio.io/cluster=west", "topology.kubernetes.io/region=eu"] {
        table(&from(label), &[(label, REQUEST, &elsewhere)]);
    }
}

#[test]
fn shares_are_given_to_localities() {
    let west = "west/v1*2 west/v2*2";
    expect(
        "locality=distribute:us/*>us/a/1%80,eu/*%20",
        "v4-1*66666 west/v2*133333 v1-1*200000 v6-1*200000 west/v1*400000",
    );
    let local = "service reviews v1@us/a v2@us/b v3@us/b v4@eu/a
        client default at=us/a
        dr reviews";
    let given = |locality: &str, expected: &str| {
        table(&format!("{local} {locality}"), &[(locality, "GET reviews/", &format!("reviews:80 {expected}"))]);
    };
    given("locality=distribute:us/a>us/a%70,us/b%30", "v1-1*700000 v2-1*150000 v3-1*150000");
    given("locality=distribute:us/*>us/*%90,eu/*%10", "v4-1*100000 v1-1*300000 v2-1*300000 v3-1*300000");
    given("locality=distribute:us/*>us/b%60,us/*%40", "v1-1*400000 v2-1*300000 v3-1*300000");
    given("locality=distribute:us/*>us/a%100,us/b%0", "v1-1*1000000");
    given("locality=distribute:eu/*>eu/a%100", "v1-1 v2-1 v3-1 v4-1");
    given("locality=distribute:*>eu/a%100", "v4-1*1000000");
    table(
        &format!("{local} locality=distribute:us/*>ap/*%100"),
        &[("none there", "GET reviews/", "refuse no-endpoint")],
    );
    // Other clusters that the rule does not name stay the last resort.
    expect("locality=distribute:us/*>ap/*%100", &format!("v5-1*1000000 > {west}"));
    expect("locality=distribute:us/*>nowhere/*%100", west);
}
