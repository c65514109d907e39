//! TUN devices, made and configured inside a network namespace.

use std::io::{self, Write};
use std::net::IpAddr;
use std::process::{Command, Stdio};

use ipnet::IpNet;
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::namespace::{Namespace, NamespaceError};

/// The device of one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Where it is made.
    pub namespace: Namespace,
    /// Its name there.
    pub name: String,
    /// Its addresses, with the prefix that is reached through it.
    pub addresses: Vec<IpNet>,
    /// What else is reached through it.
    pub routes: Vec<IpNet>,
    /// Its MTU, in bytes of IP.
    pub mtu: u16,
}

/// A device cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Its namespace cannot be entered.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The kernel refuses it.
    #[error("cannot make the TUN device {name} in {namespace}\n    hint: {}", open_hint(source))]
    Open {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: Namespace,
        /// Why.
        source: io::Error,
    },
    /// `ip` does not run.
    #[error("cannot run `ip` to configure {name}\n    hint: install iproute2")]
    Tool {
        /// The device.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// An address or a route is refused.
    #[error("cannot configure {name} in {namespace}: {message}\n    hint: the commands were: {commands}")]
    Configure {
        /// The device.
        name: String,
        /// Its namespace.
        namespace: Namespace,
        /// What `ip` says.
        message: String,
        /// What it was asked.
        commands: String,
    },
    /// The thread that enters the namespace ended without a result.
    #[error("the thread that makes {0} broke off")]
    Thread(String),
}

fn open_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
            "/dev/net/tun is missing: load the module `tun`, and in a container pass the device (--device /dev/net/tun)"
        }
        Some(rustix::io::Errno::ACCESS) => {
            "/dev/net/tun must be readable and writable for this user: root may chmod 0666 /dev/net/tun"
        }
        Some(rustix::io::Errno::PERM) => {
            "making a device needs CAP_NET_ADMIN in the namespace: run as root, or inside the user namespace that owns it"
        }
        Some(rustix::io::Errno::BUSY) => {
            "a device of this name exists and is in use: choose another with --left-device, --right-device"
        }
        Some(rustix::io::Errno::INVAL) => "a name has 1 to 15 characters, without `/` or spaces",
        _ => "is /dev/net/tun there, and does this process have CAP_NET_ADMIN in the namespace?",
    }
}

/// How many packets the kernel keeps for the emulator to read; more are dropped there (`ip -s link` counts them).
const READ_QUEUE: u32 = 10_000;

impl DeviceSpec {
    /// Makes the device, in a thread of its own because entering a namespace cannot be undone without more rights. It lives
    /// as long as the result.
    pub(crate) fn open(&self) -> Result<SyncDevice, DeviceError> {
        let broken = || DeviceError::Thread(self.name.clone());
        std::thread::scope(|scope| scope.spawn(|| self.open_here()).join()).map_err(|_| broken())?
    }

    fn open_here(&self) -> Result<SyncDevice, DeviceError> {
        self.namespace.enter()?;
        let failed = |source| DeviceError::Open { name: self.name.clone(), namespace: self.namespace.clone(), source };
        let builder = DeviceBuilder::new().name(&self.name).inherit_enable_state();
        let device = builder.build_sync().map_err(failed)?;
        device.set_nonblocking(true).map_err(failed)?;
        self.configure()?;
        Ok(device)
    }

    fn configure(&self) -> Result<(), DeviceError> {
        let commands = self.commands();
        let failed = |source| DeviceError::Tool { name: self.name.clone(), source };
        let pipe = Stdio::piped;
        let mut ip = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(pipe())
            .stdout(pipe())
            .stderr(pipe())
            .spawn()
            .map_err(failed)?;
        if let Some(mut input) = ip.stdin.take() {
            input.write_all(commands.as_bytes()).map_err(failed)?;
        }
        let output = ip.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        Err(DeviceError::Configure {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            commands: commands.trim().replace('\n', "; "),
        })
    }

    /// Lines for `ip -batch`. The kernel's own IPv6 chatter is switched off: nobody answers it, and it would count.
    fn commands(&self) -> String {
        let Self { name, mtu, .. } = self;
        let mut lines = vec![
            format!("link set dev {name} mtu {mtu} txqueuelen {READ_QUEUE} addrgenmode none"),
            format!("link set dev {name} up"),
        ];
        for address in &self.addresses {
            let detection = if matches!(address.addr(), IpAddr::V6(_)) { " nodad" } else { "" };
            lines.push(format!("address add {address} dev {name}{detection}"));
        }
        lines.extend(self.routes.iter().map(|route| format!("route add {route} dev {name}")));
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_configured_by_one_batch() {
        let spec = DeviceSpec {
            namespace: Namespace::Current,
            name: "wan0".to_owned(),
            addresses: vec!["10.9.0.1/30".parse().unwrap(), "fd00::1/64".parse().unwrap()],
            routes: vec!["10.2.0.0/16".parse().unwrap()],
            mtu: 1500,
        };
        let expect = "link set dev wan0 mtu 1500 txqueuelen 10000 addrgenmode none\nlink set dev wan0 up\n\
            address add 10.9.0.1/30 dev wan0\naddress add fd00::1/64 dev wan0 nodad\nroute add 10.2.0.0/16 dev wan0\n";
        assert_eq!(spec.commands(), expect);
    }
}
