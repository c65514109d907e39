//! Makes the namespaces of a fleet on the ground `netns` and wires them, as [`crate::network`] plans it.

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::handle::Fleet;
use crate::hint::Hint;
use crate::network::{self, Namespace, Place};
use crate::plan::Kind;
use crate::process::write_atomic;
use crate::wait::until_all_ready;

/// Makes all namespaces and links. Ends when every namespace is set up.
pub async fn raise(fleet: &Fleet, deadline: Instant) -> Result<()> {
    let all = network::namespaces(fleet.plan());
    all.iter().try_for_each(|namespace| write(fleet, namespace))?;
    // Each needs its parent's process.
    for rank in 0..3 {
        let wanted: Vec<_> = all.iter().filter(|namespace| self::rank(namespace) == rank).collect();
        let mut processes = Vec::new();
        for namespace in wanted {
            let process = fleet.process(&namespace.pause())?;
            fleet.spawn(&process).with_context(|| format!("{} cannot be made", namespace.name))?;
            processes.push(process);
        }
        until_all_ready(&fleet.layout, &processes, deadline).await?;
    }
    for step in [link, connect] {
        for namespace in &all {
            batch(fleet, namespace, &step(fleet, namespace, &all)?).await?;
        }
    }
    let planned = fleet.plan().processes();
    let links: Vec<_> = planned.into_iter().filter(|process| process.kind == Kind::Wan).collect();
    for link in &links {
        fleet.spawn(link).with_context(|| format!("{} cannot be made", link.name))?;
    }
    until_all_ready(&fleet.layout, &links, deadline).await
}

/// Takes away what a namespace that nobody holds any more left in its parent: a link, if processes still run in it.
pub async fn disconnect(fleet: &Fleet, name: &str) -> Result<()> {
    let namespace = fleet.namespace(name)?;
    match (namespace.place, namespace.parent(fleet.plan())) {
        (Place::Member(_), Some(parent)) => {
            let parent = fleet.namespace(&parent)?;
            // Usually it went with the namespace. If it stays for another reason, the setup says so.
            let _gone = batch(fleet, &parent, &network::disconnect(&namespace)).await;
            Ok(())
        }
        (Place::Member(_), None) => Ok(()),
        _ => {
            let message = format!("{name} cannot be made anew: the others hang on it");
            Err(Hint::error(message, "take the fleet down and up again"))
        }
    }
}

/// Wires a namespace that was made anew.
pub async fn reconnect(fleet: &Fleet, name: &str) -> Result<()> {
    let namespace = fleet.namespace(name)?;
    let all = network::namespaces(fleet.plan());
    let Some(parent) = namespace.parent(fleet.plan()) else { return Ok(()) };
    let parent = fleet.namespace(&parent)?;
    batch(fleet, &parent, &connect(fleet, &parent, &all)?).await
}

fn rank(namespace: &Namespace) -> u8 {
    match namespace.place {
        Place::Node => 0,
        Place::Fabric(_) => 1,
        Place::Member(_) => 2,
    }
}

fn write(fleet: &Fleet, namespace: &Namespace) -> Result<()> {
    let (plan, directory) = (fleet.plan(), fleet.layout.namespace(&namespace.name));
    if let Place::Member(address) = namespace.place {
        write_atomic(&directory.join("resolv.conf"), network::resolv_conf(plan, address).as_bytes())?;
        write_atomic(&directory.join("hosts"), network::hosts(namespace, address).as_bytes())?;
    }
    write_atomic(&directory.join("setup.sh"), network::setup(plan, namespace, &directory).as_bytes())
}

fn link(fleet: &Fleet, namespace: &Namespace, _: &[Namespace]) -> Result<String> {
    let holder = |name: &str| fleet.holder(name).map(|record| record.pid);
    network::link(fleet.plan(), namespace, &holder)
}

fn connect(fleet: &Fleet, namespace: &Namespace, all: &[Namespace]) -> Result<String> {
    Ok(network::connect(fleet.plan(), namespace, all))
}

/// Runs lines of `ip -batch` in a namespace.
async fn batch(fleet: &Fleet, namespace: &Namespace, lines: &str) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let words = fleet.enter(&namespace.name)?;
    let mut command = tokio::process::Command::new(&words[0]);
    command.args(&words[1..]).args(["ip", "-batch", "-"]).stdin(std::process::Stdio::piped());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot run nsenter")?;
    let mut input = child.stdin.take().context("ip has no standard input")?;
    input.write_all(lines.as_bytes()).await?;
    drop(input);
    let output = child.wait_with_output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let message = format!("the namespace {} cannot be wired: {}", namespace.name, said.trim().replace('\n', "; "));
    Err(Hint::error(message, "is another program changing the fleet's namespaces? take it down and up again"))
}
