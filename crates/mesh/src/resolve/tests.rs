//! The door: `check(zones, table)`, where a line is `name type -> answer`.
use std::sync::Arc;

use super::*;
use crate::fixture::{Mesh, cluster};
use crate::model::{HostEntry, HostPod, HostPort, LocalHost, PortTransport};
use crate::names::{Namespace, ServiceName};

fn name(namespace: &str, name: &str) -> ServiceName {
    ServiceName::new(Namespace::new(namespace).unwrap(), name).unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn ports(texts: &[(&str, u16, PortTransport)]) -> Vec<HostPort> {
    texts
        .iter()
        .map(|(name, number, transport)| HostPort { name: (*name).into(), number: *number, transport: *transport })
        .collect()
}

fn pod(of: &str, hostname: &str, at: &[&str]) -> HostPod {
    let hostname = Some(hostname.to_owned()).filter(|name| !name.is_empty());
    HostPod { cluster: cluster(of), hostname, addresses: addresses(at), ports: Vec::new() }
}

fn host(of: ServiceName) -> HostEntry {
    HostEntry::of_entry(of, Vec::new())
}

fn local(of: &str, local: LocalHost) -> HostEntry {
    HostEntry { local: Some(local), ..host(name("testns", of)) }
}

fn shared(of: &str, at: &[&str]) -> HostEntry {
    let http = ports(&[("http", 80, PortTransport::Tcp)]);
    HostEntry { clusterset: true, addresses: addresses(at), ports: http, ..host(name("testns", of)) }
}

fn view(hosts: Vec<HostEntry>) -> View {
    let mut view = Mesh::east().view();
    view.hosts = hosts.into_iter().map(|host| (host.name.clone(), Arc::new(host))).collect();
    view
}

fn kind(text: &str) -> QuestionKind {
    match text {
        "A" => QuestionKind::A,
        "AAAA" => QuestionKind::Aaaa,
        "SRV" => QuestionKind::Srv,
        "TXT" => QuestionKind::Txt,
        "CNAME" => QuestionKind::Cname,
        "PTR" => QuestionKind::Ptr,
        "SOA" => QuestionKind::Soa,
        "ANY" => QuestionKind::Any,
        "NS" => QuestionKind::Other,
        other => panic!("no type {other}"),
    }
}

fn shown(decision: &DnsDecision) -> String {
    let data = |record: &DnsRecord| match &record.data {
        DnsData::Address(address) => address.to_string(),
        DnsData::Port { weight, port, target } => format!("0 {weight} {port} {target}"),
        DnsData::Alias(to) => format!("alias {to}"),
        DnsData::Name(name) => format!("name {name}"),
        DnsData::Text(text) => format!("{:?} {}", text, record.ttl),
    };
    let all = |records: &[DnsRecord]| records.iter().map(data).collect::<Vec<_>>().join(", ");
    let extra = |text: String| match decision.additional.as_slice() {
        [] => text,
        additional => format!("{text} + {}", all(additional)),
    };
    match &decision.outcome {
        DnsOutcome::Records(records) => extra(all(records)),
        DnsOutcome::Follow { aliases, to } => format!("{} -> {to}", all(aliases)),
        DnsOutcome::Start => "SOA".into(),
        DnsOutcome::NoData => "NODATA".into(),
        DnsOutcome::NxDomain => "NXDOMAIN".into(),
        DnsOutcome::Forward => "forward".into(),
    }
}

fn check(view: &View, zones: Zones, table: &str) {
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (question, expected) = line.split_once(" => ").unwrap_or_else(|| panic!("no answer: {line}"));
        let (asked, of) = question.rsplit_once(' ').unwrap();
        let decision = resolve(view, zones, &Question { name: asked.trim(), kind: kind(of) });
        assert_eq!(shown(&decision), expected, "{question}: {:?}", decision.reasons);
        assert!(!decision.reasons.is_empty(), "{question}");
    }
}

const BOTH: Zones = Zones { cluster: true };
const CLUSTERSET: Zones = Zones { cluster: false };

