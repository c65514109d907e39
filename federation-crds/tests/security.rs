//! What the validator says about policies and gateways.

mod advice;

use advice::messages as errors;

fn object(api_version: &str, kind: &str, spec: &str) -> String {
    format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: a}}\nspec: {spec}\n")
}

/// A case: what it shows, the specification, and the beginnings of the errors that it gives.
type Case<'a> = (&'a str, &'a str, &'a [&'a str]);

fn check(api_version: &str, kind: &str, cases: &[Case<'_>]) {
    for (name, spec, expected) in cases {
        let found = errors(&object(api_version, kind, spec));
        let same =
            found.len() == expected.len() && found.iter().zip(*expected).all(|(it, start)| it.starts_with(start));
        assert!(same, "{kind}, {name}: expected {expected:?}, found {found:#?}");
    }
}

#[test]
fn peer_authentication() {
    check(
        "security.istio.io/v1beta1",
        "PeerAuthentication",
        &[
            ("nothing", "{}", &[]),
            ("a mode", "{mtls: {mode: STRICT}}", &[]),
            ("an unknown mode", "{mtls: {mode: strict}}", &["spec.mtls.mode: must be one of"]),
            ("ports of a workload", "{selector: {matchLabels: {app: a}}, portLevelMtls: {8080: {mode: DISABLE}}}", &[]),
            ("ports of a namespace", "{portLevelMtls: {8080: {mode: DISABLE}}}", &["spec.portLevelMtls: is of single"]),
            (
                "no ports",
                "{selector: {matchLabels: {app: a}}, portLevelMtls: {}}",
                &["spec.portLevelMtls: must have at least one"],
            ),
            (
                "a port that is none",
                "{selector: {matchLabels: {app: a}}, portLevelMtls: {0: {mode: DISABLE}}}",
                &["spec.portLevelMtls.0: \"0\" must be a port"],
            ),
            (
                "a wildcard",
                "{selector: {matchLabels: {app: 'a*'}}}",
                &["spec.selector.matchLabels[\"app\"]: wildcards"],
            ),
            ("an unknown field", "{mtsl: {}}", &["spec.mtsl: unknown field"]),
        ],
    );
}

#[test]
fn request_authentication() {
    let keys = r#"jwks: '{"keys": [{"kty": "RSA"}]}'"#;
    let with = |more: &str| format!("{{jwtRules: [{{issuer: i, {keys}, {more}}}]}}");
    let rules = [
        ("fromHeaders: [{name: 'a b'}]", "spec.jwtRules[0].fromHeaders[0].name: "),
        ("fromParams: ['']", "spec.jwtRules[0].fromParams[0]: must not be empty"),
        ("fromCookies: ['']", "spec.jwtRules[0].fromCookies[0]: must not be empty"),
        ("audiences: ['']", "spec.jwtRules[0].audiences[0]: must not be empty"),
        ("outputClaimToHeaders: [{header: x y, claim: a}]", "spec.jwtRules[0].outputClaimToHeaders[0].header: "),
        ("outputClaimToHeaders: [{header: x, claim: ''}]", "spec.jwtRules[0].outputClaimToHeaders[0].claim: "),
        ("timeout: soon", "spec.jwtRules[0].timeout: "),
        ("jwksUri: https://a", "spec.jwtRules[0].jwks: only one of"),
    ];
    for (more, expected) in rules {
        check("security.istio.io/v1", "RequestAuthentication", &[(more, &with(more), &[expected])]);
    }
    check(
        "security.istio.io/v1",
        "RequestAuthentication",
        &[
            (
                "all fields",
                &with("audiences: [a], fromHeaders: [{name: x-jwt, prefix: 'Bearer '}], forwardOriginalToken: true"),
                &[],
            ),
            ("a URI", "{jwtRules: [{issuer: i, jwksUri: 'https://a.io:8443/keys'}]}", &[]),
            ("the older spelling", "{jwtRules: [{issuer: i, jwks_uri: 'http://a.io/keys'}]}", &[]),
            (
                "a URI of another scheme",
                "{jwtRules: [{issuer: i, jwksUri: 'ftp://a'}]}",
                &["spec.jwtRules[0].jwksUri: "],
            ),
            ("keys where the issuer says", "{jwtRules: [{issuer: 'https://a.io/realms/b'}]}", &[]),
            ("no keys", "{jwtRules: [{issuer: i}]}", &["spec.jwtRules[0].issuer: \"i\" must begin with http"]),
            ("keys that are none", "{jwtRules: [{issuer: i, jwks: '{}'}]}", &["spec.jwtRules[0].jwks: has no list"]),
            ("no issuer", &with("").replace("issuer: i, ", ""), &["spec.jwtRules[0].issuer: is required"]),
            (
                "selector and target",
                "{selector: {matchLabels: {a: b}}, targetRef: {kind: Service, name: a}}",
                &["spec: only one of selector"],
            ),
        ],
    );
}

#[test]
fn authorization_policy() {
    check(
        "security.istio.io/v1",
        "AuthorizationPolicy",
        &[
            ("nothing is allowed", "{}", &[]),
            ("everything is allowed", "{rules: [{}]}", &[]),
            ("DENY without rules", "{action: DENY}", &["spec.rules: DENY without rules"]),
            ("CUSTOM without rules", "{action: CUSTOM, provider: {name: a}}", &["spec.rules: CUSTOM without rules"]),
            ("CUSTOM without provider", "{action: CUSTOM, rules: [{}]}", &["spec.provider.name: is required"]),
            ("a provider of ALLOW", "{provider: {name: a}, rules: [{}]}", &["spec.provider: is of the action CUSTOM"]),
            (
                "CUSTOM by identity",
                "{action: CUSTOM, provider: {name: a}, rules: [{from: [{source: {principals: [a]}}], when: [{key: request.auth.principal, values: [a]}]}]}",
                &[
                    "spec.rules[0].from[0].source.principals: is not supported",
                    "spec.rules[0].when[0].key: request.auth.principal",
                ],
            ),
            (
                "an empty source",
                "{rules: [{from: [{source: {}}]}]}",
                &["spec.rules[0].from[0].source: must not be empty"],
            ),
            ("no source", "{rules: [{from: [{}]}]}", &["spec.rules[0].from[0].source: is required"]),
            (
                "an empty operation",
                "{rules: [{to: [{operation: {}}]}]}",
                &["spec.rules[0].to[0].operation: must not be empty"],
            ),
            (
                "an empty value",
                "{rules: [{to: [{operation: {methods: ['']}}]}]}",
                &["spec.rules[0].to[0].operation.methods[0]"],
            ),
            ("blocks", "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, '::1', 1.2.3.4]}}]}]}", &[]),
            (
                "no block",
                "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
                &["spec.rules[0].from[0].source.ipBlocks[0]"],
            ),
            (
                "a port as number",
                "{rules: [{to: [{operation: {ports: [80]}}]}]}",
                &["spec.rules[0].to[0].operation.ports[0]: must be a string"],
            ),
            ("no port", "{rules: [{to: [{operation: {ports: [http]}}]}]}", &["spec.rules[0].to[0].operation.ports[0]"]),
            ("templates", "{rules: [{to: [{operation: {paths: ['/a/{*}/b/{**}', '/x*', '*.js']}}]}]}", &[]),
            (
                "a template after the rest",
                "{rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]}",
                &["spec.rules[0].to[0].operation.paths[0]"],
            ),
            (
                "half a segment",
                "{rules: [{to: [{operation: {paths: ['/a{*}']}}]}]}",
                &["spec.rules[0].to[0].operation.paths[0]"],
            ),
            ("accounts", "{rules: [{from: [{source: {serviceAccounts: [a, b/c]}}]}]}", &[]),
            (
                "an account with a star",
                "{rules: [{from: [{source: {serviceAccounts: ['a*']}}]}]}",
                &["spec.rules[0].from[0].source.serviceAccounts[0]"],
            ),
            (
                "accounts and namespaces",
                "{rules: [{from: [{source: {serviceAccounts: [a], namespaces: [b]}}]}]}",
                &["spec.rules[0].from[0].source.serviceAccounts: cannot be set together"],
            ),
            (
                "keys",
                "{rules: [{when: [{key: 'request.headers[X-A]', values: [a]}, {key: 'request.auth.claims[a][b]', notValues: [c]}, {key: source.ip, values: [1.1.1.1]}]}]}",
                &[],
            ),
            (
                "a key that is none",
                "{rules: [{when: [{key: source.ipp, values: [a]}]}]}",
                &["spec.rules[0].when[0].key: "],
            ),
            (
                "no name in brackets",
                "{rules: [{when: [{key: 'request.headers[]', values: [a]}]}]}",
                &["spec.rules[0].when[0].key: "],
            ),
            (
                "a key of Envoy",
                "{rules: [{when: [{key: 'experimental.envoy.filters.a[b]', values: [a]}]}]}",
                &["spec.rules[0].when[0].key: "],
            ),
            ("no values", "{rules: [{when: [{key: source.ip}]}]}", &["spec.rules[0].when[0]: at least one"]),
            (
                "a value that is no address",
                "{rules: [{when: [{key: source.ip, values: [a]}]}]}",
                &["spec.rules[0].when[0].values[0]"],
            ),
            (
                "a target of another namespace",
                "{targetRefs: [{kind: Service, name: a, namespace: b}]}",
                &["spec.targetRefs[0].namespace: must be absent"],
            ),
            (
                "a target that is none",
                "{targetRefs: [{kind: Pod, name: a}]}",
                &["spec.targetRefs[0].kind: Pod of group"],
            ),
        ],
    );
    let dry = object("security.istio.io/v1", "AuthorizationPolicy", "{rules: [{}]}");
    let dry = dry.replace("{name: a}", "{name: a, annotations: {istio.io/dry-run: \"yes\"}}");
    assert_eq!(errors(&dry), ["metadata.annotations[\"istio.io/dry-run\"]: \"yes\" must be \"true\" or \"false\""]);
}

#[test]
fn gateway() {
    let server = |protocol: &str, more: &str| {
        format!("{{servers: [{{port: {{number: 443, name: a, protocol: {protocol}}}, hosts: ['*'], {more}}}]}}")
    };
    let path = "spec.servers[0]";
    let cases: &[(&str, &str, &str, &[&str])] = &[
        ("plain HTTP", "HTTP", "", &[]),
        ("lower case", "http", "", &[]),
        ("a redirect", "HTTP", "tls: {httpsRedirect: true}", &[]),
        (
            "TLS on plain HTTP",
            "HTTP",
            "tls: {mode: SIMPLE, credentialName: a}",
            &["spec.servers[0].tls: a port of plain HTTP"],
        ),
        ("TLS on TCP", "TCP", "tls: {mode: SIMPLE, credentialName: a}", &["spec.servers[0].tls: a port of TCP"]),
        ("HTTPS without TLS", "HTTPS", "", &["spec.servers[0].tls: is required"]),
        ("no protocol of Istio", "UDP", "", &["spec.servers[0].port.protocol"]),
        ("a credential", "HTTPS", "tls: {mode: SIMPLE, credentialName: a}", &[]),
        ("files", "HTTPS", "tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}", &[]),
        (
            "no material",
            "HTTPS",
            "tls: {mode: SIMPLE}",
            &["spec.servers[0].tls.serverCertificate: is required", "spec.servers[0].tls.privateKey: is required"],
        ),
        (
            "mutual without roots",
            "HTTPS",
            "tls: {mode: MUTUAL, serverCertificate: /c, privateKey: /k}",
            &["spec.servers[0].tls.caCertificates"],
        ),
        ("mutual with a credential", "HTTPS", "tls: {mode: MUTUAL, credentialName: a}", &[]),
        (
            "two sources",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, serverCertificate: /c, privateKey: /k}",
            &["spec.servers[0].tls: only one of"],
        ),
        (
            "the mesh's own with a credential",
            "HTTPS",
            "tls: {mode: ISTIO_MUTUAL, credentialName: a}",
            &["spec.servers[0].tls.credentialName: must be absent"],
        ),
        (
            "a list of revocations for SIMPLE",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, caCrl: /c}",
            &["spec.servers[0].tls.caCrl"],
        ),
        (
            "TLS 1.0",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_0}",
            &["spec.servers[0].tls.minProtocolVersion: this version"],
        ),
        (
            "versions crossed",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, minProtocolVersion: TLSV1_3, maxProtocolVersion: TLSV1_2}",
            &["spec.servers[0].tls.minProtocolVersion: must not be newer"],
        ),
        (
            "one cipher of two",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256, AES128-SHA]}",
            &[],
        ),
        (
            "no cipher that exists",
            "HTTPS",
            "tls: {mode: SIMPLE, credentialName: a, cipherSuites: [AES128-SHA]}",
            &["spec.servers[0].tls.cipherSuites: none"],
        ),
        (
            "a hash that is none",
            "HTTPS",
            "tls: {mode: MUTUAL, credentialName: a, verifyCertificateHash: [ab]}",
            &["spec.servers[0].tls.verifyCertificateHash[0]"],
        ),
        ("passed through", "TLS", "tls: {mode: PASSTHROUGH}", &[]),
        ("an address", "HTTP", "bind: 10.0.0.1", &[]),
        ("no address", "HTTP", "bind: eth0", &["spec.servers[0].bind"]),
        ("a socket", "HTTP", "bind: 'unix:///a'", &["spec.servers[0].bind"]),
        ("an endpoint", "HTTP", "defaultEndpoint: 127.0.0.1:80", &["spec.servers[0].defaultEndpoint: has no effect"]),
    ];
    for (name, protocol, more, expected) in cases {
        check("networking.istio.io/v1", "Gateway", &[(name, &server(protocol, more), expected)]);
    }
    for (host, good) in [
        ("a.io", true),
        ("*.a.io", true),
        ("./a.io", true),
        ("*/a.io", true),
        ("ns/*", true),
        ("a*.io", false),
        ("A/b", false),
        ("a/b/c", false),
        ("", false),
    ] {
        let found = errors(&object(
            "networking.istio.io/v1alpha3",
            "Gateway",
            &server("HTTP", "").replace("'*'", &format!("{host:?}")),
        ));
        assert_eq!(found.is_empty(), good, "{host}: {found:?}");
    }
    let two = |one: &str, other: &str| {
        format!(
            "{{servers: [{{port: {{number: 80, name: a, protocol: {one}}}, hosts: [a.io]}}, {{port: {{number: 80, name: b, protocol: {other}}}, hosts: [b.io]}}]}}"
        )
    };
    check(
        "networking.istio.io/v1",
        "Gateway",
        &[
            ("a port shared by HTTP", &two("HTTP", "HTTP2"), &[]),
            ("a port shared by HTTP and TCP", &two("HTTP", "TCP"), &["spec.servers[1].port: TCP on port 80"]),
            ("names used twice", &two("HTTP", "HTTP").replace("name: b", "name: a"), &["spec.servers[1].port.name"]),
            ("no server", "{selector: {istio: ingressgateway}}", &["spec.servers: at least one"]),
            ("no host", &server("HTTP", "").replace("'*'", ""), &[&format!("{path}.hosts: at least one")]),
        ],
    );
}

