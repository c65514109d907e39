//! Configurations as text, one statement a line:
//!
//! ```text
//! client shop at=us/a app=web                    the workload beside the proxy: namespace, locality, labels
//! sidecar hosts=./*,*/a.example unknown=refuse   what it may reach: allow, refuse, through:<host>
//! service reviews v1*2 v2@us/b ports=80,443 export global headless ip=10.0.0.1 vip=243.0.0.1 to=shop
//! import west reviews v1*3@eu/a                  groups of another cluster
//! alias pay a.example ports=80                   a Service of type ExternalName
//! entry a.example dns ports=80 to=shop hosts=b.example*2 net=10.0.0.0/8 in=shop v1
//! dr reviews in=shop for=app:web v1 v2 tls=mutual lb=header:user locality=failover:us>eu private
//! dr reviews subset=near:topology.kubernetes.io/zone:a,far:rack:7   subsets with a label other than the version
//! vs reviews in=shop to=shop gateways=mesh,gw    routes of a host; its rules are the lines that are indented
//!   path^=/api header:user=jason | method=PUT -> reviews v1 90, reviews v2 10 ; timeout=2 delay=50%
//!   -> redirect scheme=https ; or: -> direct 404
//!   tls sni=*.a.example port=443 -> reviews v2
//!   tcp port=80 from=10.0.0.0/8 -> reviews v1
//! server gw 80 http *.a.example redirect tls=simple
//! ```
//!
//! Pods are `<version>*<count>@<locality>` and marks: `!` no sidecar, `?` not ready, `~` its port takes no mTLS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::fixture::{Mesh, cluster, identity, service};
use crate::host::Host;
use crate::model::*;
use crate::names::{Namespace, ServiceName};
use crate::policy::*;

use super::traffic::policy;

/// The view that a configuration makes.
pub(crate) fn view(config: &str) -> View {
    let mut builder = Builder { view: Mesh::east().view(), workload: workload(), routes: None };
    for line in config.lines().filter(|line| !line.trim().is_empty()) {
        if line.trim_start().starts_with("->") || line.contains("->") {
            builder.rule(line.trim());
        } else {
            builder.finish_routes();
            builder.statement(Words::of(line));
        }
    }
    builder.finish_routes();
    builder.view.workload = Some(Arc::new(builder.workload));
    builder.view
}

/// The words of a line: plain ones, and `key=value`.
pub(crate) struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    pub(crate) fn of(line: &'a str) -> Self {
        Self(line.split_whitespace().collect())
    }

    pub(crate) fn plain(&self) -> impl Iterator<Item = &'a str> {
        self.0.iter().copied().filter(|word| !word.contains('='))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    fn list(&self, key: &str) -> Vec<&'a str> {
        self.get(key).map(|value| value.split(',').collect()).unwrap_or_default()
    }

    fn has(&self, word: &str) -> bool {
        self.0.contains(&word)
    }
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

fn workload() -> Workload {
    Workload {
        namespace: namespace("default"),
        name: "web-1".into(),
        service_account: "web".into(),
        labels: Labels::new(),
        ports: Vec::new(),
        mtls: MtlsMode::Permissive,
        locality: String::new(),
        config: Arc::default(),
    }
}

struct Builder {
    view: View,
    workload: Workload,
    /// The host, the object and the rules so far.
    routes: Option<(String, HostRoutes)>,
}

impl Builder {
    fn statement(&mut self, words: Words<'_>) {
        match words.0[0] {
            "client" => self.client(&words),
            "sidecar" => self.sidecar(&words),
            "service" => self.service(&words),
            "import" => self.import(&words),
            "alias" => self.alias(&words),
            "entry" => self.entry(&words),
            "dr" => self.destinations(&words),
            "vs" => self.routes = Some((words.0[1].to_owned(), empty_routes(&words))),
            "server" => self.server(&words),
            other => panic!("no statement: {other}"),
        }
    }

    fn client(&mut self, words: &Words<'_>) {
        self.workload.namespace = namespace(words.0[1]);
        self.workload.locality = words.get("at").unwrap_or_default().to_owned();
        let labels = words.0[2..].iter().filter_map(|word| word.split_once('=')).filter(|(key, _)| *key != "at");
        self.workload.labels = labels.map(|(key, value)| (key.into(), value.into())).collect();
    }

