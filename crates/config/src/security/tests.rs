use std::collections::BTreeMap;

use mesh::{AuthorizationAction, MeshInfo, MtlsMode, PathMatch, StringMatch, TrustDomain, WorkloadConfig};

use crate::compile::{Compiled, Input};
use crate::local;

/// Two workloads of `default` and one of `shop`; each has the ports 8080 and 9090.
const CLUSTER: &str = "
apiVersion: v1
kind: Service
metadata: {name: backend}
spec: {ports: [{name: http, port: 80}, {name: db, port: 90}]}
---
apiVersion: v1
kind: Service
metadata: {name: frontend}
spec: {ports: [{name: http, port: 80}, {name: db, port: 90}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: db, port: 90}]}
";

fn slice(namespace: &str, app: &str) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {app}\n  namespace: {namespace}\n  \
         labels: {{kubernetes.io/service-name: {app}}}\n  annotations: {{isthmus.dev/meshed: \"true\", isthmus.dev/pod-labels: app={app}}}\n\
         addressType: IPv4\nendpoints: [{{addresses: [127.1.1.1], targetRef: {{kind: Pod, name: {app}-0}}}}]\n\
         ports: [{{name: http, port: 8080}}, {{name: db, port: 9090}}]\n"
    )
}

pub(crate) fn mesh_info() -> MeshInfo {
    MeshInfo {
        mesh_id: "demo".parse().unwrap(),
        cluster: "east".parse().unwrap(),
        trust_domain: TrustDomain::new("east.demo").unwrap(),
        roots: Vec::new(),
        bundle_serial: 1,
    }
}

/// Compiles policies for the cluster above, in the order that they are written and in the reverse one.
fn compile(policies: &str) -> Compiled {
    let text = [
        CLUSTER,
        &slice("default", "backend"),
        &slice("default", "frontend"),
        &slice("shop", "cart"),
        "---\n",
        policies,
    ]
    .concat();
    let mut manifests =
        federation_crds::parse_manifests(&text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let compiled = compile_manifests(&manifests);
    manifests.reverse();
    assert_eq!(compile_manifests(&manifests), compiled, "the order matters");
    compiled
}

fn compile_manifests(manifests: &[federation_crds::Manifest]) -> Compiled {
    let mesh = mesh_info();
    let local = local::build(manifests, &mesh.trust_domain);
    assert_eq!(local.problems, Vec::<String>::new());
    crate::compile(&Input { manifests, local: &local, mesh: &mesh, imported: &BTreeMap::new() })
}

fn codes(compiled: &Compiled) -> Vec<(&str, &str)> {
    compiled.findings.iter().map(|finding| (finding.code.0, finding.path.as_str())).collect()
}

fn workload<'a>(compiled: &'a Compiled, key: &str) -> &'a WorkloadConfig {
    compiled.workloads.get(key).unwrap_or_else(|| panic!("nothing is configured for {key}"))
}

#[test]
fn nothing_is_configured_without_policies() {
    assert_eq!(compile(""), Compiled::default());
}