#[test]
fn rate_limit_policy() {
    let limit = |more: &str| format!("{{limits: [{{requests: 10, per: 1s, {more}}}]}}");
    check(
        "isthmus.dev/v1alpha1",
        "RateLimitPolicy",
        &[
            ("the least", &limit(""), &[]),
            (
                "everything",
                &limit(
                    "name: a, burst: 20, match: [{uri: {prefix: /api}, headers: {x-user: {}}}], by: [path, method, host, identity, remoteIp, {header: X-A}, {queryParameter: q}, {claim: a.b}]",
                ),
                &[],
            ),
            ("a word that is none", &limit("by: [paht]"), &["spec.limits[0].by[0]: \"paht\" is unknown"]),
            ("a header without a name", &limit("by: [header]"), &["spec.limits[0].by[0]: write {header: name}"]),
            ("an object that is none", &limit("by: [{cookie: a}]"), &["spec.limits[0].by[0]: \"cookie\" is unknown"]),
            ("a number", &limit("by: [1]"), &["spec.limits[0].by[0]: must be one of"]),
            ("twice", &limit("by: [path, path]"), &["spec.limits[0].by[1]: is there twice"]),
            ("no requests", "{limits: [{requests: 0, per: 1s}]}", &["spec.limits[0].requests: must be 1"]),
            ("too short", "{limits: [{requests: 1, per: 1ms}]}", &["spec.limits[0].per: must be 1s"]),
            ("no time", "{limits: [{requests: 1, per: second}]}", &["spec.limits[0].per: "]),
            ("no limit", "{limits: []}", &["spec.limits: 1 to"]),
            ("bodies alone", "{maxBodyBytes: 1024}", &[]),
            ("no body at all", "{maxBodyBytes: 0}", &["spec.maxBodyBytes: must be 1"]),
            ("an empty match", &limit("match: [{}]"), &["spec.limits[0].match[0]: must not be empty"]),
            ("two ways", &limit("match: [{uri: {exact: /a, prefix: /b}}]"), &["spec.limits[0].match[0].uri: only one"]),
            ("no regex", &limit("match: [{uri: {regex: '('}}]"), &["spec.limits[0].match[0].uri.regex"]),
            ("the same name", "{limits: [{requests: 1, per: 1s}, {requests: 2, per: 2s}]}", &["spec.limits[1].name"]),
        ],
    );
}

