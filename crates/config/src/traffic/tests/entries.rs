//! ServiceEntries and WorkloadEntries.

use std::net::IpAddr;

use mesh::{Protocol, Resolution, Service, Visibility};

use super::*;

fn entry(metadata: &str, spec: &str) -> String {
    format!("---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {metadata}\nspec: {spec}\n")
}

fn only(compiled: &Compiled) -> &Service {
    assert_eq!(compiled.entries.len(), 1);
    compiled.entries.values().next().unwrap()
}

#[test]
fn a_host_by_dns_has_an_address_of_its_own_and_itself_as_endpoint() {
    let compiled = compiled(&entry(
        "{name: a}",
        "{hosts: [api.example.com], ports: [{number: 443, name: tls, protocol: TLS}, {number: 80, name: http, \
         protocol: HTTP, targetPort: 8080}], resolution: DNS}",
    ));
    let service = only(&compiled);
    assert_eq!(service.name, name("default/api.example.com"));
    let ports: Vec<_> = service.ports.iter().map(|port| (port.number, port.protocol)).collect();
    assert_eq!(ports, [(80, Protocol::Http), (443, Protocol::Tcp)]);
    let config = service.config.entry.as_ref().unwrap();
    assert!(config.external && config.resolution == Resolution::Dns);
    assert_eq!((config.hosts[0].host.as_str(), config.hosts[0].ports[&80]), ("api.example.com", 8080));
    let addresses = &compiled.hosts[&service.name].addresses;
    assert_eq!((addresses.len(), addresses), (2, &service.cluster_addresses));
}

#[test]
fn wildcards_and_hosts_without_resolution_get_no_address() {
    for spec in ["{hosts: ['*.example.com'], resolution: NONE}", "{hosts: [a.example.com], resolution: NONE}"] {
        assert!(compiled(&entry("{name: a}", spec)).hosts.is_empty(), "{spec}");
    }
}

#[test]
fn given_addresses_are_addresses_or_networks() {
    let compiled = compiled(&entry(
        "{name: a}",
        "{hosts: [a.example.com], addresses: [10.9.0.1, 10.8.0.0/16], resolution: STATIC}",
    ));
    let service = only(&compiled);
    assert_eq!(service.cluster_addresses, ["10.9.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(service.config.entry.as_ref().unwrap().networks[0].to_string(), "10.8.0.0/16");
}

#[test]
fn endpoints_inside_of_the_mesh_have_identities() {
    let spec = |location: &str| {
        format!(
            "{{hosts: [a.example.com], location: {location}, resolution: STATIC, ports: [{{number: 80, name: http}}], \
             endpoints: [{{address: 10.9.0.1, serviceAccount: vm, ports: {{http: 8080}}, weight: 3, locality: r/z, \
             labels: {{version: v1}}}}]}}"
        )
    };
    let inside = compiled(&entry("{name: a}", &spec("MESH_INTERNAL")));
    let endpoint = &only(&inside).endpoints[0];
    assert_eq!(endpoint.identity.as_ref().unwrap().to_string(), "spiffe://east.demo/ns/default/sa/vm");
    assert_eq!((endpoint.ports[&80], endpoint.weight, endpoint.locality.as_str()), (8080, 3, "r/z"));
    let outside = compiled(&entry("{name: a}", &spec("MESH_EXTERNAL")));
    assert_eq!(only(&outside).endpoints[0].identity, None);
}

#[test]
fn selectors_take_workload_entries_and_pods() {
    let workload = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm}\n\
                    spec: {address: 10.9.0.9, labels: {app: reviews}, serviceAccount: reviews}\n";
    let compiled = compiled(
        &[
            workload.to_owned(),
            entry(
                "{name: a}",
                "{hosts: [a.example.com], location: MESH_INTERNAL, resolution: STATIC, \
               ports: [{number: 80, name: http, targetPort: 9080}], workloadSelector: {labels: {app: reviews}}}",
            ),
        ]
        .concat(),
    );
    let endpoints: Vec<_> =
        only(&compiled).endpoints.iter().map(|it| (it.name.as_str(), it.ports[&80], it.identity.is_some())).collect();
    assert_eq!(endpoints, [("vm", 9080, true), ("reviews-v1-0", 9080, true)]);
}

#[test]
fn a_service_selects_workload_entries() {
    let workload = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm}\n\
                    spec: {address: 10.9.0.9, labels: {app: reviews}, ports: {http: 8080}}\n";
    let local = local::build(&manifests(workload), &mesh_info().trust_domain);
    let endpoints = &local.services[&name("default/reviews")].endpoints;
    let vm = endpoints.iter().find(|endpoint| endpoint.name == "vm").unwrap();
    assert_eq!((endpoints.len(), vm.ports[&9080], &vm.identity), (2, 8080, &None));
}

#[test]
fn entries_of_one_host_are_added_up() {
    let compiled = compiled(
        &[
            entry(
                "{name: a}",
                "{hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}",
            ),
            entry(
                "{name: b}",
                "{hosts: [a.example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}",
            ),
        ]
        .concat(),
    );
    let service = only(&compiled);
    assert_eq!(service.ports.iter().map(|port| port.number).collect::<Vec<_>>(), [80, 443]);
    let hosts = &service.config.entry.as_ref().unwrap().hosts;
    assert_eq!((hosts.len(), hosts[0].ports.len()), (1, 2));
}

#[test]
fn entries_have_routes_and_policies() {
    let compiled = compiled(
        &[
            entry(
                "{name: a}",
                "{hosts: [a.example.com], resolution: DNS, exportTo: [.], subjectAltNames: [b.example.com]}",
            ),
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {hosts: \
         ['*.example.com'], http: [{timeout: 1s, route: [{destination: {host: a.example.com}}]}]}\n"
                .to_owned(),
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec: {host: \
         a.example.com, trafficPolicy: {tls: {mode: SIMPLE}}}\n"
                .to_owned(),
        ]
        .concat(),
    );
    let config = &compiled.entries[&name("default/a.example.com")].config;
    assert_eq!((config.routes.len(), config.destinations.len()), (1, 1));
    assert!(matches!(config.entry.as_ref().unwrap().visible_to, Visibility::Namespaces(_)));
    let mesh::ClientTls::Originate(tls) = &config.destinations[0].policy.any.tls else { panic!() };
    assert_eq!(tls.subject_alt_names, ["b.example.com"]);
    assert!(compiled.entries.contains_key(&name("default/*.example.com")), "other hosts are routed, too");
}