    fn sidecar(&mut self, words: &Words<'_>) {
        let config = Arc::make_mut(&mut self.workload.config);
        config.outbound.origin = Some(object("Sidecar", "default", "default"));
        config.outbound.hosts = words.get("hosts").map(|hosts| {
            let egress = |text: &str| {
                let (text, port) = text.split_once(':').map_or((text, None), |(text, port)| (text, port.parse().ok()));
                let (namespace, host) = text.split_once('/').unwrap();
                let namespace = match namespace {
                    "*" => None,
                    "." => Some(self.workload.namespace.clone()),
                    name => Some(Namespace::new(name).unwrap()),
                };
                EgressHost { namespace, host: host.parse().unwrap(), port }
            };
            hosts.split(',').map(egress).collect()
        });
        config.outbound.unknown = match words.get("unknown") {
            None | Some("allow") => UnknownHosts::Allow,
            Some("refuse") => UnknownHosts::Refuse,
            Some(through) => UnknownHosts::Through(destination(through.strip_prefix("through:").unwrap())),
        };
    }

    fn service(&mut self, words: &Words<'_>) {
        let ports = ports(words);
        let made = Service {
            name: name_of(words.0[1]),
            global: words.has("global"),
            headless: words.has("headless"),
            clusterset_addresses: addresses(words, "vip"),
            listeners: Default::default(),
            cluster_addresses: addresses(words, "ip"),
            endpoints: pods(words.0[1], &words.0[2..], &ports),
            ports,
            export: words.has("export").then_some(ExportPolicy::Everyone),
            imports: BTreeMap::new(),
            config: Arc::new(ServiceConfig { visible_to: visibility(words), ..ServiceConfig::default() }),
        };
        self.view.services.insert(made.name.clone(), Arc::new(made));
    }

    fn import(&mut self, words: &Words<'_>) {
        let (from, name) = (words.0[1], words.0[2]);
        let known = self.view.clusters.contains_key(&cluster(from));
        if !known {
            let mesh = Mesh::east().import("unused", from, 1).view();
            self.view.clusters.insert(cluster(from), Arc::clone(&mesh.clusters[&cluster(from)]));
        }
        let groups = words.0[3..].iter().map(|word| {
            let pod = Pod::parse(word);
            let labels = Labels::from([("version".into(), pod.version.into())]);
            // Without a sidecar and the export's leave nobody proves an account.
            let service_account = if pod.plain { String::new() } else { "sa".into() };
            let key = GroupKey { service_account, labels, locality: pod.locality.into() };
            Group { key, meshed: !pod.plain, healthy: pod.count }
        });
        let groups = groups.collect();
        if !self.view.services.contains_key(&name_of(name)) {
            self.service(&Words(vec!["service", name]));
        }
        let service = Arc::make_mut(self.view.services.get_mut(&name_of(name)).unwrap());
        let ports = service.ports.clone();
        service.imports.insert(cluster(from), Import { serial: 1, ports, groups, pods: Vec::new() });
    }

    fn alias(&mut self, words: &Words<'_>) {
        let (name, target) = (words.0[1], words.0[2]);
        self.service(&Words(vec!["service", name, &format!("ports={}", words.get("ports").unwrap_or("80"))]));
        let alias = if target.ends_with(".local") {
            Host::parse(target, &namespace("default"))
        } else {
            Host::External(target.into())
        };
        let host = NamedEndpoint {
            host: target.into(),
            ports: BTreeMap::new(),
            labels: Labels::new(),
            locality: String::new(),
            weight: 1,
        };
        let entry = EntryConfig {
            origin: object("Service", "default", name),
            visible_to: Visibility::Everywhere,
            resolution: Resolution::Dns,
            external: true,
            networks: Vec::new(),
            hosts: vec![host],
            subject_alt_names: Vec::new(),
        };
        self.configure(name, |config| {
            config.entry = matches!(alias, Host::External(_)).then_some(entry);
            config.alias = Some(alias);
        });
    }

