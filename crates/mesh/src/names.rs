//! Names that cannot be wrong: parsed once at an edge, carried as types ever after.
//!
//! Cluster, namespace, service and account names follow RFC 1123 labels as Kubernetes does; trust domains and
//! SPIFFE ids follow the SPIFFE ID specification (§2), restricted to the `/ns/<namespace>/sa/<account>` shape that
//! Istio mints.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::policy::HostPattern;

/// The longest SPIFFE id accepted, in bytes (SPIFFE ID specification §2.3).
pub const SPIFFE_ID_MAX: usize = 2048;

/// Why a text is not the name it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {why}")]
pub struct NameError {
    /// What the text should have been, such as `cluster name`.
    pub what: &'static str,
    /// The offending text.
    pub value: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

/// Texts come from strangers: an error, and the log line it ends in, repeats only the beginning of a long one.
fn error(what: &'static str, value: &str, why: &'static str) -> NameError {
    const SHOWN: usize = 256;
    NameError { what, value: value.chars().take(SHOWN).collect(), why }
}

/// Checks an RFC 1123 label: 1 to 63 of `a-z0-9-`, beginning and ending with a letter or digit.
fn check_label(what: &'static str, value: &str) -> Result<(), NameError> {
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > 63 {
        return Err(error(what, value, "it must have 1 to 63 characters"));
    }
    if !bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-') {
        return Err(error(what, value, "only lower-case letters, digits and '-' are allowed"));
    }
    if bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
        return Err(error(what, value, "it must begin and end with a letter or a digit"));
    }
    Ok(())
}

macro_rules! label_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses the name; an error says which rule the text breaks.
            pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
                let value = value.into();
                check_label($what, &value)?;
                Ok(Self(value))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(value: &str) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(value: String) -> Result<Self, NameError> {
                Self::new(value)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
    };
}

label_name!(
    /// The name of a member cluster, unique in the mesh.
    ClusterName,
    "cluster name"
);
label_name!(
    /// A Kubernetes namespace.
    Namespace,
    "namespace"
);
label_name!(
    /// The mesh id that all members share; the default trust domain of a cluster is `<cluster>.<mesh-id>`.
    MeshId,
    "mesh id"
);

/// A service's identity in the mesh: the same namespace and name mean the same service in every cluster (KEP-1645,
/// "namespace sameness").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    namespace: Namespace,
    name: String,
}

impl ServiceName {
    /// Builds the name from its two parts.
    pub fn new(namespace: Namespace, name: impl Into<String>) -> Result<Self, NameError> {
        let name = name.into();
        check_label("service name", &name)?;
        Ok(Self { namespace, name })
    }

    /// The name of a host that a ServiceEntry (or a route) adds to the registry: a DNS name or a wildcard, which takes
    /// the place of a service's name in the namespace of the object.
    pub fn entry(namespace: Namespace, host: &HostPattern) -> Self {
        Self { namespace, name: host.as_str().to_owned() }
    }

    /// Whether it is the name of an entry: it has a dot or is a wildcard, which no service's name can.
    pub fn is_entry(&self) -> bool {
        self.name.contains(['.', '*', ':'])
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name inside the namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `<name>.<namespace>.svc.clusterset.local`, the name that is the same in every cluster.
    pub fn clusterset_host(&self) -> String {
        format!("{}.{}.svc.clusterset.local", self.name, self.namespace)
    }
}

/// Displayed as `namespace/name`, which is also what [`FromStr`] reads.
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceName {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        let (namespace, name) =
            value.split_once('/').ok_or_else(|| error("service", value, "it must be <namespace>/<name>"))?;
        let namespace = Namespace::new(namespace)?;
        if !name.contains(['.', '*', ':']) {
            return Self::new(namespace, name);
        }
        let host = name.parse().map_err(|_| error("service", value, "behind the slash must stand a name or a host"))?;
        Ok(Self::entry(namespace, &host))
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;
    fn try_from(value: String) -> Result<Self, NameError> {
        value.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> String {
        name.to_string()
    }
}

/// A SPIFFE trust domain: one per cluster, and one for the hub.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// Parses a trust domain: 1 to 255 of `a-z0-9.-_`, no empty label.
    pub fn new(value: impl Into<String>) -> Result<Self, NameError> {
        let value = value.into();
        if value.is_empty() || value.len() > 255 {
            return Err(error("trust domain", &value, "it must have 1 to 255 characters"));
        }
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if !value.bytes().all(allowed) {
            return Err(error("trust domain", &value, "only lower-case letters, digits, '.', '-' and '_' are allowed"));
        }
        if value.split('.').any(str::is_empty) {
            return Err(error("trust domain", &value, "it has an empty label"));
        }
        Ok(Self(value))
    }

    /// The default trust domain of a cluster: `<cluster>.<mesh-id>`.
    pub fn of_cluster(cluster: &ClusterName, mesh: &MeshId) -> Self {
        Self(format!("{cluster}.{mesh}"))
    }

    /// The trust domain of the hub and of its operators: `hub.<mesh-id>`. No cluster may be called `hub`.
    pub fn of_hub(mesh: &MeshId) -> Self {
        Self(format!("hub.{mesh}"))
    }

    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = NameError;
    fn try_from(value: String) -> Result<Self, NameError> {
        Self::new(value)
    }
}

impl From<TrustDomain> for String {
    fn from(name: TrustDomain) -> String {
        name.0
    }
}

/// A workload identity, `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId(Arc<Parts>);

/// Shared, because every decision names the identities of all targets.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    trust_domain: TrustDomain,
    namespace: Namespace,
    account: String,
}