fn peer(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

/// Policies → the mode of each workload, and of the port 9090 of the first.
#[test]
fn the_nearest_peer_authentication_counts() {
    use MtlsMode::{Disable, Permissive, Strict};
    type Expected = [Option<MtlsMode>; 4];
    let mesh = peer("istio-system", "default", "{mtls: {mode: STRICT}}");
    let namespace = peer("default", "default", "{mtls: {mode: PERMISSIVE}}");
    let selecting =
        |spec: &str| peer("default", "backend", &format!("{{selector: {{matchLabels: {{app: backend}}}}, {spec}}}"));
    let cases: [(&str, Vec<String>, Expected); 9] = [
        ("the mesh", vec![mesh.clone()], [Some(Strict), Some(Strict), Some(Strict), None]),
        (
            "a namespace",
            vec![mesh.clone(), namespace.clone()],
            [Some(Permissive), Some(Permissive), Some(Strict), None],
        ),
        ("a namespace alone", vec![namespace.clone()], [Some(Permissive), Some(Permissive), None, None]),
        (
            "a workload",
            vec![mesh.clone(), selecting("mtls: {mode: DISABLE}")],
            [Some(Disable), Some(Strict), Some(Strict), None],
        ),
        (
            "a port",
            vec![mesh.clone(), selecting("portLevelMtls: {9090: {mode: DISABLE}}")],
            [Some(Strict), Some(Strict), Some(Strict), Some(Disable)],
        ),
        (
            "a port that inherits",
            vec![selecting("mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: UNSET}}")],
            [Some(Strict), None, None, None],
        ),
        (
            "unset inherits",
            vec![mesh.clone(), selecting("mtls: {mode: UNSET}")],
            [Some(Strict), Some(Strict), Some(Strict), None],
        ),
        ("unset everywhere", vec![peer("default", "default", "{}")], [None, None, None, None]),
        (
            "a selector in the root namespace is without effect",
            vec![peer("istio-system", "a", "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}}")],
            [None, None, None, None],
        ),
    ];
    for (name, policies, expected) in cases {
        let compiled = compile(&policies.concat());
        let mode = |key: &str| compiled.workloads.get(key)?.inbound.mtls.as_ref().map(|rule| rule.mode);
        let port = compiled.workloads.get("default/backend-0").and_then(|config| config.inbound.port_mtls.get(&9090));
        let found =
            [mode("default/backend-0"), mode("default/frontend-0"), mode("shop/cart-0"), port.map(|rule| rule.mode)];
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn the_oldest_peer_authentication_of_a_scope_counts() {
    let dated = |name: &str, year: u32, mode: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\n\
             metadata: {{name: {name}, namespace: default, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
        )
    };
    let compiled = compile(&[dated("a", 2025, "PERMISSIVE"), dated("b", 2024, "STRICT")].concat());
    let rule = workload(&compiled, "default/backend-0").inbound.mtls.clone().unwrap();
    assert_eq!((rule.mode, rule.origin.name.as_str()), (MtlsMode::Strict, "b"));
    assert_eq!(codes(&compiled), [("ISM0002", "")]);
}

#[test]
fn endpoints_say_which_ports_accept_no_mtls() {
    let compiled = compile(
        &[
            peer("shop", "default", "{mtls: {mode: DISABLE}}"),
            peer(
                "default",
                "backend",
                "{selector: {matchLabels: {app: backend}}, mtls: {mode: STRICT}, portLevelMtls: {9090: {mode: DISABLE}}}",
            ),
        ]
        .concat(),
    );
    let plain: Vec<_> = compiled
        .plain_ports
        .iter()
        .map(|(key, ports)| (key.as_str(), ports.iter().copied().collect::<Vec<_>>()))
        .collect();
    assert_eq!(plain, [("default/backend-0", vec![9090]), ("shop/cart-0", vec![8080, 9090])]);
}

const AUTHORIZATION_POLICY: &str = r#"apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: backend-policy
spec:
  selector:
    matchLabels:
      app: backend
  action: ALLOW
  rules:
    - from:
        - source:
            principals: ["cluster.local/ns/default/sa/frontend"]
      to:
        - operation:
            methods: ["GET", "POST"]
            paths: ["/api/*"]
"#;

#[test]
fn the_example_of_an_authorization_policy_means_what_it_says() {
    let compiled = compile(AUTHORIZATION_POLICY);
    assert_eq!(compiled.workloads.keys().collect::<Vec<_>>(), ["default/backend-0"]);
    let [policy] = workload(&compiled, "default/backend-0").inbound.authorization.as_slice() else { panic!("not one") };
    assert_eq!((&policy.action, policy.dry_run), (&AuthorizationAction::Allow, false));
    let rule = &policy.rules[0];
    assert_eq!(rule.origin.to_string(), "AuthorizationPolicy default/backend-policy spec.rules[0]");
    let frontend = StringMatch::Exact("east.demo/ns/default/sa/frontend".to_owned());
    assert_eq!(rule.from[0].principals.any, [frontend]);
    let methods = ["GET", "POST"].map(|method| StringMatch::Exact(method.to_owned()));
    assert_eq!(rule.to[0].methods.any, methods);
    assert_eq!(rule.to[0].paths.any, [PathMatch::Text(StringMatch::Prefix("/api/".to_owned()))]);
}

fn policy(namespace: &str, annotations: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: {namespace}, annotations: {{{annotations}}}}}\nspec: {spec}\n"
    )
}

