//! What is captured: Istio's settings, checked.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

/// Everything, or only what is listed; an empty list is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Captured<T> {
    /// `*`.
    #[default]
    All,
    /// These.
    Only(T),
}

/// The name of a network interface: at most 15 bytes, and nothing that could mean more than a name in a ruleset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface(String);

impl Interface {
    /// Checks a name.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte);
        (!name.is_empty() && name.len() <= 15 && name.bytes().all(allowed)).then(|| Self(name.to_owned()))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is captured, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where connections of the application go.
    pub outbound_port: u16,
    /// Where connections to the application go.
    pub inbound_port: u16,
    /// `SO_MARK` of the sidecar's own connections; none when they are told by user or group alone.
    pub mark: Option<u32>,
    /// Users whose connections are the sidecar's.
    pub proxy_uids: BTreeSet<u32>,
    /// Groups whose connections are the sidecar's.
    pub proxy_gids: BTreeSet<u32>,
    /// Ports of the sidecar itself, which stay directly reachable.
    pub own_ports: BTreeSet<u16>,
    /// Destinations that are captured.
    pub include_outbound_ranges: Captured<Vec<IpNet>>,
    /// Destinations that are not, whatever is included.
    pub exclude_outbound_ranges: Vec<IpNet>,
    /// Ports that are captured at every destination that is not excluded.
    pub include_outbound_ports: BTreeSet<u16>,
    /// Ports that are not captured at any destination.
    pub exclude_outbound_ports: BTreeSet<u16>,
    /// Ports of the application that are captured.
    pub include_inbound_ports: Captured<BTreeSet<u16>>,
    /// Those that are not, where all are.
    pub exclude_inbound_ports: BTreeSet<u16>,
    /// Interfaces on which nothing is captured.
    pub exclude_interfaces: BTreeSet<Interface>,
    /// Interfaces of virtual machines: what comes in there is on its way out.
    pub virtual_interfaces: BTreeSet<Interface>,
    /// Whether the application's datagrams are captured too.
    pub udp: bool,
    /// The cluster's DNS shim: datagrams to its port 53 are never captured.
    pub resolver: Option<IpAddr>,
}

impl Options {
    /// Captures everything but the sidecar's own connections.
    pub fn new(outbound_port: u16, inbound_port: u16) -> Self {
        Self {
            outbound_port,
            inbound_port,
            mark: None,
            proxy_uids: BTreeSet::new(),
            proxy_gids: BTreeSet::new(),
            own_ports: BTreeSet::new(),
            include_outbound_ranges: Captured::All,
            exclude_outbound_ranges: Vec::new(),
            include_outbound_ports: BTreeSet::new(),
            exclude_outbound_ports: BTreeSet::new(),
            include_inbound_ports: Captured::All,
            exclude_inbound_ports: BTreeSet::new(),
            exclude_interfaces: BTreeSet::new(),
            virtual_interfaces: BTreeSet::new(),
            udp: false,
            resolver: None,
        }
    }

    /// Takes over one setting. `source` is how the user wrote its name: an annotation or a flag.
    pub fn set(&mut self, setting: Setting, source: &str, value: &str) -> Result<(), OptionsError> {
        let reading = Reading { source, value };
        match setting {
            Setting::IncludeOutboundIpRanges => {
                self.include_outbound_ranges =
                    reading.all_or(|reading| reading.list("network", HINT_NETWORK, network))?;
            }
            Setting::ExcludeOutboundIpRanges => {
                self.exclude_outbound_ranges = reading.list("network", HINT_NETWORK, network)?;
            }
            Setting::IncludeInboundPorts => {
                self.include_inbound_ports = reading.all_or(Reading::ports)?;
            }
            Setting::ExcludeInboundPorts => self.exclude_inbound_ports = reading.ports()?,
            Setting::IncludeOutboundPorts => self.include_outbound_ports = reading.ports()?,
            Setting::ExcludeOutboundPorts => self.exclude_outbound_ports = reading.ports()?,
            Setting::ExcludeInterfaces => self.exclude_interfaces = reading.interfaces()?,
            Setting::VirtualInterfaces => self.virtual_interfaces = reading.interfaces()?,
            Setting::ProxyUid => self.proxy_uids = reading.list("user id", HINT_ID, |text| text.parse().ok())?,
            Setting::ProxyGid => self.proxy_gids = reading.list("group id", HINT_ID, |text| text.parse().ok())?,
        }
        Ok(())
    }
}

/// The settings that users know, by what they mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// `includeOutboundIPRanges`.
    IncludeOutboundIpRanges,
    /// `excludeOutboundIPRanges`.
    ExcludeOutboundIpRanges,
    /// `includeInboundPorts`.
    IncludeInboundPorts,
    /// `excludeInboundPorts`.
    ExcludeInboundPorts,
    /// `includeOutboundPorts`.
    IncludeOutboundPorts,
    /// `excludeOutboundPorts`.
    ExcludeOutboundPorts,
    /// `excludeInterfaces`.
    ExcludeInterfaces,
    /// `kubevirtInterfaces`, later `istio.io/reroute-virtual-interfaces`.
    VirtualInterfaces,
    /// `--proxy-uid` of istio-iptables.
    ProxyUid,
    /// `--proxy-gid` of istio-iptables.
    ProxyGid,
}

/// A value that says nothing that can be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {part:?} is no {what}\nhint: {hint}")]
pub struct OptionsError {
    source_name: String,
    part: String,
    what: &'static str,
    hint: &'static str,
}

const HINT_NETWORK: &str = "write networks in CIDR notation with commas between, such as 10.0.0.0/8,fd00::/8";
const HINT_PORT: &str = "write port numbers from 1 to 65535 with commas between, such as 22,3306";
const HINT_INTERFACE: &str = "write names of interfaces with commas between, such as net1,net2";
const HINT_ID: &str = "write numbers with commas between, such as 1337";

struct Reading<'a> {
    source: &'a str,
    value: &'a str,
}

impl Reading<'_> {
    fn all_or<T>(&self, read: impl FnOnce(&Self) -> Result<T, OptionsError>) -> Result<Captured<T>, OptionsError> {
        if self.value.trim() == "*" { Ok(Captured::All) } else { read(self).map(Captured::Only) }
    }

    fn list<T, C: FromIterator<T>>(
        &self,
        what: &'static str,
        hint: &'static str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<C, OptionsError> {
        if self.value.trim().is_empty() {
            return Ok(std::iter::empty().collect());
        }
        let part = |text: &str| {
            let refused = || OptionsError { source_name: self.source.to_owned(), part: text.to_owned(), what, hint };
            read(text.trim()).ok_or_else(refused)
        };
        self.value.split(',').map(part).collect()
    }

    fn ports(&self) -> Result<BTreeSet<u16>, OptionsError> {
        self.list("port", HINT_PORT, |text| text.parse().ok().filter(|port| *port != 0))
    }

    fn interfaces(&self) -> Result<BTreeSet<Interface>, OptionsError> {
        self.list("interface", HINT_INTERFACE, Interface::new)
    }
}

/// Like Istio's, without bits beyond the prefix: `10.1.2.3/8` means `10.0.0.0/8`.
fn network(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|network| network.trunc())
}