/// The objects of CoreDNS's handler test, as far as they are Services here.
fn kubernetes() -> View {
    let http = || ports(&[("http", 80, PortTransport::Tcp)]);
    let with = |at: &[&str]| LocalHost { addresses: addresses(at), ports: http(), ..LocalHost::default() };
    let external = |to: &str| LocalHost { external_name: Some(to.into()), ..LocalHost::default() };
    let pods = vec![
        pod("east", "", &["172.0.0.2"]),
        pod("east", "", &["172.0.0.3"]),
        pod("east", "dup-name", &["172.0.0.4"]),
        pod("east", "dup-name", &["172.0.0.5"]),
        pod("east", "", &["5678:abcd::1"]),
        pod("east", "", &["5678:abcd::2"]),
    ];
    let headless = LocalHost { headless: true, ports: http(), pods, ..LocalHost::default() };
    let portless = LocalHost { headless: true, pods: vec![pod("east", "", &["172.0.0.20"])], ..LocalHost::default() };
    let dns =
        ports(&[("dns", 53, PortTransport::Tcp), ("dns-udp", 53, PortTransport::Udp), ("", 9, PortTransport::Tcp)]);
    view(vec![
        local("svc1", with(&["10.0.0.1"])),
        local("svc6", with(&["1234:abcd::1"])),
        local("svc-dual-stack", with(&["10.0.0.3", "10::3"])),
        local("hdls1", headless),
        local("hdlsprtls", portless),
        local("hdlsempty", LocalHost { headless: true, ports: http(), ..LocalHost::default() }),
        local("external", external("ext.interwebs.test")),
        local("external-to-service", external("svc1.testns.svc.cluster.local.")),
        local("loop", external("loop.testns.svc.cluster.local")),
        local("kube-dns", LocalHost { ports: dns, ..with(&["10.0.0.9"]) }),
    ])
}

