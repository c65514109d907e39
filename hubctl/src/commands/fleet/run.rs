//! `fleet exec`, `fleet forward` and the echo server.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context as _, Result};
use fleet::echo::{Echo, EchoPort, Whoami};
use fleet::forward::{Forward, parse_target};
use fleet::{Fleet, Ground, process};
use tokio::signal::unix::{SignalKind, signal};

use crate::ground;
use crate::output::{self, note};

/// Runs a command whose traffic goes through the workload's sidecar, and takes over its exit code.
pub(super) async fn exec(fleet: &Fleet, workload: &str, command: &[String]) -> Result<u8> {
    let words = match fleet.plan().ground {
        Ground::Loopback => command.to_vec(),
        Ground::Netns => [fleet.enter_here(&namespace(fleet, workload)?)?, command.to_vec()].concat(),
    };
    let (program, arguments) = words.split_first().context("the command is empty")?;
    let mut child = tokio::process::Command::new(program);
    child.args(arguments).stdin(Stdio::inherit());
    environment(fleet, workload, &mut child)?;
    let status = match child.status().await {
        // As a shell would say it.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            note(&format!("error: there is no command {program:?}"));
            return Ok(127);
        }
        status => status.with_context(|| format!("cannot run {program}"))?,
    };
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// The namespace of a workload's first pod, of a pod, or any other.
fn namespace(fleet: &Fleet, reference: &str) -> Result<String> {
    match fleet.pod(reference) {
        Ok((cluster, pod)) => Ok(format!("{}/{}", cluster.name, pod.name)),
        Err(_) => Ok(fleet.namespace(reference)?.name),
    }
}

/// What the application of the workload is told, and where its traffic is not captured, the way to its sidecar.
fn environment(fleet: &Fleet, workload: &str, child: &mut tokio::process::Command) -> Result<()> {
    let pod = fleet.pod(workload);
    let (cluster, pod) = match (pod, fleet.plan().ground) {
        (Ok(found), _) => found,
        (Err(_), Ground::Netns) => return Ok(()),
        (Err(error), Ground::Loopback) => return Err(error),
    };
    if fleet.plan().ground == Ground::Loopback {
        fleet.meshed_pod(workload)?;
    }
    child.envs(pod.environment(&cluster.name));
    if fleet.plan().ground == Ground::Netns {
        process::PROXY_VARIABLES.iter().for_each(|name| _ = child.env_remove(name));
        return Ok(());
    }
    let proxy = pod.proxy();
    for name in process::PROXY_VARIABLES {
        // Loopback names and addresses go through the sidecar too: here they are the mesh.
        let value = match name.to_lowercase().as_str() {
            "no_proxy" => String::new(),
            // socks5h: the sidecar resolves names, by way of the cluster's shim.
            "all_proxy" => format!("socks5h://{proxy}"),
            _ => format!("http://{proxy}"),
        };
        child.env(name, value);
    }
    Ok(())
}

/// Forwards until Ctrl-C.
pub(super) async fn forward(fleet: &Fleet, workload: &str, target: &str, local: SocketAddr) -> Result<u8> {
    let (_, pod) = fleet.meshed_pod(workload)?;
    let (host, port) = parse_target(target)?;
    let told = format!("{host}:{port}");
    let warn = |error| note(&format!("warning: {error}"));
    let listener = ground::listener(local)?;
    let forward = Forward::start(tokio::net::TcpListener::from_std(listener)?, pod.proxy(), (host, port), warn)?;
    output::text(&format!("{}\n", forward.local))?;
    note(&format!("forwarding {} to {told} as {workload} sees it; Ctrl-C ends it", forward.local));
    tokio::signal::ctrl_c().await?;
    Ok(0)
}

/// Keeps the rules of pods without a sidecar until SIGTERM or Ctrl-C; they stay in force.
pub(super) async fn kube_proxy(fleet: &Fleet, cluster: &str) -> Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(0),
        _ = tokio::signal::ctrl_c() => Ok(0),
        ended = fleet::kube_proxy::run(fleet, cluster, note) => ended.map(|()| 0),
    }
}

/// Serves until SIGTERM or Ctrl-C, then lets requests finish.
pub(super) async fn echo(ports: &[EchoPort]) -> Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let echo = Echo::start(ports, Whoami::from_environment()).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    echo.stop().await;
    Ok(0)
}