const MESH_CONFIG: &str = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    \
                           trustDomainAliases: [old.demo]\n    extensionProviders: [{name: authz, envoyExtAuthzGrpc: {service: authz.shop, port: 9000}}]\n";

/// Namespace and scope of a policy → the workloads that it is for.
#[test]
fn policies_are_for_workloads_namespaces_the_mesh_or_targets() {
    let all = vec!["default/backend-0", "default/frontend-0", "shop/cart-0"];
    let cases = [
        ("a namespace", "default", "{rules: [{}]}", vec!["default/backend-0", "default/frontend-0"]),
        ("the mesh", "istio-system", "{rules: [{}]}", all),
        ("labels", "default", "{selector: {matchLabels: {app: frontend}}, rules: [{}]}", vec!["default/frontend-0"]),
        (
            "labels in the mesh",
            "istio-system",
            "{selector: {matchLabels: {app: cart}}, rules: [{}]}",
            vec!["shop/cart-0"],
        ),
        ("labels of another namespace", "default", "{selector: {matchLabels: {app: cart}}, rules: [{}]}", vec![]),
        ("a Service", "shop", "{targetRefs: [{kind: Service, name: cart}], rules: [{}]}", vec!["shop/cart-0"]),
        ("no Service", "shop", "{targetRef: {kind: Service, name: backend}, rules: [{}]}", vec![]),
    ];
    for (name, namespace, spec, expected) in cases {
        let compiled = compile(&policy(namespace, "", spec));
        assert_eq!(compiled.workloads.keys().map(String::as_str).collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(codes(&compiled).iter().any(|(code, _)| *code == "IST0101"), name == "no Service", "{name}");
    }
}

/// A source, in a mesh whose trust domain east.demo has the alias old.demo → principals, accounts and trust domains.
#[test]
fn principals_have_every_name_of_the_own_trust_domain() {
    let exact = |text: &str| StringMatch::Exact(text.to_owned());
    let suffix = |text: &str| StringMatch::Suffix(text.to_owned());
    let cases = [
        ("principals: [cluster.local/ns/a/sa/b]", vec![exact("east.demo/ns/a/sa/b"), exact("old.demo/ns/a/sa/b")]),
        ("principals: [east.demo/ns/a/sa/b]", vec![exact("east.demo/ns/a/sa/b"), exact("old.demo/ns/a/sa/b")]),
        ("principals: [old.demo/ns/a/sa/b]", vec![exact("east.demo/ns/a/sa/b"), exact("old.demo/ns/a/sa/b")]),
        (
            "principals: ['spiffe://cluster.local/ns/a/sa/b']",
            vec![exact("east.demo/ns/a/sa/b"), exact("old.demo/ns/a/sa/b")],
        ),
        ("principals: [west.demo/ns/a/sa/b]", vec![exact("west.demo/ns/a/sa/b")]),
        ("principals: ['*/ns/a/sa/b']", vec![suffix("/ns/a/sa/b")]),
        ("principals: ['*']", vec![StringMatch::Present]),
        (
            "principals: ['cluster.local/ns/a/*']",
            vec![StringMatch::Prefix("east.demo/ns/a/".into()), StringMatch::Prefix("old.demo/ns/a/".into())],
        ),
        ("principals: ['*.demo/ns/a/sa/b']", vec![suffix(".demo/ns/a/sa/b")]),
        ("serviceAccounts: [b, c/d]", vec![exact("default/b"), exact("c/d")]),
        ("trustDomains: [cluster.local]", vec![exact("east.demo"), exact("old.demo")]),
        ("trustDomains: [west.demo]", vec![exact("west.demo")]),
        ("namespaces: ['a*']", vec![StringMatch::Prefix("a".into())]),
        ("requestPrincipals: ['*']", vec![StringMatch::Present]),
    ];
    for (source, expected) in cases {
        let spec = format!("{{rules: [{{from: [{{source: {{{source}}}}}]}}]}}");
        let compiled = compile(&[policy("default", "", &spec).as_str(), MESH_CONFIG].concat());
        let rule = &workload(&compiled, "default/backend-0").inbound.authorization[0].rules[0];
        let from = &rule.from[0];
        let lists =
            [&from.principals, &from.service_accounts, &from.trust_domains, &from.namespaces, &from.request_principals];
        let found: Vec<StringMatch> = lists.into_iter().flat_map(|list| list.any.clone()).collect();
        assert_eq!(found, expected, "{source}");
    }
}

#[test]
fn operations_and_conditions_are_read_whole() {
    use mesh::{ConditionKey, TemplateSegment};
    let spec = "{action: DENY, rules: [{to: [{operation: {hosts: ['*.a.io'], notPorts: ['80'], notMethods: [GET], paths: ['/a/{*}/b/{**}']}}], \
                when: [{key: 'request.headers[X-A]', values: ['a*']}, {key: 'request.auth.claims[a][b]', notValues: [c]}, \
                {key: source.ip, values: [10.0.0.0/8]}, {key: destination.port, values: ['80']}]}]}";
    let compiled = compile(&policy("default", "istio.io/dry-run: \"true\"", spec));
    let rules = &workload(&compiled, "default/backend-0").inbound.authorization[0];
    assert!(rules.dry_run && rules.action == AuthorizationAction::Deny);
    let operation = &rules.rules[0].to[0];
    assert_eq!(
        (operation.hosts.any.len(), operation.ports.not.as_slice(), operation.methods.not.len()),
        (1, &[80][..], 1)
    );
    let literal = |text: &str| TemplateSegment::Literal(text.to_owned());
    let segments = vec![literal("a"), TemplateSegment::One, literal("b"), TemplateSegment::Many];
    assert_eq!(operation.paths.any, [PathMatch::Template(segments)]);
    let keys: Vec<ConditionKey> = rules.rules[0].when.iter().map(|condition| condition.key.clone()).collect();
    let claim = ConditionKey::Claim(vec!["a".to_owned(), "b".to_owned()]);
    assert_eq!(
        keys,
        [ConditionKey::Header("x-a".into()), claim, ConditionKey::SourceIp, ConditionKey::DestinationPort]
    );
}

#[test]
fn an_authorizer_is_asked_and_an_unknown_one_denies() {
    let custom =
        |name: &str| policy("default", "", &format!("{{action: CUSTOM, provider: {{name: {name}}}, rules: [{{}}]}}"));
    let known = compile(&[custom("authz").as_str(), MESH_CONFIG].concat());
    let rules = &workload(&known, "default/backend-0").inbound.authorization[0];
    let AuthorizationAction::Custom(authorizer) = &rules.action else { panic!("not CUSTOM") };
    assert_eq!((authorizer.name.as_str(), authorizer.destination.port), ("authz", Some(9000)));
    let unknown = compile(&[custom("nobody").as_str(), MESH_CONFIG].concat());
    let rules = &workload(&unknown, "default/backend-0").inbound.authorization[0];
    assert_eq!(rules.action, AuthorizationAction::Deny);
    assert!(rules.rules[0].from.is_empty() && rules.rules[0].to.is_empty() && rules.rules[0].when.is_empty());
    assert_eq!(codes(&unknown), [("IST0101", "spec.provider.name")]);
}

#[test]
fn tokens_have_istios_defaults() {
    let text = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: jwt}\nspec:\n  jwtRules:\n  \
                - {issuer: a, jwks: '{\"keys\":[]}', fromHeaders: [{name: X-JWT}], outputClaimToHeaders: [{header: X-Sub, claim: sub}]}\n  \
                - {issuer: b, jwks_uri: 'https://b.io/keys', timeout: 1s, forwardOriginalToken: true}\n  \
                - {issuer: 'https://c.io'}\n";
    let compiled = compile(text);
    let tokens = &workload(&compiled, "default/backend-0").inbound.tokens;
    assert_eq!(
        tokens.iter().map(|rule| rule.origin.path.as_str()).collect::<Vec<_>>(),
        ["spec.jwtRules[0]", "spec.jwtRules[1]", "spec.jwtRules[2]"]
    );
    assert_eq!(
        (tokens[0].timeout.as_secs(), tokens[0].forward, tokens[0].from_headers[0].name.as_str()),
        (5, false, "x-jwt")
    );
    assert_eq!(tokens[0].claims_to_headers, [("x-sub".to_owned(), "sub".to_owned())]);
    assert_eq!(tokens[1].keys, mesh::KeySource::Uri("https://b.io/keys".to_owned()));
    assert_eq!(tokens[2].keys, mesh::KeySource::Issuer("https://c.io".to_owned()));
    assert_eq!((tokens[1].timeout.as_secs(), tokens[1].forward), (1, true));
}

