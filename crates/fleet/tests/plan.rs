//! The plan and the manifests that follow from a fleet file.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and ends")]

use fleet::file::FleetFile;
use fleet::plan::{Plan, Ready};
use fleet::{layout, manifests};

const FILE: &str = "
name: demo
hub: {nodes: 1}
clusters:
  - name: east
    gateways: 2
    workloads:
      - {name: shell}
      - name: web
        labels: {app: web, version: v1}
        replicas: 2
        ports: [{name: http, port: 9080}, {name: grpc, port: 9090, protocol: grpc}]
        export: [west]
  - name: west
    ingress: [{ports: [{port: 31400}]}]
    workloads:
      - {name: job, mesh: false, command: [sleep, '1000']}
      - {name: old, mesh: false, ports: [{port: 8000}]}
";

fn plan() -> Plan {
    Plan::new(&FleetFile::parse(FILE).expect("valid"), 42)
}

#[test]
fn every_process_has_its_address() {
    let rows: Vec<String> = plan()
        .processes()
        .iter()
        .map(|process| {
            let ready = match &process.ready {
                Ready::Admin(admin) => format!("admin {admin}"),
                Ready::Holds => "holds".to_owned(),
                Ready::Accepts(ports) => {
                    format!("accepts {}", ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
                }
                other => format!("{other:?}"),
            };
            format!("{} {} {ready}", process.name, process.address)
        })
        .collect();
    let expected = "\
hub-1 127.42.0.1:7443 admin 127.42.0.1:15020
east/agent 127.42.1.1:15010 admin 127.42.1.1:15020
east/gateway-1 127.42.1.2:15443 admin 127.42.1.2:15020
east/gateway-2 127.42.1.3:15443 admin 127.42.1.3:15020
east/dns 127.42.1.9:15053 admin 127.42.1.9:15020
east/shell-1/sidecar 127.42.1.20:15001 admin 127.42.1.20:15020
east/web-1/sidecar 127.42.1.21:15001 admin 127.42.1.21:15020
east/web-2/sidecar 127.42.1.22:15001 admin 127.42.1.22:15020
east/web-1/app 127.42.1.21:30000 accepts 127.42.1.21:30000 127.42.1.21:30001
east/web-2/app 127.42.1.22:30000 accepts 127.42.1.22:30000 127.42.1.22:30001
west/agent 127.42.2.1:15010 admin 127.42.2.1:15020
west/gateway-1 127.42.2.2:15443 admin 127.42.2.2:15020
west/istio-ingressgateway 127.42.2.10:8080 admin 127.42.2.10:15020
west/dns 127.42.2.9:15053 admin 127.42.2.9:15020
west/job-1/app 127.42.2.20:0 accepts \n\
west/old-1/app 127.42.2.21:8000 accepts 127.42.2.21:8000";
    assert_eq!(rows.join("\n"), expected);
}

#[test]
fn a_workload_is_found_by_its_name_and_by_its_pods() {
    let plan = plan();
    let name = |reference| plan.pod(reference).map(|(_, pod)| pod.name.clone());
    assert_eq!(name("east/web").as_deref(), Some("web-1"));
    assert_eq!(name("east/web-2").as_deref(), Some("web-2"));
    assert_eq!(name("west/web"), None);
    assert_eq!(name("web"), None);
}

#[test]
fn an_application_is_told_where_to_listen() {
    let plan = plan();
    let (cluster, pod) = plan.pod("east/web-2").expect("a pod");
    let environment = pod.environment(&cluster.name);
    let value = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    assert_eq!(value("HOST"), Some("127.42.1.22"));
    assert_eq!((value("PORT"), value("PORT_grpc"), value("PORT_GRPC")), (Some("30000"), Some("30001"), Some("30001")));
    assert_eq!((value("POD"), value("CLUSTER"), value("VERSION")), (Some("web-2"), Some("east"), Some("v1")));
}

#[test]
fn generated_manifests_are_what_the_agent_admits() {
    let plan = plan();
    let directory = tempfile::tempdir().expect("a directory");
    for cluster in &plan.clusters {
        let objects = manifests::generate(cluster);
        let path = layout::Layout::new(directory.path()).manifests(cluster.name.as_str());
        let applied = manifests::apply(&path, &objects).expect("applied");
        assert!(applied.iter().all(|row| row.action == "created"), "{applied:?}");
        let mut kinds = Vec::new();
        for entry in std::fs::read_dir(&path).expect("manifests") {
            let path = entry.expect("an entry").path();
            let text = std::fs::read_to_string(&path).expect("text");
            let read = manifests::read_all(&path.display().to_string(), &text).expect("admitted");
            assert_eq!(read.len(), 1);
            kinds.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
        kinds.sort();
        match cluster.name.as_str() {
            "east" => assert_eq!(
                kinds,
                [
                    "endpointslice.default.web-web-1.yaml",
                    "endpointslice.default.web-web-2.yaml",
                    "service.default.web.yaml",
                    "serviceexport.default.web.yaml",
                ]
            ),
            _ => assert_eq!(
                kinds,
                [
                    "endpointslice.default.old-old-1.yaml",
                    "endpointslice.istio-system.istio-ingressgateway.yaml",
                    "service.default.old.yaml",
                    "service.istio-system.istio-ingressgateway.yaml",
                ]
            ),
        }
        let again = manifests::apply(&path, &objects).expect("applied");
        assert!(again.iter().all(|row| row.action == "unchanged"), "{again:?}");
    }
}

#[test]
fn a_refused_text_changes_nothing() {
    let good = "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec: {ports: [{port: 80}]}\n";
    for bad in [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: a, namespace: default}\nspec: {prots: []}\n",
        "apiVersion: v1\nkind: Service\nmetadata: {name: ../../x, namespace: default}\nspec: {ports: [{port: 80}]}\n",
        ": : :\n",
    ] {
        let error = manifests::read_all("test.yaml", &format!("{good}---\n{bad}")).expect_err("refused");
        assert!(error.to_string().contains("test.yaml"), "{error:#}");
    }
    assert_eq!(manifests::read_all("test.yaml", good).expect("admitted").len(), 1);
    let nothing = manifests::read_all("test.yaml", "---\n# later\n").expect_err("refused");
    assert_eq!(nothing.to_string(), "test.yaml holds no object");
}

#[test]
fn deleting_needs_every_object_to_be_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let object =
        |name: &str| serde_json::json!({"kind": "Service", "metadata": {"name": name, "namespace": "default"}});
    manifests::apply(directory.path(), &[object("a")]).expect("applied");
    assert!(manifests::delete(directory.path(), &[object("a"), object("b")]).is_err());
    assert!(directory.path().join("service.default.a.yaml").exists(), "nothing was deleted");
    manifests::delete(directory.path(), &[object("a")]).expect("deleted");
    assert_eq!(std::fs::read_dir(directory.path()).expect("entries").count(), 0);
}
