use mesh::{ExternalAuthorizerProtocol, Host, StringMatch};

use super::*;

fn read(mesh: &str) -> (MeshConfig, Vec<(String, &'static str)>) {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    let text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |-\n{indented}"
    );
    let manifests = federation_crds::parse_manifests(&text, "test.yaml").unwrap_or_else(|errors| panic!("{errors}"));
    let mut findings = Vec::new();
    let config = MeshConfig::read(&manifests, &mut findings);
    assert!(findings.iter().all(|finding| !finding.hint.is_empty()), "each says what to write instead: {findings:?}");
    (config, findings.into_iter().map(|finding| (finding.path, finding.code.0)).collect())
}

#[test]
fn without_a_config_map_defaults_are_istios() {
    let mut findings = Vec::new();
    assert_eq!(MeshConfig::read(&[], &mut findings), MeshConfig::default());
    assert!(findings.is_empty());
}

#[test]
fn what_has_an_effect_is_read() {
    let (config, findings) = read(
        "rootNamespace: mesh-root\ntrustDomain: cluster.local\ntrustDomainAliases: [west.demo, old.demo]\n\
         outboundTrafficPolicy: {mode: REGISTRY_ONLY}\nenableAutoMtls: false\n\
         localityLbSetting: {enabled: true, failover: [{from: a, to: b}]}\n\
         defaultConfig: {gatewayTopology: {numTrustedProxies: 2}}\n",
    );
    assert_eq!(findings, []);
    assert_eq!(config.root_namespace, "mesh-root");
    assert_eq!(config.trust_domain_aliases, ["old.demo", "west.demo"]);
    assert_eq!(config.unknown_hosts, UnknownHosts::Refuse);
    assert!(!config.auto_mtls && config.trusted_hops == 2);
    assert_eq!(config.locality.unwrap().failover.len(), 1);
}

#[test]
fn paths_are_normalised_as_istio_calls_it() {
    for (named, expected) in [
        ("DEFAULT", PathNormalization::Base),
        ("BASE", PathNormalization::Base),
        ("NONE", PathNormalization::None),
        ("MERGE_SLASHES", PathNormalization::MergeSlashes),
        ("DECODE_AND_MERGE_SLASHES", PathNormalization::DecodeAndMergeSlashes),
    ] {
        let (config, findings) = read(&format!("pathNormalization: {{normalization: {named}}}"));
        assert_eq!((config.paths, findings), (expected, vec![]), "{named}");
    }
}

#[test]
fn authorizers_have_istios_defaults() {
    let (config, findings) = read(
        "extensionProviders:\n\
         - name: http\n  envoyExtAuthzHttp: {service: authz.foo.svc.cluster.local, port: 8000, includeRequestHeadersInCheck: [X-Auth*], headersToUpstreamOnAllow: [x-user]}\n\
         - name: grpc\n  envoyExtAuthzGrpc: {service: foo/authz, port: \"9000\", timeout: 0.5s, failOpen: true, statusOnError: \"503\", includeRequestBodyInCheck: {maxRequestBytes: \"1024\", allowPartialMessage: true}}\n\
         - name: zipkin\n  zipkin: {service: zipkin.istio-system, port: 9411}\n",
    );
    assert_eq!(findings, [("data.mesh.extensionProviders[2].zipkin".to_owned(), "ISM0001")]);
    let http = &config.authorizers["http"];
    assert_eq!((http.timeout.as_secs(), http.fail_open, http.status_on_error), (600, false, 403));
    let ExternalAuthorizerProtocol::Http { include_request_headers, .. } = &http.protocol else { panic!("not HTTP") };
    assert_eq!(*include_request_headers, [StringMatch::Prefix("x-auth".to_owned())]);
    let grpc = &config.authorizers["grpc"];
    let body = grpc.body.as_ref().unwrap();
    assert_eq!((grpc.destination.port, body.max_bytes), (Some(9000), 1024), "numbers may be texts");
    assert_eq!((grpc.timeout.as_millis(), grpc.fail_open, grpc.status_on_error), (500, true, 503));
    assert_eq!(grpc.destination.host, Host::Cluster("foo/authz".parse().unwrap()));
}

#[test]
fn every_other_field_is_found() {
    let cases = [
        ("accessLogFile: /dev/stdout", "data.mesh.accessLogFile", "ISM0001"),
        ("trustDomain: east.demo", "data.mesh.trustDomain", "ISM0001"),
        ("defaultConfig: {concurrency: 2}", "data.mesh.defaultConfig.concurrency", "ISM0001"),
        ("trustDomainAlias: [a]", "data.mesh.trustDomainAlias", "ISM0007"),
        ("pathNormalization: {normalization: MERGE}", "data.mesh.pathNormalization.normalization", "ISM0007"),
        ("pathNormalization: {mode: BASE}", "data.mesh.pathNormalization.mode", "ISM0007"),
        ("pathNormalization: BASE", "data.mesh.pathNormalization", "ISM0007"),
        ("outboundTrafficPolicy: {mode: ALLOW}", "data.mesh.outboundTrafficPolicy.mode", "ISM0007"),
        ("rootNamespace: [a]", "data.mesh.rootNamespace", "ISM0007"),
        ("[]", "data.mesh", "ISM0007"),
        ("a: [", "data.mesh", "ISM0007"),
        ("extensionProviders: [{envoyExtAuthzHttp: {}}]", "data.mesh.extensionProviders[0].name", "ISM0007"),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, pathPrefix: /x}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.pathPrefix",
            "ISM0007",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: http}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.port",
            "ISM0007",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 70000}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.port",
            "ISM0007",
        ),
        (
            "defaultConfig: {gatewayTopology: {numTrustedProxies: two}}",
            "data.mesh.defaultConfig.gatewayTopology.numTrustedProxies",
            "ISM0007",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, timeout: soon}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.timeout",
            "ISM0007",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, clearRouteCache: false}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.clearRouteCache",
            "ISM0001",
        ),
        (
            "extensionProviders: [{name: a, envoyExtAuthzGrpc: {service: a.b, port: 1, includeRequestBodyInCheck: \
             {maxRequestBytes: 1, packAsBytes: true}}}]",
            "data.mesh.extensionProviders[0].envoyExtAuthzGrpc.includeRequestBodyInCheck.packAsBytes",
            "ISM0001",
        ),
    ];
    for (text, path, code) in cases {
        assert_eq!(read(text).1, [(path.to_owned(), code)], "{text}");
    }
}

#[test]
fn other_config_maps_are_users_own() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: shop}\ndata: {mesh: \"a: [\"}\n";
    let manifests = federation_crds::parse_manifests(text, "test.yaml").unwrap();
    let mut findings = Vec::new();
    assert_eq!(MeshConfig::read(&manifests, &mut findings), MeshConfig::default());
    assert!(findings.is_empty());
}