#[test]
fn cluster_local_answers_as_coredns_does() {
    check(
        &kubernetes(),
        BOTH,
        "
        svc1.testns.svc.cluster.local A => 10.0.0.1
        svc1.testns.svc.cluster.local AAAA => NODATA
        svc1.testns.svc.cluster.local SRV => 0 100 80 svc1.testns.svc.cluster.local + 10.0.0.1
        svc1.testns.svc.cluster.local SOA => NODATA
        svc1.testns.svc.cluster.local ANY => 10.0.0.1
        svc6.testns.svc.cluster.local AAAA => 1234:abcd::1
        svc6.testns.svc.cluster.local SRV => 0 100 80 svc6.testns.svc.cluster.local + 1234:abcd::1
        _http._tcp.svc1.testns.svc.cluster.local SRV => 0 100 80 svc1.testns.svc.cluster.local + 10.0.0.1
        _http._tcp.svc6.testns.svc.cluster.local SRV => 0 100 80 svc6.testns.svc.cluster.local + 1234:abcd::1
        _http._tcp.svc1.testns.svc.cluster.local A => NODATA
        _http._udp.svc1.testns.svc.cluster.local SRV => NXDOMAIN
        _other._tcp.svc1.testns.svc.cluster.local SRV => NXDOMAIN
        _tcp.svc1.testns.svc.cluster.local A => NODATA
        _udp.svc1.testns.svc.cluster.local A => NXDOMAIN
        _dns-udp._udp.kube-dns.testns.svc.cluster.local SRV => 0 100 53 kube-dns.testns.svc.cluster.local + 10.0.0.9
        kube-dns.testns.svc.cluster.local SRV => 0 50 9 kube-dns.testns.svc.cluster.local, 0 50 53 kube-dns.testns.svc.cluster.local + 10.0.0.9
        __tcp._tcp.kube-dns.testns.svc.cluster.local SRV => NXDOMAIN
        svc-dual-stack.testns.svc.cluster.local A => 10.0.0.3
        svc-dual-stack.testns.svc.cluster.local AAAA => 10::3
        svc-dual-stack.testns.svc.cluster.local SRV => 0 100 80 svc-dual-stack.testns.svc.cluster.local + 10.0.0.3, 10::3
        hdls1.testns.svc.cluster.local A => 172.0.0.2, 172.0.0.3, 172.0.0.4, 172.0.0.5
        hdls1.testns.svc.cluster.local AAAA => 5678:abcd::1, 5678:abcd::2
        hdlsprtls.testns.svc.cluster.local A => 172.0.0.20
        172-0-0-20.hdlsprtls.testns.svc.cluster.local A => 172.0.0.20
        172-0-0-2.hdls1.testns.svc.cluster.local A => 172.0.0.2
        172-0-0-4.hdls1.testns.svc.cluster.local A => NXDOMAIN
        dup-name.hdls1.testns.svc.cluster.local A => 172.0.0.4, 172.0.0.5
        dup-name.hdls1.testns.svc.cluster.local AAAA => NODATA
        5678-abcd--2.hdls1.testns.svc.cluster.local AAAA => 5678:abcd::2
        bogusendpoint.hdls1.testns.svc.cluster.local A => NXDOMAIN
        bogusendpoint.svc0.testns.svc.cluster.local A => NXDOMAIN
        bogusendpoint.svc1.testns.svc.cluster.local A => NXDOMAIN
        hdlsempty.testns.svc.cluster.local A => NXDOMAIN
        _http._tcp.hdlsempty.testns.svc.cluster.local SRV => NXDOMAIN
        hdlsprtls.testns.svc.cluster.local SRV => NODATA
        external.testns.svc.cluster.local CNAME => alias ext.interwebs.test
        external.testns.svc.cluster.local A => alias ext.interwebs.test -> ext.interwebs.test
        endpoint.external.testns.svc.cluster.local CNAME => NXDOMAIN
        external-to-service.testns.svc.cluster.local A => alias svc1.testns.svc.cluster.local, 10.0.0.1
        external-to-service.testns.svc.cluster.local AAAA => alias svc1.testns.svc.cluster.local
        loop.testns.svc.cluster.local A => NODATA
        svc0.testns.svc.cluster.local AAAA => NXDOMAIN
        svc0.testns.svc.cluster.local A => NXDOMAIN
        svc0.svc-nons.svc.cluster.local A => NXDOMAIN
        dns-version.cluster.local TXT => \"1.1.0\" 28800
        dns-version.cluster.local A => NODATA
        cluster.local SOA => SOA
        cluster.local A => NODATA
        svc.cluster.local A => NODATA
        svc.cluster.local NS => NODATA
        pod.cluster.local A => NODATA
        testns.svc.cluster.local A => NODATA
        testns.svc.cluster.local NS => NODATA
        testns.pod.cluster.local A => NODATA
        nons.svc.cluster.local A => NXDOMAIN
        foo.cluster.local NS => NXDOMAIN
        foo.svc.cluster.local NS => NXDOMAIN
        10-240-0-1.testns.pod.cluster.local A => 10.240.0.1
        10-240-0-1.testns.pod.cluster.local AAAA => NODATA
        10-240-0-1.nons.pod.cluster.local A => NXDOMAIN
        5678-abcd--1.testns.pod.cluster.local AAAA => 5678:abcd::1
        blah.testns.pod.cluster.local A => NXDOMAIN
        svc1.*.svc.cluster.local A => NXDOMAIN
        *.testns.svc.cluster.local A => NXDOMAIN
        1.0.0.10.in-addr.arpa PTR => name svc1.testns.svc.cluster.local
        4.0.0.172.in-addr.arpa PTR => name dup-name.hdls1.testns.svc.cluster.local
        2.0.0.172.in-addr.arpa PTR => name 172-0-0-2.hdls1.testns.svc.cluster.local
        1.0.0.10.in-addr.arpa A => NODATA
        9.9.9.9.in-addr.arpa PTR => forward
        9.9.9.in-addr.arpa PTR => forward
        1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.c.b.a.4.3.2.1.ip6.arpa PTR => name svc6.testns.svc.cluster.local
        www.example.com.testns.svc.cluster.local A => NXDOMAIN
        svc1.testns.svc.clusterset.local.svc.cluster.local A => NXDOMAIN
        notcluster.local A => forward
        www.example.org A => forward
        ",
    );
}

