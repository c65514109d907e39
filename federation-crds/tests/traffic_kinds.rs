//! What validation says about the traffic kinds: a specification in flow style, and the field and message of each error.

mod advice;

/// Specification → the errors as `path: message`; a message may be cut short.
type Case = (&'static str, &'static [&'static str]);

fn check(kind: &str, cases: &[Case]) {
    for (spec, expected) in cases {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: x, namespace: shop}}\nspec: {spec}\n"
        );
        let found = advice::messages(&text);
        let fits = found.len() == expected.len()
            && expected.iter().all(|expected| found.iter().any(|found| found.starts_with(expected)));
        assert!(fits, "{kind} {spec}\nfound    {found:#?}\nexpected {expected:#?}");
    }
}

#[test]
fn virtual_services() {
    check(
        "VirtualService",
        &[
            ("{hosts: [a], http: [{route: [{destination: {host: a}}]}]}", &[]),
            ("{hosts: [a]}", &["spec: http, tls or tcp is required"]),
            ("{hosts: ['*'], http: [{route: [{destination: {host: a}}]}]}", &["spec.hosts[0]: \"*\" is not allowed"]),
            ("{hosts: ['*'], gateways: [g], http: [{route: [{destination: {host: a}}]}]}", &[]),
            (
                "{hosts: ['a b'], http: [{route: [{destination: {host: a}}]}]}",
                &["spec.hosts[0]: \"a b\" is no host name"],
            ),
            (
                "{hosts: ['*a.com'], http: [{route: [{destination: {host: a}}]}]}",
                &["spec.hosts[0]: \"*a.com\" is no host"],
            ),
            ("{hosts: ['*.a.com', b.a.com], http: [{route: [{destination: {host: a}}]}]}", &["spec.hosts[1]: "]),
            ("{hosts: [10.0.0.1], http: [{route: [{destination: {host: a}}]}]}", &[]),
            ("{hosts: [a], gateways: [A_b], http: [{route: [{destination: {host: a}}]}]}", &["spec.gateways[0]: "]),
            (
                "{hosts: [a], gateways: [mesh, ns/g, ./g, g.ns.svc.cluster.local], http: [{route: [{destination: {host: a}}]}]}",
                &[],
            ),
            ("{hosts: [a], exportTo: ['*', b], http: [{route: [{destination: {host: a}}]}]}", &["spec.exportTo[0]: "]),
            (
                "{hosts: [a], exportTo: ['~'], http: [{route: [{destination: {host: a}}]}]}",
                &["spec.exportTo[0]: ~ is for"],
            ),
            (
                "{hosts: [a], exportTo: [., shop], http: [{route: [{destination: {host: a}}]}]}",
                &["spec.exportTo[1]: \"shop\" is named twice"],
            ),
            (
                "{gateways: [g], http: [{route: [{destination: {host: a}}]}]}",
                &["spec.gateways: must be absent from a delegate"],
            ),
            ("{http: [{delegate: {name: d}}]}", &["spec.http[0].delegate: must be absent from a delegate"]),
            (
                "{hosts: [a], http: [{delegate: {name: d}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].route: must be absent from a rule that delegates"],
            ),
            ("{hosts: [a], htp: []}", &["spec.htp: unknown field"]),
        ],
    );
}

