//! MeshConfig: what users write into the key `mesh` of the ConfigMap `istio` in the root namespace.

mod fields;
mod providers;

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_crds::istio::destination_rule::LocalitySetting;
use federation_crds::{ConfigMap, Kind, Manifest};
use mesh::{ExternalAuthorizer, ObjectRef, PathNormalization, UnknownHosts};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::analyze::codes;
use crate::finding::Finding;
use crate::object;

/// The namespace of mesh-wide objects (MeshConfig `rootNamespace`), and of MeshConfig itself.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// The name of the ConfigMap, and the key in it.
const CONFIG_MAP: (&str, &str) = ("istio", "mesh");

/// The parts of MeshConfig that have an effect here.
#[derive(Debug, Clone, PartialEq)]
pub struct MeshConfig {
    /// Objects in this namespace are for the whole mesh.
    pub root_namespace: String,
    /// Further names of the own trust domain in principals.
    pub trust_domain_aliases: Vec<String>,
    /// `outboundTrafficPolicy.mode`.
    pub unknown_hosts: UnknownHosts,
    /// `extensionProviders` that authorize, by name.
    pub authorizers: BTreeMap<String, Arc<ExternalAuthorizer>>,
    /// `enableAutoMtls`: clients speak mTLS to endpoints that have a sidecar unless a DestinationRule says otherwise.
    pub auto_mtls: bool,
    /// `localityLbSetting`, for destinations whose rules have none; `None` = locality failover without exceptions.
    pub locality: Option<LocalitySetting>,
    /// `defaultConfig.gatewayTopology.numTrustedProxies`: hops in front of gateways that are believed.
    pub trusted_hops: u32,
    /// `pathNormalization.normalization`.
    pub paths: PathNormalization,
}

impl Default for MeshConfig {
    fn default() -> Self {
        Self {
            root_namespace: ROOT_NAMESPACE.to_owned(),
            trust_domain_aliases: Vec::new(),
            unknown_hosts: UnknownHosts::Allow,
            authorizers: BTreeMap::new(),
            auto_mtls: true,
            locality: None,
            trusted_hops: 0,
            paths: PathNormalization::default(),
        }
    }
}

impl MeshConfig {
    /// Reads it from the manifests; the default without one. What cannot be read stays at its default and is a finding.
    pub fn read(manifests: &[Manifest], findings: &mut Vec<Finding>) -> Self {
        let mut config = Self::default();
        let Some(map) = manifests.iter().find_map(config_map) else { return config };
        let origin = object::reference(Kind::ConfigMap, &map.metadata);
        let text = map.data.as_ref().and_then(|data| data.get(CONFIG_MAP.1));
        let Some(text) = text else { return config };
        let path = format!("data.{}", CONFIG_MAP.1);
        let mut reader = Reader { origin: &origin, findings };
        match serde_saphyr::from_str::<Value>(text) {
            Ok(Value::Object(members)) => fields::read(&mut config, &members, &mut reader),
            Ok(Value::Null) => {}
            Ok(_) => reader.wrong(&path, "is not an object", "write fields of MeshConfig, one a line"),
            Err(error) => {
                let message = format!("is not valid YAML: {}", error.without_snippet());
                reader.wrong(&path, &message, "mend the text under data.mesh; it is YAML itself");
            }
        }
        config
    }
}

fn config_map(manifest: &Manifest) -> Option<&ConfigMap> {
    let Manifest::ConfigMap(map) = manifest else { return None };
    let own = object::namespace(&map.metadata) == ROOT_NAMESPACE && map.metadata.name.as_deref() == Some(CONFIG_MAP.0);
    own.then_some(map)
}

/// Notes what is found in the text.
struct Reader<'a> {
    origin: &'a ObjectRef,
    findings: &'a mut Vec<Finding>,
}

impl Reader<'_> {
    fn wrong(&mut self, path: &str, message: &str, hint: &str) {
        self.findings.push(object::finding(self.origin, path, codes::MESH_CONFIG, message).hint(hint));
    }

    fn without_effect(&mut self, path: &str, hint: &str) {
        let finding = object::finding(self.origin, path, codes::WITHOUT_EFFECT, "has no effect here");
        self.findings.push(finding.hint(hint));
    }

    /// Reads a value of a known shape.
    fn typed<T: serde::de::DeserializeOwned>(&mut self, path: &str, value: &Value) -> Option<T> {
        match serde_path_to_error::deserialize(value.clone()) {
            Ok(value) => Some(value),
            Err(error) => {
                let inner = error.path().to_string();
                // A field that is not known is named by the message.
                let path = if inner == "." { path.to_owned() } else { format!("{path}.{inner}") };
                self.wrong(&path, &error.into_inner().to_string(), "see Istio's reference of MeshConfig");
                None
            }
        }
    }
}

/// A number of MeshConfig, which is a Protobuf message in JSON: a text that is a number is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(u32),
            Text(String),
        }
        let wrong = || D::Error::custom("must be a number from 0 to 4294967295");
        match Written::deserialize(deserializer).map_err(|_| wrong())? {
            Written::Number(number) => Ok(Self(number)),
            Written::Text(text) => text.parse().map(Self).map_err(|_| wrong()),
        }
    }
}

#[cfg(test)]
mod tests;
