//! The files a hub begins with: its root, one certificate for each node, and the first operator's credential.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use identity::{ClusterCa, files};
use mesh::{MeshId, NameError, SpiffeId, TrustDomain};

use crate::operator::{OperatorCredential, OperatorError};
use crate::{HUB_ACCOUNT, OPERATOR_ACCOUNT};

/// How long the certificates of nodes and operators last. They are renewed by hand (the root stays on the machine of
/// whoever ran `init`), so the term is a year and not an hour.
pub const NODE_TTL: Duration = Duration::from_secs(365 * 24 * 3600);

/// One hub node as given to `isthmus-hub init --member 1=api,join`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The Raft node id, from 1; never used again once its node lost its disk.
    pub id: u64,
    /// `host:port` of the API listener.
    pub api: String,
    /// `host:port` of the join listener.
    pub join: String,
}

/// Reads `<id>=<api host:port>,<join host:port>`.
impl FromStr for Member {
    type Err = InitError;
    fn from_str(text: &str) -> Result<Self, InitError> {
        let malformed = || InitError::Member { text: text.to_owned() };
        let (id, addresses) = text.split_once('=').ok_or_else(malformed)?;
        let (api, join) = addresses.split_once(',').ok_or_else(malformed)?;
        let id = id.trim().parse().map_err(|_| malformed())?;
        Ok(Self { id, api: api.trim().to_owned(), join: join.trim().to_owned() })
    }
}

/// What a new hub is to be.
#[derive(Debug, Clone)]
pub struct InitRequest {
    /// The mesh; the hub's trust domain is `hub.<mesh-id>`.
    pub mesh_id: MeshId,
    /// Where the files go; made if it does not exist.
    pub dir: PathBuf,
    /// All nodes of the new hub, at least one.
    pub members: Vec<Member>,
}

