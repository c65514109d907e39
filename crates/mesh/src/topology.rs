//! Labels that say where something is. Nobody writes them: the mesh knows them of every endpoint, group and client.

use crate::model::Labels;
use crate::names::ClusterName;

/// An endpoint, a group or a client: its own labels, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'a> {
    /// The labels that it was given.
    pub labels: &'a Labels,
    /// `region/zone/subzone`, or empty.
    pub locality: &'a str,
    /// Its cluster, if that is known.
    pub cluster: Option<&'a ClusterName>,
}

impl<'a> Placed<'a> {
    /// The value of a label. What the mesh knows of the place goes before a label of that key that was given (istiod's
    /// `AugmentLabels` does the same); where it knows nothing the given one counts.
    pub fn label(&self, key: &str) -> Option<&'a str> {
        self.known(key).or_else(|| self.labels.get(key).map(String::as_str))
    }

    /// Whether it has all of these labels.
    pub fn has(&self, wanted: &Labels) -> bool {
        wanted.iter().all(|(key, value)| self.label(key) == Some(value))
    }

    fn known(&self, key: &str) -> Option<&'a str> {
        let [region, zone, subzone] = locality_parts(self.locality);
        let part = match key {
            "topology.kubernetes.io/region" => region,
            "topology.kubernetes.io/zone" => zone,
            "topology.istio.io/subzone" => subzone,
            "topology.istio.io/cluster" => return self.cluster.map(ClusterName::as_str),
            _ => return None,
        };
        Some(part).filter(|part| !part.is_empty())
    }
}

/// Region, zone and subzone; empty where the locality does not say.
pub(crate) fn locality_parts(locality: &str) -> [&str; 3] {
    let mut parts = locality.splitn(3, '/');
    std::array::from_fn(|_| parts.next().unwrap_or_default())
}
