//! Sources and operations of authorization rules.

use std::net::IpAddr;

use federation_crds::istio::authorization_policy::{Operation, Source};
use ipnet::IpNet;
use mesh::{AnyNot, OperationMatch, PathMatch, SourceMatch, StringMatch, TemplateSegment};

use super::access::Wrong;
use crate::compile::Input;
use crate::mesh_config::MeshConfig;

/// What a name of the own trust domain is written as when its owner does not matter.
const OWN_TRUST_DOMAIN: &str = "cluster.local";

/// Reads the values of one policy.
pub(super) struct Reader<'a> {
    /// The policy's namespace.
    namespace: &'a str,
    /// The own trust domain, then its aliases.
    trust_domains: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(namespace: &'a str, input: &Input<'a>, mesh_config: &'a MeshConfig) -> Self {
        let mut trust_domains = vec![input.mesh.trust_domain.as_str()];
        let aliases = mesh_config.trust_domain_aliases.iter().map(String::as_str);
        trust_domains.extend(aliases.filter(|alias| *alias != input.mesh.trust_domain.as_str()));
        Self { namespace, trust_domains }
    }

    /// One `from`.
    pub(super) fn source(&self, source: Option<&Source>, path: &str) -> Result<SourceMatch, Wrong> {
        let Some(source) = source else { return Err((path.to_owned(), "is required".to_owned())) };
        Ok(SourceMatch {
            principals: AnyNot {
                any: self.principals(&source.principals),
                not: self.principals(&source.not_principals),
            },
            request_principals: texts(&source.request_principals, &source.not_request_principals),
            namespaces: texts(&source.namespaces, &source.not_namespaces),
            service_accounts: AnyNot {
                any: self.accounts(&source.service_accounts),
                not: self.accounts(&source.not_service_accounts),
            },
            trust_domains: AnyNot {
                any: self.domains(&source.trust_domains),
                not: self.domains(&source.not_trust_domains),
            },
            ip_blocks: both(&source.ip_blocks, &source.not_ip_blocks, block)
                .map_err(|why| (format!("{path}.ipBlocks"), why))?,
            remote_ip_blocks: both(&source.remote_ip_blocks, &source.not_remote_ip_blocks, block)
                .map_err(|why| (format!("{path}.remoteIpBlocks"), why))?,
        })
    }

    /// One `to`.
    pub(super) fn operation(&self, operation: Option<&Operation>, path: &str) -> Result<OperationMatch, Wrong> {
        let Some(operation) = operation else { return Err((path.to_owned(), "is required".to_owned())) };
        Ok(OperationMatch {
            hosts: texts(&operation.hosts, &operation.not_hosts),
            ports: both(&operation.ports, &operation.not_ports, port).map_err(|why| (format!("{path}.ports"), why))?,
            methods: texts(&operation.methods, &operation.not_methods),
            paths: both(&operation.paths, &operation.not_paths, |value| Ok(path_match(value)))
                .map_err(|why| (format!("{path}.paths"), why))?,
        })
    }

    /// Principals, once for every name of the own trust domain. Values without a trust domain, or of another one, stay
    /// as they are.
    pub(super) fn principals(&self, values: &[String]) -> Vec<StringMatch> {
        let mut matches = Vec::new();
        for value in values {
            let value = value.strip_prefix("spiffe://").unwrap_or(value);
            let Some((domain, rest)) = value.split_once('/').filter(|(domain, _)| *domain != "*") else {
                matches.push(StringMatch::of_policy_value(value));
                continue;
            };
            for domain in self.names_of(domain) {
                matches.push(StringMatch::of_policy_value(&format!("{domain}/{rest}")));
            }
        }
        distinct(matches)
    }

    /// Trust domains, with the same meaning as in principals.
    pub(super) fn domains(&self, values: &[String]) -> Vec<StringMatch> {
        let named = values.iter().flat_map(|value| self.names_of(value));
        distinct(named.map(|domain| StringMatch::of_policy_value(&domain)).collect())
    }

    /// What a written trust domain stands for: itself, or every name of the own one if it is one of them.
    fn names_of(&self, domain: &str) -> Vec<String> {
        let own = domain == OWN_TRUST_DOMAIN || self.trust_domains.iter().any(|name| covers(domain, name));
        if !own || domain == "*" {
            return vec![domain.to_owned()];
        }
        // A pattern such as `*-old` stays for the names that it covers.
        let names = self.trust_domains.iter();
        names.map(|name| if covers(domain, name) { domain.to_owned() } else { (*name).to_owned() }).collect()
    }

    /// `<namespace>/<account>`; an account alone is of the policy's namespace.
    pub(super) fn accounts(&self, values: &[String]) -> Vec<StringMatch> {
        let whole = |value: &String| match value.contains('/') {
            true => value.clone(),
            false => format!("{}/{value}", self.namespace),
        };
        values.iter().map(|value| StringMatch::Exact(whole(value))).collect()
    }
}

/// Whether a written trust domain, which may begin with a star, is or covers a name.
fn covers(written: &str, name: &str) -> bool {
    match written.strip_prefix('*') {
        Some(suffix) => name.ends_with(suffix),
        None => written == name,
    }
}

fn distinct(matches: Vec<StringMatch>) -> Vec<StringMatch> {
    let mut kept: Vec<StringMatch> = Vec::new();
    for one in matches {
        if !kept.contains(&one) {
            kept.push(one);
        }
    }
    kept
}

pub(super) fn texts(any: &[String], not: &[String]) -> AnyNot<StringMatch> {
    let read = |values: &[String]| values.iter().map(|value| StringMatch::of_policy_value(value)).collect();
    AnyNot { any: read(any), not: read(not) }
}

pub(super) fn both<T>(
    any: &[String],
    not: &[String],
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<AnyNot<T>, String> {
    let all = |values: &[String]| values.iter().map(|value| read(value)).collect::<Result<Vec<T>, String>>();
    Ok(AnyNot { any: all(any)?, not: all(not)? })
}

/// A CIDR range or a single address.
pub(super) fn block(value: &str) -> Result<IpNet, String> {
    let single = value.parse::<IpAddr>().map(IpNet::from);
    single.or_else(|_| value.parse::<IpNet>()).map_err(|_| format!("{value:?} is neither an address nor a CIDR range"))
}

pub(super) fn port(value: &str) -> Result<u16, String> {
    value.parse().map_err(|_| format!("{value:?} is not a port"))
}

fn path_match(value: &str) -> PathMatch {
    if !value.contains("{*}") && !value.contains("{**}") {
        return PathMatch::Text(StringMatch::of_policy_value(value));
    }
    let segments = value.strip_prefix('/').unwrap_or(value).split('/');
    PathMatch::Template(
        segments
            .map(|segment| match segment {
                "{*}" => TemplateSegment::One,
                "{**}" => TemplateSegment::Many,
                literal => TemplateSegment::Literal(literal.to_owned()),
            })
            .collect(),
    )
}