#[test]
fn http_rules() {
    check(
        "VirtualService",
        &[
            ("{hosts: [a], http: [{}]}", &["spec.http[0]: route, redirect or directResponse is required"]),
            ("{hosts: [a], http: [{route: [{weight: 1}]}]}", &["spec.http[0].route[0].destination: is required"]),
            (
                "{hosts: [a], http: [{route: [{destination: {host: ''}}]}]}",
                &["spec.http[0].route[0].destination.host: "],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: '*'}}]}]}",
                &["spec.http[0].route[0].destination.host: "],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a, subset: V1}}]}]}",
                &["spec.http[0].route[0].destination.subset: "],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a, port: {number: 0}}}]}]}",
                &["spec.http[0].route[0].destination.port.number: 0 must be a port"],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: b}}]}]}",
                &["spec.http[0].route: the sum of the weights is 0"],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 3}, {destination: {host: b}, weight: 4}]}]}",
                &[],
            ),
            (
                "{hosts: [a], http: [{route: [{destination: {host: a}, weight: -1}]}]}",
                &["spec.http[0].route[0].weight: -1"],
            ),
            (
                "{hosts: [a], http: [{redirect: {uri: /}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].route: must be absent beside redirect"],
            ),
            (
                "{hosts: [a], http: [{redirect: {uri: /}, rewrite: {uri: /}, fault: {abort: {httpStatus: 500}}}]}",
                &["spec.http[0].fault: ", "spec.http[0].rewrite: "],
            ),
            (
                "{hosts: [a], http: [{redirect: {uri: /}, directResponse: {status: 200}}]}",
                &["spec.http[0].directResponse: must be absent beside redirect"],
            ),
            ("{hosts: [a], http: [{redirect: {}}]}", &["spec.http[0].redirect: uri, prefixRewrite"]),
            (
                "{hosts: [a], http: [{redirect: {uri: /, redirectCode: 200}}]}",
                &["spec.http[0].redirect.redirectCode: 200"],
            ),
            ("{hosts: [a], http: [{redirect: {scheme: ftp}}]}", &["spec.http[0].redirect.scheme: "]),
            (
                "{hosts: [a], http: [{redirect: {derivePort: HERE}}]}",
                &["spec.http[0].redirect.derivePort: must be one of"],
            ),
            ("{hosts: [a], http: [{directResponse: {status: 99}}]}", &["spec.http[0].directResponse.status: 99"]),
            (
                "{hosts: [a], http: [{directResponse: {status: 200, body: {bytes: '?'}}}]}",
                &["spec.http[0].directResponse.body.bytes: "],
            ),
            (
                "{hosts: [a], http: [{rewrite: {}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].rewrite: uri, uriRegexRewrite or authority"],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].rewrite: only one of"],
            ),
            (
                "{hosts: [a], http: [{rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].rewrite.uriRegexRewrite.match: "],
            ),
            (
                "{hosts: [a], http: [{timeout: 5, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].timeout: must be a string"],
            ),
            (
                "{hosts: [a], http: [{timeout: 5x, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].timeout: \"5x\" is not a duration"],
            ),
            (
                "{hosts: [a], http: [{timeout: 1us, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].timeout: must be at least 1ms"],
            ),
            ("{hosts: [a], http: [{timeout: 0s, route: [{destination: {host: a}}]}]}", &[]),
            (
                "{hosts: [a], http: [{headers: {request: {set: {':path': /}}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].headers.request.set[\":path\"]: "],
            ),
            ("{hosts: [a], http: [{headers: {request: {set: {host: b}}}, route: [{destination: {host: a}}]}]}", &[]),
            (
                "{hosts: [a], http: [{headers: {request: {set: {host: b}}}, rewrite: {authority: c}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].headers.request: the authority is set several times"],
            ),
            (
                "{hosts: [a], http: [{headers: {response: {remove: [host]}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].headers.response.remove[0]: "],
            ),
            (
                "{hosts: [a], http: [{mirror: {host: b}, mirrors: [{destination: {host: c}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].mirrors: must be absent beside mirror"],
            ),
            (
                "{hosts: [a], http: [{mirror: {host: b}, mirrorPercentage: {value: 101}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].mirrorPercentage.value: 101"],
            ),
            (
                "{hosts: [a], http: [{mirror: {host: b}, mirror_percent: 101, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].mirror_percent: 101"],
            ),
        ],
    );
}

