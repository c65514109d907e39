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