/// Why a hub could not be initialised.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A `--member` that does not read as one.
    #[error(
        "member {text:?} is not <id>=<api host:port>,<join host:port>\nhint: write for example 1=10.0.0.1:7443,10.0.0.1:7444"
    )]
    Member {
        /// The text given.
        text: String,
    },
    /// The list of members makes no hub.
    #[error("the members make no hub: {why}")]
    Members {
        /// The rule that is broken.
        why: String,
    },
    /// There already is a hub in the directory.
    #[error("{} exists: this directory already holds a hub\nhint: use another --dir; a second root would cut off every member of the first", path.display())]
    AlreadyInitialised {
        /// The file that was found.
        path: PathBuf,
    },
    /// A name does not fit into an identity.
    #[error("the mesh id gives no valid identity")]
    Name(#[from] NameError),
    /// The root could not be made or loaded, or did not sign.
    #[error("the hub's certificate authority failed")]
    Ca(#[from] identity::CaError),
    /// The root did not sign.
    #[error("the hub's certificate authority issued no certificate")]
    Issue(#[from] identity::IssueError),
    /// A file could not be written.
    #[error("the hub's files are not usable")]
    File(#[from] files::FileError),
    /// The operator's credential could not be written.
    #[error("the operator's credential could not be written")]
    Operator(#[from] OperatorError),
}

/// Makes the files of a new hub under `request.dir`: `ca/{ca.crt,ca.key}`, `hub-<id>/tls/{node.crt,node.key,hub-ca.crt}`
/// for each member, and `operator.json`. Keys are 0600. Nothing is written if there is a root already.
pub fn init(request: &InitRequest) -> Result<(), InitError> {
    check_members(&request.members)?;
    for existing in ["ca/ca.key", "operator.json"].map(|name| request.dir.join(name)) {
        if existing.exists() {
            return Err(InitError::AlreadyInitialised { path: existing });
        }
    }
    let trust_domain = TrustDomain::of_hub(&request.mesh_id);
    let ca = ClusterCa::create(&request.dir.join("ca"), &trust_domain)?;
    for member in &request.members {
        write_node(&ca, &trust_domain, &request.dir.join(format!("hub-{}", member.id)))?;
    }
    let id = SpiffeId::system(trust_domain.clone(), OPERATOR_ACCOUNT)?;
    let svid = ca.issue_self(&id, NODE_TTL, SystemTime::now())?;
    let credential = OperatorCredential {
        mesh_id: request.mesh_id.clone(),
        hub_trust_domain: trust_domain,
        hub_roots_pem: files::certs_to_pem([ca.root_der()]),
        cert_pem: svid.chain_pem(),
        key_pem: svid.private_key_pem(),
        api_addresses: request.members.iter().map(|member| member.api.clone()).collect(),
        join_addresses: request.members.iter().map(|member| member.join.clone()).collect(),
    };
    credential.save(&request.dir.join("operator.json"))?;
    Ok(())
}

/// Issues the certificate of one more node, such as one that replaces a node that lost its disk, from the root that
/// [`init`] made in `dir`. Writes `dir/hub-<id>/tls/…`; fails if the node has a key already.
pub fn issue_node(dir: &Path, mesh_id: &MeshId, id: u64) -> Result<(), InitError> {
    let node = dir.join(format!("hub-{id}"));
    let key = node.join("tls/node.key");
    if key.exists() {
        return Err(InitError::AlreadyInitialised { path: key });
    }
    let trust_domain = TrustDomain::of_hub(mesh_id);
    let ca = ClusterCa::load(&dir.join("ca"))?;
    write_node(&ca, &trust_domain, &node)
}

/// `node.crt` holds the leaf *and* the root: the join listener presents both, which lets a joining cluster compare the
/// root's hash with the one in its token line.
fn write_node(ca: &ClusterCa, trust_domain: &TrustDomain, node: &Path) -> Result<(), InitError> {
    let tls = node.join("tls");
    files::create_private_dir(&tls)?;
    let id = SpiffeId::system(trust_domain.clone(), HUB_ACCOUNT)?;
    let svid = ca.issue_self(&id, NODE_TTL, SystemTime::now())?;
    let root = files::certs_to_pem([ca.root_der()]);
    files::write_private(&tls.join("node.key"), svid.private_key_pem().as_bytes())?;
    files::write_private(&tls.join("node.crt"), format!("{}{root}", svid.chain_pem()).as_bytes())?;
    files::write_private(&tls.join("hub-ca.crt"), root.as_bytes())?;
    Ok(())
}

fn check_members(members: &[Member]) -> Result<(), InitError> {
    let wrong = |why: String| Err(InitError::Members { why });
    if members.is_empty() {
        return wrong("there is none\nhint: give --member at least once".to_owned());
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut ids = std::collections::BTreeSet::new();
    for member in members {
        if member.id == 0 {
            return wrong("node ids begin at 1".to_owned());
        }
        if !ids.insert(member.id) {
            return wrong(format!("node id {} is given twice", member.id));
        }
        for address in [&member.api, &member.join] {
            if !is_host_port(address) {
                return wrong(format!("{address:?} of node {} is not host:port", member.id));
            }
            if !seen.insert(address) {
                return wrong(format!("address {address} is given twice"));
            }
        }
    }
    Ok(())
}

/// Whether a text is `host:port`. Host names are not looked up: they may not resolve on the machine that runs `init`.
pub(crate) fn is_host_port(text: &str) -> bool {
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) => address.port() != 0,
        Err(_) => text.rsplit_once(':').is_some_and(|(host, port)| {
            let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(word) && port.parse::<u16>().is_ok_and(|port| port != 0)
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn member(text: &str) -> Member {
        text.parse().unwrap()
    }

    #[test]
    fn a_new_hub_has_private_files_that_fit_together() {
        let dir = tempfile::tempdir().unwrap();
        let members = vec![member("1=127.9.0.1:7443,127.9.0.1:7444"), member("2=hub-2:7443,hub-2:7444")];
        let mesh_id = MeshId::new("demo").unwrap();
        let request = InitRequest { mesh_id: mesh_id.clone(), dir: dir.path().to_owned(), members };
        init(&request).unwrap();
        issue_node(dir.path(), &mesh_id, 3).unwrap();
        for name in ["ca/ca.key", "operator.json", "hub-1/tls/node.key", "hub-2/tls/node.key", "hub-3/tls/node.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let node = std::fs::read_to_string(dir.path().join("hub-2/tls/node.crt")).unwrap();
        let chain = files::certs_from_pem(&node).unwrap();
        assert_eq!(chain.len(), 2, "leaf and root");
        let peer = identity::peer_identity(&chain).unwrap();
        assert_eq!(peer.id.to_string(), "spiffe://hub.demo/ns/isthmus-system/sa/hub");

        let operator = OperatorCredential::load(&dir.path().join("operator.json")).unwrap();
        let id = operator.to_credentials().unwrap().svid().unwrap().id().to_string();
        assert_eq!(id, "spiffe://hub.demo/ns/isthmus-system/sa/operator");
        assert_eq!(operator.api_addresses, ["127.9.0.1:7443", "hub-2:7443"]);
        assert!(!format!("{operator:?}").contains("PRIVATE"));

        let before = std::fs::read(dir.path().join("ca/ca.crt")).unwrap();
        assert!(matches!(init(&request), Err(InitError::AlreadyInitialised { .. })));
        assert!(matches!(issue_node(dir.path(), &mesh_id, 3), Err(InitError::AlreadyInitialised { .. })));
        assert_eq!(std::fs::read(dir.path().join("ca/ca.crt")).unwrap(), before);
    }

    #[test]
    fn members_that_make_no_hub_are_refused_before_anything_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let good = "1=127.9.0.1:7443,127.9.0.1:7444";
        let cases: [(&[&str], &str); 5] = [
            (&[], "there is none"),
            (&[good, "1=a:1,a:2"], "node id 1 is given twice"),
            (&[good, "2=127.9.0.1:7444,b:1"], "address 127.9.0.1:7444 is given twice"),
            (&["0=a:1,a:2"], "node ids begin at 1"),
            (&["1=a:0,a:2"], "\"a:0\" of node 1 is not host:port"),
        ];
        for (members, expected) in cases {
            let members = members.iter().map(|text| member(text)).collect();
            let mesh_id = MeshId::new("demo").unwrap();
            let error = init(&InitRequest { mesh_id, dir: dir.path().to_owned(), members }).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        for bad in ["", "1", "1=a:1", "x=a:1,a:2"] {
            assert!(bad.parse::<Member>().is_err(), "{bad}");
        }
    }
}
