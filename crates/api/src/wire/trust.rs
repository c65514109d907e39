//! Ports and groups, as signed exports and discovery carry them.

use mesh::{Group, GroupKey, ServicePort};

use super::{WireError, port_number, protocol};
use crate::trust;

impl TryFrom<&trust::Port> for ServicePort {
    type Error = WireError;
    fn try_from(port: &trust::Port) -> Result<Self, WireError> {
        let number = port_number("number", port.number)?;
        Ok(Self { name: port.name.clone(), number, protocol: protocol(&port.protocol)? })
    }
}

impl From<&ServicePort> for trust::Port {
    fn from(port: &ServicePort) -> Self {
        Self { name: port.name.clone(), number: port.number.into(), protocol: port.protocol.as_str().into() }
    }
}

impl TryFrom<&trust::Group> for Group {
    type Error = WireError;
    fn try_from(group: &trust::Group) -> Result<Self, WireError> {
        let key = GroupKey {
            service_account: group.service_account.clone(),
            labels: group.labels.clone(),
            locality: group.locality.clone(),
        };
        Ok(Self { key, meshed: group.meshed, healthy: group.healthy })
    }
}

impl From<&Group> for trust::Group {
    fn from(group: &Group) -> Self {
        let GroupKey { service_account, labels, locality } = group.key.clone();
        Self { service_account, labels, locality, meshed: group.meshed, healthy: group.healthy }
    }
}
