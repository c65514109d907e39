//! What scripts rely on: exit codes, data on standard output, errors with hints on standard error.

#![expect(clippy::expect_used, reason = "a test that cannot go on says why and ends")]

use std::process::Command;

/// Runs `hubctl` and gives exit code, standard output and standard error.
fn hubctl(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hubctl"))
        .args(arguments)
        .env_remove("ISTHMUS_FLEET")
        .env_remove("ISTHMUS_OPERATOR")
        .output()
        .expect("hubctl runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn wrong_usage_is_two_and_failure_is_one() {
    assert_eq!(hubctl(&["frobnicate"]).0, Some(2));
    assert_eq!(hubctl(&["fleet", "kill"]).0, Some(2));
    assert_eq!(hubctl(&["--version"]).0, Some(0));
    let (code, stdout, stderr) = hubctl(&["--fleet", "/nonexistent", "fleet", "status"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "error: there is no fleet in /nonexistent\n\
         hint: start one with `hubctl fleet up -f deploy/fleets/two-clusters.yaml`\n"
    );
}

#[test]
fn a_fleet_file_with_mistakes_starts_nothing_and_names_them_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("fleet.yaml");
    std::fs::write(&file, "name: x\nhub: {nodes: 2}\nclusters: [{name: East}]\n").expect("written");
    let fleet = directory.path().join("fleet");
    let path = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let (code, stdout, stderr) = hubctl(&["fleet", "up", "-f", &path(&file), "--dir", &path(&fleet)]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("error: the fleet file has 2 mistakes:\n  hub.nodes: "), "{stderr}");
    assert!(stderr.contains("clusters[0].name: cluster name \"East\" is not valid"), "{stderr}");
    assert!(!fleet.exists(), "something was started");
}

#[test]
fn hub_init_writes_private_files_once() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let dir = directory.path().to_str().expect("UTF-8");
    let arguments = ["hub", "init", "--mesh-id", "demo", "--dir", dir, "--member", "1=127.0.0.1:7443,127.0.0.1:7444"];
    let (code, stdout, stderr) = hubctl(&arguments);
    assert_eq!((code, stdout.as_str()), (Some(0), ""), "{stderr}");
    for name in ["operator.json", "ca/ca.key", "hub-1/tls/node.key"] {
        let metadata = std::fs::metadata(directory.path().join(name)).expect(name);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let (code, _, stderr) = hubctl(&arguments);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("already holds a hub\nhint: "), "{stderr}");
}

#[test]
fn an_operator_credential_that_is_missing_is_told_with_a_way_out() {
    let (code, _, stderr) = hubctl(&["--operator", "/nonexistent.json", "clusters"]);
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: the operator's credential"), "{stderr}");
    assert!(stderr.contains("/nonexistent.json") && stderr.contains("\nhint: "), "{stderr}");
}

#[test]
fn analysis_names_what_is_wrong_and_ends_with_one_for_errors_only() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    };
    let routes = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                  spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v3}}]}]}\n";
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{port: 80, name: x}]}\n";
    let (routes, service) = (write("routes.yaml", routes), write("service.yaml", service));
    let (code, stdout, stderr) = hubctl(&["analyze", &routes, &service]);
    assert_eq!(code, Some(1), "{stderr}");
    let subset = "Error [IST0101] (VirtualService default/reviews) spec.http[0].route[0].destination.subset: \
                  no DestinationRule of reviews has a subset \"v3\"\n  hint: ";
    assert!(stdout.contains(subset), "{stdout}");
    assert!(stdout.contains("Info [IST0118] (Service default/reviews) spec.ports: "), "{stdout}");
    let (code, stdout, _) = hubctl(&["analyze", &service, "-o", "json"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("\"code\": \"IST0118\"") && stdout.contains("\"severity\": \"info\""), "{stdout}");
    let refused = write("refused.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspce: {}\n");
    let (code, stdout, stderr) = hubctl(&["analyze", &refused]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(stderr.starts_with("error: refused, with one mistake; nothing was changed:\n"), "{stderr}");
    assert!(stderr.contains("refused.yaml:1 (document 1): Service default/x: spce: unknown field"), "{stderr}");
    assert_eq!(hubctl(&["analyze"]).0, Some(1));
}
