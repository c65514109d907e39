//! `isthmus-sidecar capture apply|print|remove`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use sidecar::Config;
use sidecar::capture::{self, Options, Setting};

/// What to do with the ruleset.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Put the ruleset in force in the current network namespace, in the place of the one before.
    Apply(Chosen),
    /// Print the ruleset, as `nft -f -` takes it.
    Print(Chosen),
    /// Remove the ruleset from the current network namespace.
    Remove {
        /// Not needed; taken so that the three verbs can be called alike.
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

/// What is captured. Flags go before annotations.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// The sidecar's configuration, with its section `capture`.
    #[arg(long)]
    config: PathBuf,
    /// The pod's annotations: a YAML map, or a file of a downward API volume.
    #[arg(long)]
    annotations: Option<PathBuf>,
    /// Destinations to capture, as networks with commas between; * for all (the default), nothing for none.
    #[arg(long)]
    include_outbound_ip_ranges: Option<String>,
    /// Destinations not to capture.
    #[arg(long)]
    exclude_outbound_ip_ranges: Option<String>,
    /// Ports of the application to capture; * for all (the default), nothing for none.
    #[arg(long)]
    include_inbound_ports: Option<String>,
    /// Ports of the application not to capture.
    #[arg(long)]
    exclude_inbound_ports: Option<String>,
    /// Ports of destinations to capture wherever they are.
    #[arg(long)]
    include_outbound_ports: Option<String>,
    /// Ports of destinations not to capture.
    #[arg(long)]
    exclude_outbound_ports: Option<String>,
    /// Interfaces on which nothing is captured.
    #[arg(long)]
    exclude_interfaces: Option<String>,
    /// Interfaces of virtual machines, whose connections are captured on their way out.
    #[arg(long)]
    kubevirt_interfaces: Option<String>,
    /// Users whose connections are not captured.
    #[arg(long)]
    proxy_uid: Option<String>,
    /// Groups whose connections are not captured.
    #[arg(long)]
    proxy_gid: Option<String>,
}

impl Chosen {
    fn flags(&self) -> [(&'static str, Setting, &Option<String>); 10] {
        [
            ("--include-outbound-ip-ranges", Setting::IncludeOutboundIpRanges, &self.include_outbound_ip_ranges),
            ("--exclude-outbound-ip-ranges", Setting::ExcludeOutboundIpRanges, &self.exclude_outbound_ip_ranges),
            ("--include-inbound-ports", Setting::IncludeInboundPorts, &self.include_inbound_ports),
            ("--exclude-inbound-ports", Setting::ExcludeInboundPorts, &self.exclude_inbound_ports),
            ("--include-outbound-ports", Setting::IncludeOutboundPorts, &self.include_outbound_ports),
            ("--exclude-outbound-ports", Setting::ExcludeOutboundPorts, &self.exclude_outbound_ports),
            ("--exclude-interfaces", Setting::ExcludeInterfaces, &self.exclude_interfaces),
            ("--kubevirt-interfaces", Setting::VirtualInterfaces, &self.kubevirt_interfaces),
            ("--proxy-uid", Setting::ProxyUid, &self.proxy_uid),
            ("--proxy-gid", Setting::ProxyGid, &self.proxy_gid),
        ]
    }

    fn options(&self) -> anyhow::Result<Options> {
        let Some(mut options) = Config::load(&self.config)?.capture_options() else {
            bail!(
                "{} has no section `capture`\nhint: write `capture: {{}}`; its defaults are Istio's ports",
                self.config.display()
            );
        };
        if let Some(path) = &self.annotations {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            options.annotate(&capture::read_annotations(&text)?)?;
        }
        for (flag, setting, value) in self.flags() {
            if let Some(value) = value {
                options.set(setting, flag, value)?;
            }
        }
        if options.mark.is_none() && options.proxy_uids.is_empty() && options.proxy_gids.is_empty() {
            bail!(
                "the sidecar's own connections would be captured too\nhint: leave out `capture.mark: 0`, or give --proxy-uid"
            );
        }
        Ok(options)
    }
}

/// Runs one of the verbs.
pub(crate) fn capture(verb: &Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Apply(chosen) => capture::apply(&chosen.options()?)?,
        Verb::Print(chosen) => std::io::stdout().write_all(capture::ruleset(&chosen.options()?).as_bytes())?,
        Verb::Remove { config: _ } => capture::remove()?,
    }
    Ok(())
}
