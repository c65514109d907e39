//! What the validator says about Secrets and about kinds that are not implemented.

mod advice;

use advice::messages as errors;

#[test]
fn secrets_of_users_are_their_own_and_those_for_tls_have_their_form() {
    let secret = |kind: &str, data: &str| {
        format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\ntype: {kind}\nstringData: {{{data}}}\n")
    };
    let pem = |label: &str| format!("\"-----BEGIN {label}-----\\nMIIB\\n-----END {label}-----\\n\"");
    let (certificate, key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
    assert_eq!(errors(&secret("Opaque", "key: anything, password: x")), Vec::<String>::new());
    assert_eq!(
        errors(&secret("kubernetes.io/tls", &format!("tls.crt: {certificate}, tls.key: {key}"))),
        Vec::<String>::new()
    );
    let swapped = errors(&secret("kubernetes.io/tls", &format!("tls.crt: {key}, tls.key: {certificate}")));
    assert_eq!(swapped.len(), 2, "{swapped:?}");
    assert_eq!(errors(&secret("kubernetes.io/tls", &format!("tls.crt: {certificate}"))).len(), 1);
}

/// One object of Istio's kinds a line, each with a mistake.
const MISTAKES: &str = include_str!("mistakes.jsonl");

#[test]
fn every_mistake_has_a_path_and_a_hint() {
    for object in MISTAKES.lines() {
        let errors = advice::errors(object, "test.yaml");
        assert!(!errors.is_empty(), "was read: {object}");
        assert!(errors.iter().all(|error| !error.path.is_empty()), "{object}: {errors:?}");
    }
}

#[test]
fn kinds_that_are_not_implemented_say_what_to_use() {
    let cases = [
        ("v1", "Endpoints", "EndpointSlice"),
        ("networking.istio.io/v1alpha3", "EnvoyFilter", "RateLimitPolicy"),
        ("extensions.istio.io/v1alpha1", "WasmPlugin", "CUSTOM"),
        ("extensions.istio.io/v1alpha1", "TrafficExtension", "CUSTOM"),
        ("telemetry.istio.io/v1", "Telemetry", "/metrics"),
        ("networking.istio.io/v1beta1", "ProxyConfig", "MeshConfig"),
        ("networking.istio.io/v1", "WorkloadGroup", "WorkloadEntry"),
        ("install.istio.io/v1alpha1", "IstioOperator", "ConfigMap"),
        ("gateway.networking.k8s.io/v1", "HTTPRoute", "VirtualService"),
        ("gateway.networking.k8s.io/v1", "Gateway", "networking.istio.io/v1"),
        ("networking.k8s.io/v1", "Ingress", "VirtualService"),
        ("networking.k8s.io/v1", "NetworkPolicy", "AuthorizationPolicy"),
    ];
    for (api_version, kind, advice) in cases {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\n");
        let errors = advice::errors(&text, "test.yaml");
        let [error] = errors.as_slice() else { panic!("{kind}: {errors:?}") };
        assert!(error.path == "kind" && error.message.starts_with(kind), "{kind}: {error}");
        assert!(error.hint.contains(advice), "{kind}: {error}");
    }
}

#[test]
fn who_sees_a_service_is_said_in_names_of_namespaces() {
    let service = |to: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{networking.istio.io/exportTo: {to:?}}}}}\nspec: {{ports: [{{port: 1}}]}}\n"
        )
    };
    for to in [".", "*", "~", "shop", "., shop,other"] {
        assert_eq!(errors(&service(to)), Vec::<String>::new(), "{to}");
    }
    for to in ["Shop", "a,*", "~,a", "a,,b"] {
        let found = errors(&service(to));
        assert_eq!(found.len(), 1, "{to}: {found:?}");
        assert!(found[0].starts_with("metadata.annotations[\"networking.istio.io/exportTo\"]: "), "{found:?}");
    }
}
