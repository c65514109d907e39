//! `sidecar.yaml`: read as it is written, then checked.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use mesh::Protocol;
use proxy::inbound::AppPort;
use serde::Deserialize;
use settings::{ConfigError, Wrong, address};

use crate::capture::{Options, UDP_MARK};

/// The sidecar's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The proxy credential file.
    pub credential: PathBuf,
    /// Where the last-good view is kept.
    pub cache_dir: PathBuf,
    /// The explicit proxy for the workload: HTTP and SOCKS5; with capture it need not be there.
    pub listen_outbound: Option<SocketAddr>,
    /// The mTLS port for peers and gateways.
    pub listen_mtls: SocketAddr,
    /// The admin listener.
    pub listen_admin: SocketAddr,
    /// The workload's address; without capture its ports are owned there.
    pub bind: IpAddr,
    /// Transparent capture; then the application owns its ports itself.
    pub capture: Option<CaptureConfig>,
    /// The workload's ports.
    pub ports: Vec<AppPort>,
    /// How long draining waits for what runs.
    pub drain: Duration,
    /// The cluster's DNS shim, which is asked for hosts outside the mesh; none = the machine's resolver is.
    pub dns: Option<SocketAddr>,
}

/// Where captured connections arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Connections of the application.
    pub outbound_port: u16,
    /// Connections to the application.
    pub inbound_port: u16,
    /// `SO_MARK` of the sidecar's own sockets; `None` when it runs as a user or group of its own.
    pub mark: Option<u32>,
    /// Whether datagrams of the application are captured too, to `outbound_port`.
    pub udp: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    credential: PathBuf,
    cache_dir: PathBuf,
    listen: RawListen,
    bind: String,
    #[serde(default)]
    ports: Vec<RawPort>,
    #[serde(default = "default_drain")]
    drain_seconds: u64,
    dns: Option<String>,
    capture: Option<RawCapture>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCapture {
    #[serde(default = "default_outbound")]
    outbound_port: u16,
    #[serde(default = "default_inbound")]
    inbound_port: u16,
    /// 0: the sidecar's sockets are not marked.
    #[serde(default = "default_mark")]
    mark: u32,
    #[serde(default)]
    udp: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawListen {
    outbound: Option<String>,
    mtls: String,
    admin: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPort {
    number: u16,
    app: Option<String>,
    #[serde(default = "default_protocol")]
    protocol: String,
}

fn default_drain() -> u64 {
    5
}

fn default_outbound() -> u16 {
    15001
}

fn default_inbound() -> u16 {
    15006
}

/// Istio's user id of the proxy, here as a mark.
fn default_mark() -> u32 {
    1337
}

fn default_protocol() -> String {
    Protocol::Auto.as_str().to_owned()
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        settings::load(path, Self::check)
    }

    fn check(raw: RawConfig) -> Result<Self, Wrong> {
        let bind = raw.bind.parse().map_err(|_| {
            Wrong::new(
                "bind",
                format!("{:?} is not an IP address", raw.bind),
                "write the workload's address, without a port",
            )
        })?;
        let ports =
            raw.ports.iter().enumerate().map(|(index, port)| check_port(index, port)).collect::<Result<Vec<_>, _>>()?;
        if raw.capture.is_none()
            && let Some(index) = ports.iter().position(|port| port.app.is_none())
        {
            let hint = "write where the application listens, or a section `capture`: then it has its port itself";
            return Err(Wrong::new(format!("ports[{index}].app"), "it is missing", hint));
        }
        let mut seen = BTreeSet::new();
        if let Some(index) = ports.iter().position(|port| !seen.insert((port.number, port.protocol.is_udp()))) {
            let field = format!("ports[{index}].number");
            return Err(Wrong::new(field, "the number is there twice", "give each port once"));
        }
        if raw.capture.is_none() && raw.listen.outbound.is_none() {
            let hint = "write ip:port of the explicit proxy, or a section `capture` for transparent capture";
            return Err(Wrong::new("listen.outbound", "it is missing", hint));
        }
        let config = Self {
            credential: raw.credential,
            cache_dir: raw.cache_dir,
            listen_outbound: raw.listen.outbound.map(|text| address("listen.outbound", &text)).transpose()?,
            listen_mtls: address("listen.mtls", &raw.listen.mtls)?,
            listen_admin: address("listen.admin", &raw.listen.admin)?,
            bind,
            ports,
            drain: Duration::from_secs(raw.drain_seconds),
            dns: raw.dns.as_deref().map(|text| address("dns", text)).transpose()?,
            capture: raw.capture.map(|raw| check_capture(&raw)).transpose()?,
        };
        config.check_listeners()?;
        Ok(config)
    }

    /// Ports that the sidecar has for itself: never the application's.
    pub fn own_ports(&self) -> BTreeSet<u16> {
        let captured = self.capture.iter().flat_map(|capture| [capture.outbound_port, capture.inbound_port]);
        captured.chain([self.listen_mtls.port(), self.listen_admin.port(), READINESS_PORT]).collect()
    }

    /// What is captured unless settings say otherwise; `None` without a section `capture`.
    pub fn capture_options(&self) -> Option<Options> {
        let capture = self.capture?;
        let options = Options::new(capture.outbound_port, capture.inbound_port);
        Some(Options {
            mark: capture.mark,
            own_ports: self.own_ports(),
            udp: capture.udp,
            resolver: self.dns.map(|shim| shim.ip()),
            ..options
        })
    }

    /// Listeners that capture binds on all addresses leave their ports to nobody else.
    fn check_listeners(&self) -> Result<(), Wrong> {
        let Some(capture) = self.capture else { return Ok(()) };
        let others = [
            ("listen.outbound", self.listen_outbound.map(|address| address.port())),
            ("listen.mtls", Some(self.listen_mtls.port())),
            ("listen.admin", Some(self.listen_admin.port())),
        ];
        let taken = [Some(capture.outbound_port), Some(capture.inbound_port)];
        if let Some((field, _)) = others.iter().find(|(_, port)| port.is_some() && taken.contains(port)) {
            let hint = "give capture.outbound_port and capture.inbound_port numbers that no other listener has";
            return Err(Wrong::new(*field, "its port is one of capture's", hint));
        }
        let own = self.own_ports();
        let is_own = |port: &AppPort| own.contains(&port.number) && !port.protocol.is_udp();
        if let Some(index) = self.ports.iter().position(is_own) {
            let hint = "the application cannot have a port of the sidecar; move one of the two";
            return Err(Wrong::new(format!("ports[{index}].number"), "it is a port of the sidecar", hint));
        }
        Ok(())
    }
}

/// Istio's port for readiness probes, kept free for them.
const READINESS_PORT: u16 = 15021;

fn check_capture(raw: &RawCapture) -> Result<CaptureConfig, Wrong> {
    for (field, port) in [("capture.outbound_port", raw.outbound_port), ("capture.inbound_port", raw.inbound_port)] {
        if port == 0 {
            return Err(Wrong::new(
                field,
                "0 is no port",
                "leave it out, or write a port that the application has not",
            ));
        }
    }
    if raw.outbound_port == raw.inbound_port {
        let hint = "captured connections of both directions arrive at listeners of their own";
        return Err(Wrong::new("capture.inbound_port", "it is capture.outbound_port too", hint));
    }
    if raw.udp && raw.mark == UDP_MARK {
        let hint = "leave it out, or write another number: datagrams on their way to the sidecar carry this one";
        return Err(Wrong::new("capture.mark", format!("{UDP_MARK} is the mark of captured datagrams"), hint));
    }
    let (outbound_port, inbound_port) = (raw.outbound_port, raw.inbound_port);
    Ok(CaptureConfig { outbound_port, inbound_port, mark: (raw.mark != 0).then_some(raw.mark), udp: raw.udp })
}

fn check_port(index: usize, raw: &RawPort) -> Result<AppPort, Wrong> {
    let field = |name: &str| format!("ports[{index}].{name}");
    if raw.number == 0 {
        return Err(Wrong::new(field("number"), "0 is no port", "write the number that peers dial"));
    }
    let protocol = Protocol::from_wire(&raw.protocol).ok_or_else(|| {
        let why = format!("{:?} is no protocol", raw.protocol);
        Wrong::new(field("protocol"), why, "write http, http2, grpc, tcp, tcp-server-first, udp or auto")
    })?;
    let app = raw.app.as_deref().map(|text| address(field("app"), text)).transpose()?;
    Ok(AppPort { number: raw.number, app, protocol })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(ports: &str, rest: &str) -> Result<Config, ConfigError> {
        let text = format!(
            "credential: /c\ncache_dir: /d\nlisten: {{outbound: 127.0.0.9:15001, mtls: 127.0.0.9:15008, admin: 127.0.0.9:15020}}\nbind: 127.0.0.9\nports: {ports}\n{rest}"
        );
        settings::parse(&text, Path::new("sidecar.yaml"), Config::check)
    }

    #[test]
    fn a_configuration_is_read_or_its_field_is_named() {
        let config = parse("[{number: 9080, app: 127.0.0.9:39080, protocol: grpc}]", "drain_seconds: 1").unwrap();
        let port = AppPort { number: 9080, app: "127.0.0.9:39080".parse().ok(), protocol: Protocol::Grpc };
        assert_eq!((config.ports, config.drain), (vec![port], Duration::from_secs(1)));
        let both = "[{number: 53, app: 127.0.0.9:1, protocol: udp}, {number: 53, app: 127.0.0.9:1, protocol: tcp}]";
        assert_eq!(parse(both, "").unwrap().ports.len(), 2);
        let cases = [
            ("[{number: 1, app: 127.0.0.9:1, protocol: quic}]", "", "ports[0].protocol: \"quic\" is no protocol"),
            ("[{number: 1, app: here}]", "", "ports[0].app: \"here\" is not an address"),
            ("[{number: 0, app: 127.0.0.9:1}]", "", "ports[0].number: 0 is no port"),
            ("[{number: 1, app: 127.0.0.9:1}, {number: 1, app: 127.0.0.9:2}]", "", "ports[1].number"),
            (
                "[{number: 1, app: 127.0.0.9:1, protocol: udp}, {number: 1, app: 127.0.0.9:2, protocol: udp}]",
                "",
                "ports[1]",
            ),
            ("[]", "drain: 1", "drain"),
            ("[]", "dns: shim", "dns: \"shim\" is not an address"),
            ("[{number: 1}]", "", "ports[0].app: it is missing"),
            ("[]", "capture: {inbound_port: 0, outbound_port: 16001}", "capture.inbound_port: 0 is no port"),
            ("[]", "capture: {inbound_port: 9, outbound_port: 9}", "capture.inbound_port: it is capture.outbound_port"),
            ("[]", "capture: {}", "listen.outbound: its port is one of capture's"),
            ("[{number: 15008}]", "capture: {outbound_port: 16001}", "ports[0].number: it is a port of the sidecar"),
            ("[]", "capture: {ports: 1}", "ports"),
            ("[]", "capture: {outbound_port: 16001, udp: true, mark: 1338}", "capture.mark: 1338 is the mark of"),
        ];
        for (ports, rest, expected) in cases {
            let error = parse(ports, rest).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn with_capture_the_application_has_its_ports() {
        let text = "credential: /c\ncache_dir: /d\nlisten: {mtls: '[::]:15008', admin: '[::]:15020'}\nbind: 10.0.0.9\n\
                    ports: [{number: 9080}]\ncapture: {}\n";
        let config = settings::parse(text, Path::new("sidecar.yaml"), Config::check).unwrap();
        let capture = CaptureConfig { outbound_port: 15001, inbound_port: 15006, mark: Some(1337), udp: false };
        assert_eq!((config.capture, config.listen_outbound, config.ports[0].app), (Some(capture), None, None));
        let options = config.capture_options().unwrap();
        assert_eq!(options.own_ports, [15001, 15006, 15008, 15020, 15021].into());
        let unmarked =
            settings::parse(&text.replace("{}\n", "{mark: 0}\n"), Path::new("sidecar.yaml"), Config::check).unwrap();
        assert_eq!(unmarked.capture_options().unwrap().mark, None);
    }
}
