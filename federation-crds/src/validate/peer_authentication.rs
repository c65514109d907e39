//! PeerAuthentication.

use super::target;
use crate::error::FieldErrors;
use crate::istio::PeerAuthentication;

pub(super) fn check(object: &PeerAuthentication, errors: &mut FieldErrors) {
    let spec = &object.spec;
    target::check_selector(spec.selector.as_ref(), errors);
    let Some(ports) = &spec.port_level_mtls else { return };
    if ports.is_empty() {
        errors.add(
            "spec.portLevelMtls",
            "must have at least one port if it is there",
            "add a port, such as \"8080\": {mode: PERMISSIVE}, or remove the field",
        );
    }
    if spec.selector.as_ref().is_none_or(|selector| selector.match_labels.is_empty()) {
        let hint = "add spec.selector.matchLabels: ports differ from workload to workload";
        errors.add("spec.portLevelMtls", "is of single workloads only", hint);
    }
    for port in ports.keys() {
        if !port.parse::<u16>().is_ok_and(|number| number > 0) {
            errors.add(
                format!("spec.portLevelMtls.{port}"),
                format!("{port:?} must be a port, 1 to 65535"),
                "write the number of the workload's port, not its name",
            );
        }
    }
}