#[test]
fn cluster_traffic_policy() {
    let tiers = |clusters: &str| format!("{{tiers: [{{clusters: [{clusters}]}}]}}");
    check(
        "isthmus.dev/v1alpha1",
        "ClusterTrafficPolicy",
        &[
            ("the least", "{}", &[]),
            (
                "everything",
                "{services: [a, b], mode: local-first, importFrom: [west], tiers: [{clusters: [{name: west, weight: 2}]}, {clusters: [{name: north}, {name: south}]}], overflow: {healthyPercent: 50}, hysteresis: {returnAfter: 30s, healthyPercent: 80}, cap: {maxSharePercent: 30, maxRequests: 10}}",
                &[],
            ),
            ("no mode", "{mode: remote-first}", &["spec.mode: \"remote-first\" must be one of"]),
            ("no service", "{services: [A.b]}", &["spec.services[0]: "]),
            ("a service twice", "{services: [a, a]}", &["spec.services[1]: is named twice"]),
            ("a cluster twice", &tiers("{name: a}, {name: a}"), &["spec.tiers[0].clusters[1].name: cluster a is in"]),
            ("half a weight", &tiers("{name: a, weight: 1}, {name: b}"), &["spec.tiers[0].clusters: some have"]),
            ("no weight", &tiers("{name: a, weight: 0}"), &["spec.tiers[0].clusters[0].weight: must be 1"]),
            ("an empty tier", &tiers(""), &["spec.tiers[0].clusters: at least one"]),
            ("imported twice", "{importFrom: [a, a]}", &["spec.importFrom[1]: cluster a is named twice"]),
            ("no percentage", "{overflow: {healthyPercent: 101}}", &["spec.overflow.healthyPercent: must be 0 to 100"]),
            (
                "no way back",
                "{overflow: {healthyPercent: 90}, hysteresis: {healthyPercent: 80}}",
                &["spec.hysteresis.healthyPercent: is below"],
            ),
            ("too long", "{hysteresis: {returnAfter: 2h}}", &["spec.hysteresis.returnAfter: must be 0s to 1h"]),
            ("no requests", "{cap: {maxRequests: 0}}", &["spec.cap.maxRequests: must be 1"]),
            (
                "a share of weights",
                "{mode: weighted, cap: {maxSharePercent: 5}}",
                &["spec.cap.maxSharePercent: has no meaning in mode weighted"],
            ),
            (
                "tiers of nobody",
                "{mode: local-only, tiers: [{clusters: [{name: a}]}]}",
                &["spec.tiers: has no meaning in mode local-only"],
            ),
            ("a field that is none", "{teirs: []}", &["spec.teirs: unknown field"]),
        ],
    );
}