    fn entry(&mut self, words: &Words<'_>) {
        let resolution = match words.0[2] {
            "none" => Resolution::None,
            "static" => Resolution::Static,
            "dns" => Resolution::Dns,
            "rr" => Resolution::DnsRoundRobin,
            other => panic!("no resolution: {other}"),
        };
        let own = words.get("in").unwrap_or("default");
        let host = |text: &&str| {
            let (text, weight) = text.split_once('*').unwrap_or((text, "1"));
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, port.parse().ok()));
            let ports = port.map(|port| BTreeMap::from([(80, port)])).unwrap_or_default();
            let (labels, locality) = (Labels::new(), String::new());
            NamedEndpoint { host: host.into(), ports, labels, locality, weight: weight.parse().unwrap() }
        };
        let config = EntryConfig {
            origin: object("ServiceEntry", own, "entry"),
            visible_to: visibility(words),
            resolution,
            external: true,
            networks: words.list("net").iter().map(|net| net.parse().unwrap()).collect(),
            hosts: words.list("hosts").iter().map(host).collect(),
            subject_alt_names: words.list("san").iter().map(ToString::to_string).collect(),
        };
        let ports = if words.has("portless") { Vec::new() } else { ports(words) };
        let mut made = Service::clone(&Mesh::east().local("made", 0).view().services[&service("made")]);
        made.name = ServiceName::entry(namespace(own), &words.0[1].parse().unwrap());
        made.export = None;
        made.cluster_addresses = addresses(words, "ip");
        made.endpoints = pods("vm", &words.0[3..], &ports);
        made.ports = ports;
        made.config = Arc::new(ServiceConfig { entry: Some(config), ..ServiceConfig::default() });
        self.view.entries.insert(made.name.clone(), Arc::new(made));
    }

    fn destinations(&mut self, words: &Words<'_>) {
        let own = words.get("in").unwrap_or("default");
        let policy = PortPolicies { any: Arc::new(policy(words)), ports: BTreeMap::new() };
        let selector = words.get("for").and_then(|label| label.split_once(':'));
        let versions = words.0[2..].iter().filter(|word| !word.contains('=') && **word != "private");
        let subset = |version: &&str| {
            let labels = Labels::from([("version".into(), (*version).into())]);
            ((*version).to_owned(), Subset { labels, policy: policy.clone() })
        };
        let labelled = words.list("subset").into_iter().map(|text| {
            let [name, key, value] = *text.splitn(3, ':').collect::<Vec<_>>() else { panic!("no subset: {text}") };
            let labels = Labels::from([(key.into(), value.into())]);
            (name.to_owned(), Subset { labels, policy: policy.clone() })
        });
        let rules = DestinationRules {
            origin: object("DestinationRule", own, words.get("name").unwrap_or("rules")),
            visible_to: visibility(words),
            of_service: !words.has("private"),
            workload_selector: selector.map(|(key, value)| (key.into(), value.into())).into_iter().collect(),
            subsets: versions.map(subset).chain(labelled).collect(),
            policy,
        };
        self.configure(words.0[1], |config| config.destinations.push(Arc::new(rules)));
    }

    fn configure(&mut self, host: &str, change: impl FnOnce(&mut ServiceConfig)) {
        let entry = |name: &&ServiceName| name.name() == host;
        let found = self.view.entries.keys().find(entry).cloned();
        let held = match found {
            Some(name) => self.view.entries.get_mut(&name).unwrap(),
            None => self.view.services.get_mut(&name_of(host)).unwrap_or_else(|| panic!("no {host}")),
        };
        change(Arc::make_mut(&mut Arc::make_mut(held).config));
    }

    fn rule(&mut self, line: &str) {
        let (_, routes) = self.routes.as_mut().expect("rules follow their vs");
        let path = format!("spec.{}", routes.http.len() + routes.tls.len() + routes.tcp.len());
        let origin = Origin { object: Arc::new(routes.origin.clone()), path, name: None };
        super::question::add_rule(routes, origin, line);
    }

    fn finish_routes(&mut self) {
        let Some((host, routes)) = self.routes.take() else { return };
        let routes = Arc::new(routes);
        if routes.gateways.contains(MESH_GATEWAY) {
            match host.strip_suffix("!clusterset") {
                Some(name) => self.configure(name, |config| {
                    config.clusterset_routes.get_or_insert_default().push(Arc::clone(&routes));
                }),
                None => self.configure(&host, |config| config.routes.push(Arc::clone(&routes))),
            }
        }
        let Some(gateway) = Arc::make_mut(&mut self.workload.config).gateway.as_mut() else { return };
        for server in gateway.listeners.iter_mut().flat_map(|listener| &mut listener.servers) {
            if routes.gateways.contains(&server.gateway) {
                let host: HostPattern = host.parse().unwrap();
                Arc::make_mut(server).routes.push(VirtualHost { host, routes: Arc::clone(&routes) });
            }
        }
    }

    fn server(&mut self, words: &Words<'_>) {
        let port: u16 = words.0[2].parse().unwrap();
        let mode = words.get("tls").map(|mode| match mode {
            "simple" => ServerTlsMode::Simple,
            "passthrough" => ServerTlsMode::Passthrough,
            "auto" => ServerTlsMode::AutoPassthrough,
            "mesh" => ServerTlsMode::IstioMutual,
            other => panic!("no mode: {other}"),
        });
        let tls = mode.map(|mode| serde_json::from_value(serde_json::json!({ "mode": mode })).unwrap());
        let host = |host: &str| ServerHost { namespace: None, host: host.parse().unwrap() };
        let object = Arc::new(object("Gateway", "default", words.0[1]));
        let server = Server {
            origin: Origin { object, path: "spec.servers[0]".into(), name: None },
            gateway: words.0[1].into(),
            protocol: if words.0[3] == "http" { ServerProtocol::Http } else { ServerProtocol::Tcp },
            hosts: words.0[4].split(',').map(host).collect(),
            tls,
            https_redirect: words.has("redirect"),
            routes: Vec::new(),
        };
        let gateway = Arc::make_mut(&mut self.workload.config).gateway.get_or_insert_default();
        if gateway.listener(port).is_none() {
            gateway.listeners.push(Listener { port, target_port: port, bind: None, servers: Vec::new() });
        }
        let listener = gateway.listeners.iter_mut().find(|listener| listener.port == port).unwrap();
        listener.servers.push(Arc::new(server));
    }
}