#[test]
fn http_conditions() {
    check(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{match: [{uri: {regex: '('}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].uri.regex: \"(\" is no regular expression"],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {regex: '(?=a)'}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].uri.regex: "],
            ),
            ("{hosts: [a], http: [{match: [{uri: {prefix: ''}}], route: [{destination: {host: a}}]}]}", &[]),
            (
                "{hosts: [a], http: [{match: [{method: {prefix: ''}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].method.prefix: must not be empty"],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {exact: /a, prefix: /}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].uri: only one of"],
            ),
            (
                "{hosts: [a], http: [{match: [{headers: {'a b': {exact: c}}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].headers[\"a b\"]: "],
            ),
            (
                "{hosts: [a], http: [{match: [{headers: {x: {}}, withoutHeaders: {y: {regex: '*'}}}], route: [{destination: {host: a}}]}]}",
                &[],
            ),
            (
                "{hosts: [a], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: c}}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].headers[\"@request.auth.claims.sub\"]: claims of tokens"],
            ),
            (
                "{hosts: [a], gateways: [g], http: [{match: [{headers: {'@request.auth.claims.sub': {exact: c}}}], route: [{destination: {host: a}}]}]}",
                &[],
            ),
            (
                "{hosts: [a], http: [{match: [{port: 70000}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].port: 70000 must be a port"],
            ),
            (
                "{hosts: [a], http: [{match: [{sourceNamespace: A}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].sourceNamespace: "],
            ),
            (
                "{hosts: [a], http: [{match: [{sourceLabels: {a: '*'}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].sourceLabels[\"a\"]: wildcards"],
            ),
            (
                "{hosts: [a], http: [{match: [{uri: {glob: x}}], route: [{destination: {host: a}}]}]}",
                &["spec.http[0].match[0].uri.glob: unknown field"],
            ),
        ],
    );
}

#[test]
fn faults_retries_and_origins() {
    check(
        "VirtualService",
        &[
            (
                "{hosts: [a], http: [{fault: {}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault: delay or abort is required"],
            ),
            (
                "{hosts: [a], http: [{fault: {delay: {percentage: {value: 101}, fixedDelay: 1s}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.delay.percentage.value: 101"],
            ),
            (
                "{hosts: [a], http: [{fault: {delay: {fixedDelay: 0s}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.delay.fixedDelay: must be at least 1ms"],
            ),
            (
                "{hosts: [a], http: [{fault: {delay: {exponentialDelay: 1s}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.delay.exponentialDelay: is not supported"],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {httpStatus: 42}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.abort.httpStatus: 42"],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {grpcStatus: GONE}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.abort.grpcStatus: "],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {grpcStatus: UNAVAILABLE}}, route: [{destination: {host: a}}]}]}",
                &[],
            ),
            (
                "{hosts: [a], http: [{fault: {abort: {http2Error: X}}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].fault.abort.http2Error: is not supported"],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: -1}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].retries.attempts: -1"],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 0, retryOn: 5xx}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].retries.attempts: 0 switches retries off"],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 1, retryOn: '5xx,503,retriable-headers'}, route: [{destination: {host: a}}]}]}",
                &[],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 1, retryOn: 'sometimes,299'}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].retries.retryOn: \"sometimes\"", "spec.http[0].retries.retryOn: \"299\""],
            ),
            (
                "{hosts: [a], http: [{retries: {attempts: 1, perTryTimeout: soon}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].retries.perTryTimeout: "],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {allowOrigins: [{}]}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].corsPolicy.allowOrigins[0]: "],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {allowMethods: [FETCH]}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].corsPolicy.allowMethods[0]: "],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {allowHeaders: ['a b']}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].corsPolicy.allowHeaders[0]: "],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {maxAge: 1500ms}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].corsPolicy.maxAge: must be whole seconds"],
            ),
            (
                "{hosts: [a], http: [{corsPolicy: {unmatchedPreflights: MAYBE}, route: [{destination: {host: a}}]}]}",
                &["spec.http[0].corsPolicy.unmatchedPreflights: must be one of"],
            ),
        ],
    );
}