/// The namespace of Isthmus' own components, whose accounts are `hub`, `operator`, `agent`, `gateway` and `dns`.
pub const SYSTEM_NAMESPACE: &str = "isthmus-system";

impl SpiffeId {
    /// Builds an identity from its parts.
    pub fn new(trust_domain: TrustDomain, namespace: Namespace, account: impl Into<String>) -> Result<Self, NameError> {
        let account = account.into();
        // Service accounts are RFC 1123 subdomains in Kubernetes: labels joined by dots.
        if account.len() > 253 || account.is_empty() {
            return Err(error("service account", &account, "it must have 1 to 253 characters"));
        }
        account.split('.').try_for_each(|label| check_label("service account", label))?;
        Ok(Self(Arc::new(Parts { trust_domain, namespace, account })))
    }

    /// The identity of one of Isthmus' own components, such as `agent` or `gateway`, in a trust domain.
    pub fn system(trust_domain: TrustDomain, account: &str) -> Result<Self, NameError> {
        Self::new(trust_domain, Namespace::new(SYSTEM_NAMESPACE)?, account)
    }

    /// The trust domain whose bundle must have signed this identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.0.namespace
    }

    /// The service account.
    pub fn account(&self) -> &str {
        &self.0.account
    }

    /// Whether this is the system component `account` of its trust domain.
    pub fn is_system(&self, account: &str) -> bool {
        self.0.namespace.as_str() == SYSTEM_NAMESPACE && self.0.account == account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.0.trust_domain, self.0.namespace, self.0.account)
    }
}

impl FromStr for SpiffeId {
    type Err = NameError;
    fn from_str(value: &str) -> Result<Self, NameError> {
        const WHAT: &str = "SPIFFE id";
        if value.len() > SPIFFE_ID_MAX {
            return Err(error(WHAT, value, "it is longer than 2048 bytes"));
        }
        let rest = value.strip_prefix("spiffe://").ok_or_else(|| error(WHAT, value, "it must begin with spiffe://"))?;
        let mut parts = rest.split('/');
        let trust_domain = TrustDomain::new(parts.next().unwrap_or_default())?;
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(trust_domain, Namespace::new(namespace)?, account)
            }
            _ => Err(error(WHAT, value, "its path must be /ns/<namespace>/sa/<service account>")),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = NameError;
    fn try_from(value: String) -> Result<Self, NameError> {
        value.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> String {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spiffe_ids_that_other_parsers_let_through_are_refused() {
        for bad in [
            "",
            "spiffe://",
            "spiffe://East.demo/ns/a/sa/b",
            "spiffe://east.demo/ns/a/sa/b/",
            "spiffe://east.demo/ns/a/sa/..",
            "spiffe://east.demo/ns//sa/b",
            "spiffe://east.demo/ns/a/sa/b?x=1",
            "spiffe://east.demo/ns/a/sa/b#x",
            "spiffe://user@east.demo/ns/a/sa/b",
            "spiffe://east.demo:443/ns/a/sa/b",
            "spiffe://east..demo/ns/a/sa/b",
            "spiffe://east.demo/sa/b/ns/a",
            "https://east.demo/ns/a/sa/b",
            "spiffe://east.demo/ns/a/sa/%62",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad} was accepted");
        }
    }

    /// The text comes out of certificates of strangers, before anybody vouched for them.
    #[test]
    fn a_long_text_is_refused_wherever_its_characters_begin() {
        for shift in 0..4 {
            let text = format!("{}{}", "x".repeat(shift), "\u{1F980}".repeat(1000));
            assert!(text.parse::<SpiffeId>().is_err());
        }
    }

    #[test]
    fn an_error_names_the_text_and_the_rule() {
        let error = ClusterName::new("East").expect_err("upper case");
        assert_eq!(
            error.to_string(),
            "cluster name \"East\" is not valid: only lower-case letters, digits and '-' are allowed"
        );
    }

    proptest! {
        #[test]
        fn what_is_displayed_parses_back(td in "[a-z][a-z0-9]{0,8}(\\.[a-z]{1,5}){0,2}", ns in "[a-z]{1,9}", sa in "[a-z]{1,9}") {
            let id = SpiffeId::new(TrustDomain::new(td).unwrap(), Namespace::new(ns).unwrap(), sa).unwrap();
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }
    }
}