pub(crate) fn object(kind: &str, namespace: &str, name: &str) -> ObjectRef {
    ObjectRef { kind: kind.into(), namespace: namespace.into(), name: name.into() }
}

fn empty_routes(words: &Words<'_>) -> HostRoutes {
    let gateways: BTreeSet<String> = words.list("gateways").iter().map(ToString::to_string).collect();
    HostRoutes {
        origin: object("VirtualService", words.get("in").unwrap_or("default"), words.get("name").unwrap_or("routes")),
        visible_to: visibility(words),
        gateways: if gateways.is_empty() { BTreeSet::from([MESH_GATEWAY.to_owned()]) } else { gateways },
        http: Vec::new(),
        tls: Vec::new(),
        tcp: Vec::new(),
    }
}

fn visibility(words: &Words<'_>) -> Visibility {
    match words.get("to") {
        None => Visibility::Everywhere,
        Some(names) => Visibility::Namespaces(names.split(',').map(namespace).collect()),
    }
}

fn addresses(words: &Words<'_>, key: &str) -> Vec<std::net::IpAddr> {
    words.list(key).iter().map(|address| address.parse().unwrap()).collect()
}

fn ports(words: &Words<'_>) -> Vec<ServicePort> {
    let port =
        |number: &str| ServicePort { name: String::new(), number: number.parse().unwrap(), protocol: Protocol::Auto };
    words.get("ports").unwrap_or("80").split(',').map(port).collect()
}

/// `reviews`, or `reviews.shop`.
fn name_of(text: &str) -> ServiceName {
    let (name, own) = text.split_once('.').unwrap_or((text, "default"));
    ServiceName::new(namespace(own), name).unwrap()
}

struct Pod<'a> {
    version: &'a str,
    count: u32,
    locality: &'a str,
    plain: bool,
    unready: bool,
    plain_port: bool,
}

impl<'a> Pod<'a> {
    fn parse(word: &'a str) -> Self {
        let marks = word.trim_end_matches(['!', '?', '~']);
        let has = |mark| word[marks.len()..].contains(mark);
        let (rest, locality) = marks.split_once('@').unwrap_or((marks, ""));
        let (version, count) = rest.split_once('*').unwrap_or((rest, "1"));
        let count = count.parse().unwrap();
        Self { version, count, locality, plain: has('!'), unready: has('?'), plain_port: has('~') }
    }
}

/// Those of the words that are pods, on port 1000 + the service port.
fn pods(service: &str, words: &[&str], ports: &[ServicePort]) -> Vec<Endpoint> {
    let is_pod = |word: &&&str| word.starts_with('v') && word[1..].starts_with(|c: char| c.is_ascii_digit());
    let mut made = Vec::new();
    for word in words.iter().filter(is_pod) {
        let pod = Pod::parse(word);
        for number in 1..=pod.count {
            let target = |port: &ServicePort| (port.number, port.number + 1000);
            let last = u8::try_from(made.len() + 1).unwrap();
            made.push(Endpoint {
                name: format!("{}-{number}", pod.version),
                address: [10, 1, 0, last].into(),
                ports: ports.iter().map(target).collect(),
                identity: (!pod.plain).then(|| identity("east.demo", service.split('.').next().unwrap())),
                labels: Labels::from([("version".into(), pod.version.into())]),
                locality: pod.locality.into(),
                ready: !pod.unready,
                other_addresses: vec![std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last.into()).into()],
                plain_ports: ports.iter().filter(|_| pod.plain_port).map(|port| port.number + 1000).collect(),
                stand_in: None,
                weight: 1,
            });
        }
    }
    made
}

/// `reviews v2:80`, `a.example`, `reviews.default.svc.clusterset.local`.
pub(crate) fn destination(text: &str) -> Destination {
    let mut words = text.split_whitespace();
    let (host, port) = words.next().map_or(("", None), |host| match host.split_once(':') {
        Some((host, port)) => (host, Some(port.parse().unwrap())),
        None => (host, None),
    });
    let subset = words.next().map(str::to_owned);
    Destination { host: Host::parse(host, &namespace("default")), subset, port }
}