#[test]
fn rate_limits_are_of_the_selected_workloads() {
    use mesh::Descriptor;
    let text = "---\napiVersion: isthmus.dev/v1alpha1\nkind: RateLimitPolicy\nmetadata: {name: limits}\nspec:\n  \
                selector: {matchLabels: {app: backend}}\n  limits:\n  \
                - {requests: 10, per: 1m, by: [path, {header: X-User}], match: [{uri: {prefix: /api}, headers: {X-A: {}}}]}\n  \
                - {name: burst, requests: 5, per: 1s, burst: 20}\n  maxBodyBytes: 1024\n";
    let compiled = compile(text);
    assert_eq!(compiled.workloads.keys().collect::<Vec<_>>(), ["default/backend-0"]);
    let [one, other] = workload(&compiled, "default/backend-0").inbound.limits.as_slice() else { panic!("not two") };
    assert_eq!((one.requests, one.per.as_secs(), one.burst, one.origin.name.as_deref()), (10, 60, 10, Some("limits")));
    assert_eq!(one.by, [Descriptor::Path, Descriptor::Header("x-user".to_owned())]);
    assert_eq!(one.matches[0].headers["x-a"], StringMatch::Present);
    assert_eq!((other.burst, other.origin.name.as_deref()), (20, Some("burst")));
    let body = mesh::body_limit(&workload(&compiled, "default/backend-0").inbound).expect("a limit of bodies");
    assert_eq!((body.max_bytes, body.origin.path.as_str()), (1024, "spec.maxBodyBytes"));
}

