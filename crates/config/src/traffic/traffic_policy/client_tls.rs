//! `tls` of a destination: which TLS, and where certificates come from.

use std::collections::BTreeSet;

use federation_crds::Manifest;
use federation_crds::istio::destination_rule as crd;
use mesh::{ClientTls, Namespace, OriginateTls, TlsMaterial};

use crate::analyze::codes;
use crate::mesh_config::MeshConfig;
use crate::traffic::objects::Notes;
use crate::traffic::pool::Towards;

/// The Secrets that rules of one object may name, and those that they did.
pub(in crate::traffic) struct Secrets<'a> {
    pub(in crate::traffic) manifests: &'a [Manifest],
    /// Of the object.
    pub(in crate::traffic) namespace: &'a Namespace,
    pub(in crate::traffic) mesh_config: &'a MeshConfig,
    /// What is at the other end.
    pub(in crate::traffic) towards: Towards,
    /// Those that were named, with the namespace that they stand in.
    pub(in crate::traffic) named: BTreeSet<(String, String)>,
}

pub(super) fn client_tls(
    found: &crd::ClientTls,
    path: &str,
    secrets: &mut Secrets<'_>,
    notes: &mut Notes<'_>,
) -> ClientTls {
    match found.mode {
        crd::ClientTlsMode::Disable => ClientTls::Disable,
        crd::ClientTlsMode::IstioMutual => {
            let ignored = [("sni", !found.sni.is_empty()), ("subjectAltNames", !found.subject_alt_names.is_empty())];
            for (field, _) in ignored.into_iter().filter(|(_, given)| *given) {
                let hint = "the identity of the endpoint is verified end to end; remove the field";
                notes.add(codes::WITHOUT_EFFECT, format!("{path}.{field}"), "has no effect with ISTIO_MUTUAL", hint);
            }
            ClientTls::Mutual
        }
        crd::ClientTlsMode::Simple | crd::ClientTlsMode::Mutual => {
            let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
            ClientTls::Originate(Box::new(OriginateTls {
                mutual: found.mode == crd::ClientTlsMode::Mutual,
                material: material(found, path, secrets, notes),
                sni: text(&found.sni),
                subject_alt_names: found.subject_alt_names.clone(),
                insecure_skip_verify: found.insecure_skip_verify.unwrap_or(false),
            }))
        }
    }
}

fn material(found: &crd::ClientTls, path: &str, secrets: &mut Secrets<'_>, notes: &mut Notes<'_>) -> TlsMaterial {
    if !found.credential_name.is_empty() {
        return secrets.named(&found.credential_name, path, notes);
    }
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let files = [&found.client_certificate, &found.private_key, &found.ca_certificates, &found.ca_crl];
    if files.iter().all(|file| file.is_empty()) {
        return TlsMaterial::System;
    }
    TlsMaterial::Files {
        certificate: text(&found.client_certificate),
        private_key: text(&found.private_key),
        ca: text(&found.ca_certificates),
        crl: text(&found.ca_crl),
    }
}

impl Secrets<'_> {
    /// A Secret stands beside the clients: in the namespace of the rule, or in that of the gateways.
    fn named(&mut self, name: &str, path: &str, notes: &mut Notes<'_>) -> TlsMaterial {
        let name = name.strip_prefix("kubernetes://").unwrap_or(name);
        let root = self.mesh_config.root_namespace.as_str();
        let stands_in = [self.namespace.as_str(), root]
            .into_iter()
            .find(|namespace| self.manifests.iter().any(|manifest| is_secret(manifest, namespace, name)));
        if stands_in.is_none() {
            let message = format!("there is no Secret {name:?}");
            let hint = format!("create it in namespace {}, or in {root} for gateways", self.namespace);
            notes.add(codes::REFERENCED_RESOURCE_NOT_FOUND, format!("{path}.credentialName"), message, hint);
        }
        let namespace = stands_in.unwrap_or(self.namespace.as_str()).to_owned();
        self.named.insert((namespace.clone(), name.to_owned()));
        TlsMaterial::Secret(format!("{namespace}/{name}"))
    }
}

fn is_secret(manifest: &Manifest, namespace: &str, name: &str) -> bool {
    matches!(manifest, Manifest::Secret(_))
        && manifest.metadata().namespace.as_deref() == Some(namespace)
        && manifest.metadata().name.as_deref() == Some(name)
}
