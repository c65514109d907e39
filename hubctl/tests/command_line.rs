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

/// Compares with what is there, or writes it anew.
fn snapshot(file: &str, actual: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    if std::env::var_os("ISTHMUS_WRITE_DOCS").is_some() {
        std::fs::write(&path, actual).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{file} is out of date; ISTHMUS_WRITE_DOCS=1 cargo test -p hubctl --test command_line writes it anew"
    );
}

#[test]
fn the_reference_is_that_of_the_command_line() {
    snapshot("docs/hubctl.md", &hubctl::reference());
}

#[test]
fn every_command_has_help_of_one_manner() {
    let page = hubctl::reference();
    for block in page.split("\n## ").skip(1) {
        let (name, help) = block.split_once("\n\n```\n").expect("a block of help");
        let first = help.lines().next().unwrap_or_default();
        assert!(first.chars().next().is_some_and(char::is_uppercase), "{name}: {first}");
        assert!(!first.ends_with('.') || name == "hubctl", "{name}: {first}");
        assert!(help.contains("Usage: hubctl"), "{name}: {help}");
    }
}

#[test]
fn shells_get_completions() {
    for (shell, expected) in
        [("bash", "complete -F _hubctl"), ("zsh", "#compdef hubctl"), ("fish", "complete -c hubctl")]
    {
        let (code, stdout, stderr) = hubctl(&["completions", shell]);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(stdout.contains(expected) && stdout.contains("proxy-status"), "{shell}: {stdout}");
    }
    assert_eq!(hubctl(&["completions", "tcsh"]).0, Some(2));
}

#[test]
fn documents_are_the_same_in_json_and_yaml() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("service.yaml");
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {ports: [{port: 80, name: x}]}\n";
    std::fs::write(&file, text).expect("written");
    let analyze = |format| hubctl(&["analyze", file.to_str().expect("UTF-8"), "-o", format]).1;
    let json: serde_json::Value = serde_json::from_str(&analyze("json")).expect("JSON");
    let yaml: serde_json::Value = serde_saphyr::from_str(&analyze("yaml")).expect("YAML");
    assert_eq!(json, yaml);
    assert_eq!(json[0]["code"], "IST0118");
}

#[test]
fn a_drain_says_what_it_cannot_do() {
    let (code, _, stderr) = hubctl(&["drain", "east", "--data", "/nonexistent"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nonexistent is no data directory of an agent that has joined"), "{stderr}");
    assert!(stderr.contains("hint: "), "{stderr}");
    assert_eq!(hubctl(&["drain", "east", "--over", "1d"]).0, Some(2));
}
