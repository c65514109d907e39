//! How a destination is talked to: DestinationRules, subsets, TLS, affinity.

use super::language::view;
use super::question::Asked;
use super::table;
use crate::policy::ClientTls;
use crate::reason::Reason;

#[test]
fn a_subset_is_what_has_its_labels_here_and_elsewhere() {
    let config = "
        service reviews v1*2 v2 v3? export global
        import west reviews v1*3 v3*1
        import north reviews v2*2! v3*4
        dr reviews v1 v2 v3 v4
        vs reviews
          path=/1 -> reviews v1
          path=/2 -> reviews v2
          path=/3 -> reviews v3
          path=/4 -> reviews v4
          path=/5 -> reviews v5
          -> reviews";
    table(
        config,
        &[
            ("here and in the west", "GET reviews/1", "reviews/v1:80 v1-1 v1-2 > west/v1*3"),
            ("groups without sidecars are not used", "GET reviews/2", "reviews/v2:80 v2-1"),
            ("not ready here", "GET reviews/3", "reviews/v3:80 north/v3*4 west/v3"),
            ("nobody has the labels", "GET reviews/4", "refuse no-endpoint"),
            ("no such subset", "GET reviews/5", "refuse no-endpoint"),
            ("no subset", "GET reviews/", "reviews:80 v1-1 v1-2 v2-1 > north/v3*4 west/v1*3 west/v3"),
        ],
    );
}

/// The DestinationRule that a decision names.
#[track_caller]
fn governed(config: &str, expected: Option<&str>) {
    let (decision, _) = Asked::parse("GET reviews.default/").decide(&view(config));
    assert_eq!(decision.policy_origin.as_ref().map(|origin| origin.name.as_str()), expected, "{config}");
    let said = decision.reasons.iter().any(|reason| matches!(reason, Reason::TrafficPolicy { .. }));
    assert_eq!(said, expected.is_some());
}

#[test]
fn the_clients_namespace_goes_before_the_services() {
    let service = "service reviews v1\ndr reviews name=service v1\n";
    governed(service, Some("service"));
    governed("service reviews v1", None);
    let own = "dr reviews name=own in=shop private\n";
    governed(&format!("client shop\n{service}{own}"), Some("own"));
    governed(&format!("client other\n{service}{own}"), Some("service"));
    governed(&format!("client other\nservice reviews v1\n{own}"), None);
    let selected = "dr reviews name=selected in=shop private for=app:web\n";
    governed(&format!("client shop app=web\n{service}{own}{selected}"), Some("selected"));
    governed(&format!("client shop app=api\n{service}{own}{selected}"), Some("own"));
    governed(&format!("client shop\n{service}{selected}"), Some("service"));
    governed(&format!("client other app=web\n{service}{selected}"), Some("service"));
    let root = "dr reviews name=root in=istio-system\n";
    governed(&format!("client shop\n{service}{root}"), Some("service"));
    governed(&format!("client shop\nservice reviews v1\n{root}"), Some("root"));
    let hidden = "service reviews v1\ndr reviews name=hidden to=other\ndr reviews name=root in=istio-system\n";
    governed(&format!("client shop\n{hidden}"), Some("root"));
    governed(&format!("client other\n{hidden}"), Some("hidden"));
}

#[test]
fn tls_is_what_the_policy_says() {
    let config = |tls: &str| format!("service reviews v1 v2! v3~ export\nimport west reviews v1\ndr reviews {tls}");
    let request = "GET reviews.default.svc.clusterset.local/";
    table(&config(""), &[("where it is accepted", request, "reviews:80 v1-1 v2-1! v3-1! > west/v1")]);
    table(&config("tls=disable"), &[("never here", request, "reviews:80 v1-1! v2-1! v3-1! > west/v1")]);
    table(&config("tls=mutual"), &[("always", request, "reviews:80 v1-1 v3-1 > west/v1")]);
    table(&config("tls=simple"), &[("the proxy's own", request, "reviews:80 v1-1! v2-1! v3-1! > west/v1")]);
    table("service reviews v1!\ndr reviews tls=mutual", &[("nobody can", "GET reviews/", "refuse no-endpoint")]);
}