#[test]
fn tls_and_tcp_rules() {
    check(
        "VirtualService",
        &[
            ("{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}], route: [{destination: {host: a.com}}]}]}", &[]),
            (
                "{hosts: [a.com], tls: [{route: [{destination: {host: a.com}}]}]}",
                &["spec.tls[0].match: at least one match"],
            ),
            (
                "{hosts: [a.com], tls: [{match: [{}], route: [{destination: {host: a.com}}]}]}",
                &["spec.tls[0].match[0].sniHosts: "],
            ),
            (
                "{hosts: [a.com], tls: [{match: [{sniHosts: [b.com]}], route: [{destination: {host: a.com}}]}]}",
                &["spec.tls[0].match[0].sniHosts[0]: \"b.com\" is none of spec.hosts"],
            ),
            (
                "{hosts: ['*.a.com'], tls: [{match: [{sniHosts: ['*.b.a.com', c.a.com]}], route: [{destination: {host: a.com}}]}]}",
                &[],
            ),
            ("{hosts: [a.com], tls: [{match: [{sniHosts: [a.com]}]}]}", &["spec.tls[0].route: is required"]),
            (
                "{hosts: [a], tcp: [{match: [{destinationSubnets: [10.0.0.0/33]}], route: [{destination: {host: a}}]}]}",
                &["spec.tcp[0].match[0].destinationSubnets[0]: "],
            ),
            (
                "{hosts: [a], tcp: [{match: [{sourceSubnet: x}], route: [{destination: {host: a}}]}]}",
                &["spec.tcp[0].match[0].sourceSubnet: "],
            ),
            ("{hosts: [a], tcp: [{}]}", &["spec.tcp[0].route: is required"]),
            (
                "{hosts: [a], tcp: [{match: [{port: 27017}], route: [{destination: {host: a}, weight: 20}, {destination: {host: b}, weight: 80}]}]}",
                &[],
            ),
        ],
    );
}

