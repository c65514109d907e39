//! The binary as an operator runs it: `init`, then one node per process, stopped by SIGTERM, killed by SIGKILL.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails, helpers too")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use api::hub as pb;
use hub_client::OperatorCredential;

const BINARY: &str = env!("CARGO_BIN_EXE_isthmus-hub");

/// Three ports that were free a moment ago, on an address that neither outgoing connections nor other tests use.
fn addresses() -> [String; 3] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, a, b] = std::process::id().to_be_bytes();
    let ip = format!("127.{}.{}.{}", 200 + a % 50, b, NEXT.fetch_add(1, Ordering::Relaxed));
    let bound = [(); 3].map(|()| TcpListener::bind(format!("{ip}:0")).unwrap());
    bound.map(|listener| listener.local_addr().unwrap().to_string())
}

fn start(config: &Path) -> Child {
    Command::new(BINARY).arg("--config").arg(config).stderr(Stdio::null()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

fn wait(child: &mut Child) -> std::process::ExitStatus {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process does not end");
        std::thread::yield_now();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_init_drains_on_sigterm_and_keeps_its_writes_over_sigkill() {
    let directory = tempfile::tempdir().unwrap();
    let [api, join, admin] = addresses();
    let init = |dir: &Path| {
        let mut command = Command::new(BINARY);
        command.args(["init", "--mesh-id", "demo", "--dir"]).arg(dir).args(["--member", &format!("1={api},{join}")]);
        command.stderr(Stdio::null()).status().unwrap()
    };
    assert!(init(directory.path()).success());
    assert!(!init(directory.path()).success(), "a second root is refused");
    let config = directory.path().join("hub.yaml");
    let data_dir = directory.path().join("hub-1");
    let text = format!(
        "node_id: 1\nmesh_id: demo\ndata_dir: {}\nlisten: {{api: '{api}', join: '{join}', admin: '{admin}'}}\n\
         members:\n- {{id: 1, api: '{api}', join: '{join}'}}\n",
        data_dir.display()
    );
    std::fs::write(&config, text).unwrap();

    let operator = OperatorCredential::load(&directory.path().join("operator.json")).unwrap();
    let client = operator.client().unwrap();
    let mut node = start(&config);
    let request = pb::CreateTokenRequest { cluster: "east".to_owned(), ..Default::default() };
    let token = client.create_token(request).await.unwrap();
    signal(&node, "-KILL");
    wait(&mut node);

    let mut node = start(&config);
    let tokens = client.list_tokens().await.unwrap().tokens;
    assert_eq!(tokens.iter().map(|known| &known.id).collect::<Vec<_>>(), [&token.id]);
    signal(&node, "-TERM");
    assert!(wait(&mut node).success());
}

/// Ports and locks that somebody still has for a moment are waited for: `kill -9` and a start in the same moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_what_its_dying_predecessor_still_holds() {
    let directory = tempfile::tempdir().unwrap();
    let [api, join, admin] = addresses();
    let mut init = Command::new(BINARY);
    init.args(["init", "--mesh-id", "demo", "--dir"])
        .arg(directory.path())
        .args(["--member", &format!("1={api},{join}")]);
    assert!(init.stderr(Stdio::null()).status().unwrap().success());
    let config = directory.path().join("hub.yaml");
    let data_dir = directory.path().join("hub-1");
    let text = format!(
        "node_id: 1\nmesh_id: demo\ndata_dir: {}\nlisten: {{api: '{api}', join: '{join}', admin: '{admin}'}}\n\
         members:\n- {{id: 1, api: '{api}', join: '{join}'}}\n",
        data_dir.display()
    );
    std::fs::write(&config, text).unwrap();
    let client = OperatorCredential::load(&directory.path().join("operator.json")).unwrap().client().unwrap();
    let mut node = start(&config);
    client.list_tokens().await.unwrap();
    for _ in 0..3 {
        signal(&node, "-KILL");
        let mut next = start(&config);
        wait(&mut node);
        client.list_tokens().await.unwrap();
        assert!(next.try_wait().unwrap().is_none(), "the successor ended");
        node = next;
    }
    signal(&node, "-KILL");
    wait(&mut node);

    // Now somebody holds them for certain, and lets go when the node has said that it waits.
    let port = TcpListener::bind(&api).unwrap();
    let lock = std::fs::File::open(data_dir.join("raft.redb")).unwrap();
    lock.lock().unwrap();
    let log = directory.path().join("log");
    let mut command = Command::new(BINARY);
    let mut node = command.arg("--config").arg(&config).stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
    waits_for(&log, &api);
    drop(port);
    waits_for(&log, "raft.redb");
    drop(lock);
    client.list_tokens().await.unwrap();
    signal(&node, "-TERM");
    assert!(wait(&mut node).success());
}

/// Waits until the log has the line that says what is waited for.
#[expect(clippy::disallowed_methods, reason = "a file of another process: there is nothing to wait on but its content")]
fn waits_for(log: &Path, what: &str) {
    let end = Instant::now() + Duration::from_secs(20);
    let told = |line: &str| line.contains("another process still holds it") && line.contains(what);
    while !std::fs::read_to_string(log).unwrap().lines().any(told) {
        assert!(Instant::now() < end, "{}", std::fs::read_to_string(log).unwrap());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_configuration_error_names_the_field() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("hub.yaml");
    std::fs::write(&config, "node_id: 1\nmesh_id: demo\nsurprise: 1\n").unwrap();
    let output = Command::new(BINARY).arg("--config").arg(&config).output().unwrap();
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("surprise") && error.contains("hub.yaml"), "{error}");
}