#[test]
fn an_entrys_names_are_wanted_of_the_certificate() {
    let config = "entry a.example dns san=b.example ports=80\ndr a.example tls=simple";
    let (decision, _) = Asked::parse("GET a.example/").decide(&view(config));
    let ClientTls::Originate(tls) = &decision.policy.tls else { panic!("no TLS") };
    assert_eq!(tls.subject_alt_names, ["b.example"]);
}

#[test]
fn the_endpoint_that_was_dialled_is_kept() {
    let config = "service reviews v1*2 ip=10.0.0.1\ndr reviews lb=passthrough";
    table(
        config,
        &[
            ("a pod", "GET reviews/ to=10.1.0.2", "reviews:80 v1-2"),
            ("something else", "GET reviews/ to=10.9.9.9", "pass reviews:80"),
            ("the service", "GET reviews/ to=10.0.0.1", "reviews:80 v1-1 v1-2"),
            ("unknown", "GET reviews/", "reviews:80 v1-1 v1-2"),
        ],
    );
}

#[test]
fn equal_keys_have_equal_hashes_whatever_the_entropy() {
    let hash = |lb: &str, request: &str| {
        let view = view(&format!("service reviews v1*2\ndr reviews lb={lb}"));
        Asked::parse(request).decide(&view).0.affinity.map(|affinity| affinity.hash)
    };
    let keyed = [
        ("header:user", "GET reviews/ user=a", "GET reviews/x user=a #7", "GET reviews/ user=b"),
        ("query:u", "GET reviews/?u=a", "GET reviews/x?v=1&u=a #7", "GET reviews/?u=b"),
        ("ip", "GET reviews/ ip=10.0.0.1", "GET reviews/x ip=10.0.0.1 #7", "GET reviews/ ip=10.0.0.2"),
        ("cookie:u", "GET reviews/ cookie=u=a", "GET reviews/ cookie=x=1;_u=\"a\" #7", "GET reviews/ cookie=u=b"),
    ];
    for (lb, one, same, other) in keyed {
        assert!(hash(lb, one).is_some(), "{lb}");
        assert_eq!(hash(lb, one), hash(lb, same), "{lb}");
        assert_ne!(hash(lb, one), hash(lb, other), "{lb}");
        assert_eq!(hash(lb, "GET reviews/"), None, "{lb}: nothing to hash");
    }
    assert_eq!(hash("header:user", "tcp reviews:80"), None);
    assert!(hash("ip", "tcp reviews:80 ip=10.0.0.1").is_some());
}

#[test]
fn a_cookie_is_made_when_it_is_missing_and_leads_back() {
    let view = view("service reviews v1*2\ndr reviews lb=cookie:u:60");
    let affinity = |request: &str| Asked::parse(request).decide(&view).0.affinity.unwrap();
    let made = affinity("GET reviews/ #7");
    let cookie = made.set_cookie.unwrap().value;
    let value = cookie
        .strip_prefix("u=\"")
        .and_then(|rest| rest.strip_suffix("\"; Max-Age=60; Path=/; SameSite=Strict; HttpOnly"));
    let next = affinity(&format!("GET reviews/ cookie=u={}", value.unwrap()));
    assert_eq!((next.hash, next.set_cookie), (made.hash, None));
    assert_ne!(affinity("GET reviews/ #8").hash, made.hash);
    let session = super::language::view("service reviews v1\ndr reviews lb=cookie:u:0");
    let session = Asked::parse("GET reviews/").decide(&session).0.affinity.unwrap().set_cookie.unwrap().value;
    assert!(session.ends_with("\"; Path=/; SameSite=Strict; HttpOnly"), "{session}");
}