/// Everything at once, for the property below.
fn everything() -> Vec<federation_crds::Manifest> {
    let custom = policy("default", "", "{action: CUSTOM, provider: {name: authz}, rules: [{}]}")
        .replace("name: p,", "name: custom,");
    let text = [
        CLUSTER,
        &slice("default", "backend"),
        &slice("default", "frontend"),
        &slice("shop", "cart"),
        MESH_CONFIG,
        &peer("istio-system", "default", "{mtls: {mode: STRICT}}"),
        &peer("default", "a", "{mtls: {mode: PERMISSIVE}}"),
        &peer("default", "b", "{mtls: {mode: DISABLE}}"),
        &policy("default", "", "{rules: [{}]}"),
        &policy("shop", "", "{action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]}"),
        &policy("istio-system", "", "{action: AUDIT, rules: [{}]}"),
        &custom,
        "---\n",
        AUTHORIZATION_POLICY,
    ];
    federation_crds::parse_manifests(&text.concat(), "test.yaml").unwrap_or_else(|errors| panic!("{errors}"))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(32))]
    #[test]
    fn no_order_of_the_manifests_matters(manifests in proptest::strategy::Strategy::prop_shuffle(proptest::strategy::Just(everything()))) {
        proptest::prop_assert_eq!(compile_manifests(&manifests), compile_manifests(&everything()));
    }
}