#[test]
fn srv_of_a_headless_service_names_every_pod() {
    let asked = Question { name: "_http._tcp.hdls1.testns.svc.cluster.local", kind: QuestionKind::Srv };
    let decision = resolve(&kubernetes(), BOTH, &asked);
    let DnsOutcome::Records(records) = &decision.outcome else { panic!("{decision:?}") };
    let targets: Vec<String> = records
        .iter()
        .map(|record| match &record.data {
            DnsData::Port { weight: 20, port: 80, target } => target.replace(".hdls1.testns.svc.cluster.local", ""),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(targets, ["172-0-0-2", "172-0-0-3", "5678-abcd--1", "5678-abcd--2", "dup-name"]);
    assert_eq!(decision.additional.len(), 6);
}

#[test]
fn where_another_server_has_cluster_local_its_names_are_forwarded() {
    check(
        &kubernetes(),
        CLUSTERSET,
        "
        svc1.testns.svc.cluster.local A => forward
        dns-version.cluster.local TXT => forward
        1.0.0.10.in-addr.arpa PTR => forward
        svc1.testns.svc.clusterset.local A => NXDOMAIN
        ",
    );
}

/// The objects of CoreDNS's multicluster test, seen from `east`.
fn clusterset() -> View {
    let pods = vec![
        pod("clusterid", "", &["172.0.0.2"]),
        pod("clusterid", "", &["172.0.0.3"]),
        pod("clusterid", "dup-name", &["172.0.0.4", "172.0.0.5"]),
        pod("clusterid", "", &["5678:abcd::1"]),
        pod("east", "dup-name", &["10.1.1.1"]),
    ];
    let headless = |of: &str, pods| HostEntry { headless: true, pods, ..shared(of, &[]) };
    let doubled =
        ports(&[("tcp", 42, PortTransport::Tcp), ("udp", 42, PortTransport::Udp), ("", 43, PortTransport::Tcp)]);
    let with = |at: &[&str]| LocalHost { addresses: addresses(at), ..LocalHost::default() };
    view(vec![
        shared("svc1", &["243.0.0.1"]),
        shared("svc6", &["fd49:5354:484d::6"]),
        shared("dual", &["243.0.0.3", "fd49:5354:484d::3"]),
        HostEntry { ports: doubled, ..shared("hello", &["243.0.0.4"]) },
        headless("hdls1", pods),
        headless("hdlsempty", Vec::new()),
        local("private", with(&["10.0.0.8"])),
        HostEntry { global: true, local: Some(with(&[])), ..shared("worldwide", &["243.0.0.7"]) },
        HostEntry { global: true, local: Some(with(&["10.0.0.7"])), ..shared("global-ip", &["243.0.0.8"]) },
        HostEntry {
            global: true,
            local: Some(LocalHost { headless: true, pods: vec![pod("east", "a-0", &["10.1.1.2"])], ..with(&[]) }),
            ..headless("global-hdls", vec![pod("east", "a-0", &["10.1.1.2"]), pod("west", "a-0", &["242.0.0.1"])])
        },
    ])
}

#[test]
fn clusterset_local_answers_as_the_specification_says() {
    check(
        &clusterset(),
        BOTH,
        "
        svc1.testns.svc.clusterset.local A => 243.0.0.1
        svc1.testns.svc.clusterset.local AAAA => NODATA
        svc1.testns.svc.clusterset.local TXT => NODATA
        svc1.testns.svc.clusterset.local SOA => NODATA
        svc1.testns.svc.clusterset.local SRV => 0 100 80 svc1.testns.svc.clusterset.local + 243.0.0.1
        svc6.testns.svc.clusterset.local AAAA => fd49:5354:484d::6
        _http._tcp.svc6.testns.svc.clusterset.local SRV => 0 100 80 svc6.testns.svc.clusterset.local + fd49:5354:484d::6
        dual.testns.svc.clusterset.local A => 243.0.0.3
        dual.testns.svc.clusterset.local AAAA => fd49:5354:484d::3
        dual.testns.svc.clusterset.local SRV => 0 100 80 dual.testns.svc.clusterset.local + 243.0.0.3, fd49:5354:484d::3
        _http._tcp.svc1.testns.svc.clusterset.local SRV => 0 100 80 svc1.testns.svc.clusterset.local + 243.0.0.1
        _http._not-udp-or-tcp.svc1.testns.svc.clusterset.local SRV => NXDOMAIN
        _tcp.svc1.testns.svc.clusterset.local A => NODATA
        hello.testns.svc.clusterset.local SRV => 0 50 42 hello.testns.svc.clusterset.local, 0 50 43 hello.testns.svc.clusterset.local + 243.0.0.4
        _udp._udp.hello.testns.svc.clusterset.local SRV => 0 100 42 hello.testns.svc.clusterset.local + 243.0.0.4
        hdls1.testns.svc.clusterset.local A => 10.1.1.1, 172.0.0.2, 172.0.0.3, 172.0.0.4, 172.0.0.5
        hdls1.testns.svc.clusterset.local AAAA => 5678:abcd::1
        172-0-0-2.clusterid.hdls1.testns.svc.clusterset.local A => 172.0.0.2
        dup-name.clusterid.hdls1.testns.svc.clusterset.local A => 172.0.0.4, 172.0.0.5
        dup-name.clusterid.hdls1.testns.svc.clusterset.local AAAA => NODATA
        dup-name.east.hdls1.testns.svc.clusterset.local A => 10.1.1.1
        5678-abcd--1.clusterid.hdls1.testns.svc.clusterset.local AAAA => 5678:abcd::1
        dup-name.hdls1.testns.svc.clusterset.local A => NXDOMAIN
        dup-name.west.hdls1.testns.svc.clusterset.local A => NXDOMAIN
        bogusendpoint.clusterid.hdls1.testns.svc.clusterset.local A => NXDOMAIN
        bogusendpoint.clusterid.svc0.testns.svc.clusterset.local A => NXDOMAIN
        bogusendpoint.clusterid.svc1.testns.svc.clusterset.local A => NXDOMAIN
        clusterid.hdls1.testns.svc.clusterset.local A => NODATA
        west.hdls1.testns.svc.clusterset.local A => NXDOMAIN
        clusterid.svc1.testns.svc.clusterset.local A => NXDOMAIN
        hdlsempty.testns.svc.clusterset.local A => NXDOMAIN
        _http._tcp.hdlsempty.testns.svc.clusterset.local SRV => NXDOMAIN
        svc0.testns.svc.clusterset.local A => NXDOMAIN
        svc0.svc-nons.svc.clusterset.local A => NXDOMAIN
        private.testns.svc.clusterset.local A => NXDOMAIN
        private.testns.svc.cluster.local A => 10.0.0.8
        worldwide.testns.svc.cluster.local A => 243.0.0.7
        global-ip.testns.svc.cluster.local A => 10.0.0.7
        global-hdls.testns.svc.cluster.local A => 10.1.1.2, 242.0.0.1
        svc1.testns.svc.cluster.local A => NXDOMAIN
        dns-version.clusterset.local TXT => \"1.0.0\" 28800
        dns-version.clusterset.local A => NODATA
        clusterset.local SOA => SOA
        clusterset.local A => NODATA
        svc.clusterset.local A => NODATA
        testns.svc.clusterset.local A => NODATA
        nons.svc.clusterset.local A => NXDOMAIN
        pod.clusterset.local A => NXDOMAIN
        foo.clusterset.local A => NXDOMAIN
        svc1.*.svc.clusterset.local A => NXDOMAIN
        a.b.c.d.e.f.clusterset.local A => NXDOMAIN
        notclusterset.local A => forward
        ",
    );
}

#[test]
fn srv_of_a_headless_import_names_pods_with_their_cluster() {
    let asked = Question { name: "_http._tcp.hdls1.testns.svc.clusterset.local", kind: QuestionKind::Srv };
    let decision = resolve(&clusterset(), CLUSTERSET, &asked);
    let DnsOutcome::Records(records) = &decision.outcome else { panic!("{decision:?}") };
    let targets: Vec<String> = records
        .iter()
        .map(|record| match &record.data {
            DnsData::Port { port: 80, target, .. } => target.replace(".hdls1.testns.svc.clusterset.local", ""),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected =
        ["172-0-0-2.clusterid", "172-0-0-3.clusterid", "5678-abcd--1.clusterid", "dup-name.clusterid", "dup-name.east"];
    assert_eq!(targets, expected);
    assert_eq!(decision.additional.len(), 6);
}

#[test]
fn hosts_of_entries_have_their_addresses() {
    let entry = |host: &str, at: &[&str]| {
        let name = ServiceName::entry(Namespace::new("default").unwrap(), &host.parse().unwrap());
        HostEntry::of_entry(name, addresses(at))
    };
    let hosts = vec![
        entry("a.example.org", &["240.0.0.1"]),
        entry("*.example.org", &["240.0.0.2"]),
        entry("*.b.example.org", &["240.0.0.3"]),
        entry("six.example.org", &["fd00::1"]),
        entry("none.example.com", &[]),
        entry("legacy.shop.svc.cluster.local", &["240.0.0.4"]),
    ];
    check(
        &view(hosts),
        BOTH,
        "
        a.example.org A => 240.0.0.1
        a.example.org AAAA => NODATA
        a.example.org NS => forward
        c.example.org A => 240.0.0.2
        c.b.example.org A => 240.0.0.3
        six.example.org AAAA => fd00::1
        six.example.org A => NODATA
        example.org A => forward
        none.example.com A => forward
        legacy.shop.svc.cluster.local A => 240.0.0.4
        ",
    );
}

#[test]
fn dashes_are_read_back() {
    for text in ["10.0.0.7", "fd00::7", "::1", "fd00::", "::", "5678:abcd::1"] {
        let address: IpAddr = text.parse().unwrap();
        let label = records::dashed(address);
        assert!(Namespace::new(label.as_str()).is_ok(), "{label} is a label");
        assert_eq!(records::undashed(&label), Some(address), "{label}");
    }
}
