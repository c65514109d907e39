//! curl and openssl as clients of an ingress gateway.

use std::net::SocketAddr;
use std::process::Stdio;

use fleet::echo::Answer;
use tokio::process::Command;

use crate::Certificates;

/// curl of a host at an address: what it printed, or its exit code. `more` are further options.
pub async fn curl(
    host: &str,
    at: SocketAddr,
    path: &str,
    certificates: &Certificates,
    more: &[&str],
) -> Result<String, i32> {
    let resolve = format!("{host}:{}:{}", at.port(), at.ip());
    let url = format!("https://{host}:{}{path}", at.port());
    let ca = certificates.file("ca.crt");
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "20", "--noproxy", "*", "--resolve", &resolve, "--cacert", &ca]).args(more);
    let output = command.arg(&url).stdin(Stdio::null()).output().await.expect("curl runs");
    if !output.status.success() {
        println!("curl {url}: {}", String::from_utf8_lossy(&output.stderr).trim());
        return Err(output.status.code().unwrap_or(-1));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The echo server's answer in what curl printed.
#[track_caller]
pub fn answer(said: Result<String, i32>) -> Answer {
    let said = said.unwrap_or_else(|code| panic!("curl ended with {code}"));
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
}

/// What `openssl s_client` says of a handshake with these options; `Err` if there is none.
pub async fn s_client(at: SocketAddr, name: &str, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &at.to_string(), "-servername", name]).args(more);
    let output = command.stdin(Stdio::null()).output().await.expect("openssl runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(said) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}