#[test]
fn destination_rules() {
    check(
        "DestinationRule",
        &[
            ("{host: a, trafficPolicy: {loadBalancer: {simple: LEAST_CONN}}}", &[]),
            ("{host: ''}", &["spec.host: "]),
            ("{host: '*.a.com'}", &[]),
            ("{host: a, trafficPolicy: {}}", &["spec.trafficPolicy: must have at least one field"]),
            (
                "{host: a, trafficPolicy: {loadBalancer: {simple: FASTEST}}}",
                &["spec.trafficPolicy.loadBalancer.simple: must be one of"],
            ),
            ("{host: a, subsets: [{name: v1}, {name: v1}]}", &["spec.subsets[1].name: the name \"v1\" is used twice"]),
            ("{host: a, subsets: [{name: V_1}]}", &["spec.subsets[0].name: "]),
            ("{host: a, subsets: [{name: v1, labels: {'a b': c}}]}", &["spec.subsets[0].labels[\"a b\"]: "]),
            (
                "{host: a, trafficPolicy: {connectionPool: {}}}",
                &["spec.trafficPolicy.connectionPool: tcp or http is required"],
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: -1}}}}",
                &["spec.trafficPolicy.connectionPool.tcp.maxConnections: -1"],
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0s}}}}",
                &["spec.trafficPolicy.connectionPool.tcp.connectTimeout: must be at least 1ms"],
            ),
            (
                "{host: a, trafficPolicy: {connectionPool: {http: {h2UpgradePolicy: UPGRADE, useClientProtocol: true}}}}",
                &["spec.trafficPolicy.connectionPool.http.useClientProtocol: "],
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101}}}",
                &["spec.trafficPolicy.outlierDetection.maxEjectionPercent: 101"],
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {consecutiveLocalOriginFailures: 1}}}",
                &["spec.trafficPolicy.outlierDetection.consecutiveLocalOriginFailures: has no effect"],
            ),
            (
                "{host: a, trafficPolicy: {outlierDetection: {interval: 30}}}",
                &["spec.trafficPolicy.outlierDetection.interval: must be a string"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {}}}}",
                &["spec.trafficPolicy.loadBalancer.consistentHash: httpHeaderName"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x, useSourceIp: true}}}}",
                &["spec.trafficPolicy.loadBalancer.consistentHash: only one of"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {ttl: 0s}}}}}",
                &["spec.trafficPolicy.loadBalancer.consistentHash.httpCookie.name: is required"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}}}",
                &["spec.trafficPolicy.loadBalancer.consistentHash.maglev.tableSize: 65536 must be a prime"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r/*, to: {r1: 50, r2: 40}}]}}}}",
                &["spec.trafficPolicy.loadBalancer.localityLbSetting.distribute[0].to: the sum is 90"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: r, to: r}]}}}}",
                &["spec.trafficPolicy.loadBalancer.localityLbSetting.failover[0].to: must be another region"],
            ),
            (
                "{host: a, trafficPolicy: {loadBalancer: {warmup: {duration: 10s, aggression: 0.5}}}}",
                &["spec.trafficPolicy.loadBalancer.warmup.aggression: 0.5"],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: MUTUAL}}}",
                &["spec.trafficPolicy.tls.clientCertificate: ", "spec.trafficPolicy.tls.privateKey: "],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: SIMPLE, credentialName: c, caCertificates: /ca}}}",
                &["spec.trafficPolicy.tls.caCertificates: must be absent beside credentialName"],
            ),
            (
                "{host: a, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true, subjectAltNames: [b]}}}",
                &["spec.trafficPolicy.tls.subjectAltNames: must be absent when"],
            ),
            (
                "{host: a, trafficPolicy: {portLevelSettings: [{tls: {mode: SIMPLE}}]}}",
                &["spec.trafficPolicy.portLevelSettings[0].port: is required"],
            ),
            (
                "{host: a, trafficPolicy: {portLevelSettings: [{port: {number: 80}}]}}",
                &["spec.trafficPolicy.portLevelSettings[0]: must have at least one field"],
            ),
            (
                "{host: a, trafficPolicy: {tunnel: {protocol: GET, targetHost: b, targetPort: 0}}}",
                &["spec.trafficPolicy.tunnel.protocol: ", "spec.trafficPolicy.tunnel.targetPort: "],
            ),
            (
                "{host: a, trafficPolicy: {tunnel: {protocol: POST, targetHost: b.c, targetPort: 1}}}",
                &["spec.trafficPolicy.tunnel.protocol: POST is not implemented"],
            ),
            (
                "{host: a, trafficPolicy: {tunnel: {targetHost: b, targetPort: 1}, proxyProtocol: {version: V1}}}",
                &["spec.trafficPolicy.proxyProtocol: "],
            ),
            (
                "{host: a, trafficPolicy: {retryBudget: {percent: 120}}}",
                &["spec.trafficPolicy.retryBudget.percent: 120"],
            ),
            (
                "{host: a, workloadSelector: {matchLabels: {app: b}}, exportTo: ['*']}",
                &["spec.exportTo: a rule with a workloadSelector"],
            ),
            ("{host: a, workloadSelector: {matchLabels: {app: b}}, exportTo: [.]}", &[]),
        ],
    );
}

#[test]
fn service_entries() {
    check(
        "ServiceEntry",
        &[
            ("{hosts: [a.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}", &[]),
            ("{ports: [{number: 443, name: tls, protocol: TLS}]}", &["spec.hosts: at least one host is required"]),
            ("{hosts: ['*']}", &["spec.hosts[0]: \"*\" is no host"]),
            ("{hosts: ['*.a.com'], resolution: DNS}", &["spec.hosts[0]: a wildcard cannot be resolved"]),
            ("{hosts: ['*.a.com'], resolution: NONE}", &[]),
            ("{hosts: [a.com], resolution: DYNAMIC_DNS}", &["spec.resolution: DYNAMIC_DNS is not supported"]),
            (
                "{hosts: [a.com], resolution: NONE, endpoints: [{address: 10.0.0.1}]}",
                &["spec.endpoints: must be absent when the resolution is NONE"],
            ),
            (
                "{hosts: [a.com], resolution: STATIC, endpoints: [{address: b.com}]}",
                &["spec.endpoints[0].address: \"b.com\" must be an IP address"],
            ),
            ("{hosts: [a.com], resolution: DNS, endpoints: [{address: b.com}]}", &[]),
            ("{hosts: [a.com], resolution: STATIC, endpoints: [{}]}", &["spec.endpoints[0].address: is required"]),
            (
                "{hosts: [a.com], resolution: DNS_ROUND_ROBIN, endpoints: [{address: b.com}, {address: c.com}]}",
                &["spec.endpoints: at most one"],
            ),
            (
                "{hosts: [a.com], resolution: STATIC, endpoints: [{address: 10.0.0.1, ports: {http: 80}}]}",
                &["spec.endpoints[0].ports[\"http\"]: \"http\" is no port of the ServiceEntry"],
            ),
            (
                "{hosts: [a.com], resolution: STATIC, workloadSelector: {labels: {a: b}}, endpoints: [{address: 10.0.0.1}]}",
                &["spec.endpoints: must be absent beside workloadSelector"],
            ),
            ("{hosts: [a.com], resolution: DNS, addresses: [10.0.0.0/8]}", &["spec.addresses[0]: ranges are for"]),
            ("{hosts: [a.com], addresses: [10.0.0]}", &["spec.addresses[0]: "]),
            (
                "{hosts: [a.com], ports: [{number: 80, name: a}, {number: 80, name: a}]}",
                &["spec.ports[1].name: ", "spec.ports[1].number: "],
            ),
            ("{hosts: [a.com], ports: [{number: 0, name: a}]}", &["spec.ports[0].number: 0 must be a port"]),
            (
                "{hosts: [a.com], ports: [{number: 80, name: a, protocol: SPDY}]}",
                &["spec.ports[0].protocol: \"SPDY\" is no protocol"],
            ),
            (
                "{hosts: [a.com, b.com], resolution: DNS, ports: [{number: 80, name: a, protocol: TCP}]}",
                &["spec.hosts: several hosts cannot share"],
            ),
            ("{hosts: [a.com], exportTo: ['~']}", &[]),
        ],
    );
}

#[test]
fn workload_entries_and_sidecars() {
    check(
        "WorkloadEntry",
        &[
            ("{address: 10.0.0.1, labels: {app: a}, serviceAccount: b, weight: 2}", &[]),
            ("{address: vm.example.com}", &[]),
            ("{}", &["spec.address: is required"]),
            ("{address: 'a b'}", &["spec.address: "]),
            ("{address: 'unix:///run/a', ports: {http: 80}}", &["spec.ports: must be absent"]),
            ("{address: 10.0.0.1, ports: {http: 0}}", &["spec.ports[\"http\"]: 0 must be a port"]),
        ],
    );
    check(
        "Sidecar",
        &[
            ("{egress: [{hosts: ['./*', 'istio-system/*', '*/a.com', '~/*']}]}", &[]),
            ("{}", &["spec: egress, ingress"]),
            (
                "{workloadSelector: {labels: {a: '*'}}, egress: [{hosts: ['*/*']}]}",
                &["spec.workloadSelector.labels[\"a\"]: wildcards"],
            ),
            ("{egress: [{hosts: []}]}", &["spec.egress[0].hosts: at least one host"]),
            ("{egress: [{hosts: [a.com]}]}", &["spec.egress[0].hosts[0]: \"a.com\" must be <namespace>/<host>"]),
            (
                "{egress: [{hosts: ['*/*']}, {port: {number: 80, protocol: HTTP}, hosts: ['*/*']}]}",
                &["spec.egress[0]: only the last listener"],
            ),
            (
                "{egress: [{port: {number: 80, protocol: HTTP}, bind: here, hosts: ['*/*']}]}",
                &["spec.egress[0].bind: "],
            ),
            ("{ingress: [{}]}", &["spec.ingress[0].port: is required"]),
            (
                "{ingress: [{port: {number: 80, protocol: HTTP, name: http}, defaultEndpoint: '10.0.0.1:80'}]}",
                &["spec.ingress[0].defaultEndpoint: "],
            ),
            ("{ingress: [{port: {number: 80, protocol: HTTP, name: http}, defaultEndpoint: '127.0.0.1:8080'}]}", &[]),
            ("{outboundTrafficPolicy: {mode: REGISTRY_ONLY}}", &[]),
            (
                "{outboundTrafficPolicy: {egressProxy: {host: a.com, port: {number: 80}}}}",
                &["spec.outboundTrafficPolicy.egressProxy: is for mode ALLOW_ANY only"],
            ),
            (
                "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: a.com}}}",
                &["spec.outboundTrafficPolicy.egressProxy.port: is required"],
            ),
        ],
    );
}
