//! `fault` and `mirrors`.

use federation_crds::istio::virtual_service as crd;
use mesh::{AbortFault, AbortWith, DelayFault, FaultInjection, Mirror, Share};

use super::{Scope, destination};
use crate::analyze::codes;
use crate::traffic::objects::Notes;
use crate::traffic::pool::duration;

/// Faults. Without a percentage none is put in, as in Istio.
pub(super) fn fault(found: &crd::HttpFault, path: &str, notes: &mut Notes<'_>) -> FaultInjection {
    FaultInjection {
        delay: found.delay.as_ref().and_then(|found| delay(found, &format!("{path}.delay"), notes)),
        abort: found.abort.as_ref().and_then(|found| abort(found, &format!("{path}.abort"), notes)),
    }
}

fn delay(found: &crd::FaultDelay, path: &str, notes: &mut Notes<'_>) -> Option<DelayFault> {
    if found.percent.is_some() {
        notes.add(codes::DEPRECATED, format!("{path}.percent"), "is deprecated", "use percentage: {value: …} instead");
    }
    let delay = duration(&found.fixed_delay, &format!("{path}.fixedDelay"), notes)?;
    #[expect(clippy::cast_precision_loss, reason = "0 to 100")]
    let percent = found.percentage.as_ref().map(|it| it.value).or(found.percent.map(|percent| percent as f64));
    Some(DelayFault { share: share(percent, path, notes)?, delay })
}

fn abort(found: &crd::FaultAbort, path: &str, notes: &mut Notes<'_>) -> Option<AbortFault> {
    let with = match (found.http_status, &found.grpc_status) {
        (Some(status), _) => u16::try_from(status).ok().map(AbortWith::Http),
        (None, Some(status)) => grpc_status(status).map(AbortWith::Grpc),
        (None, None) => None,
    };
    let Some(with) = with else {
        notes.add(codes::WITHOUT_EFFECT, path, "names no status", "add httpStatus or grpcStatus");
        return None;
    };
    Some(AbortFault { share: share(found.percentage.as_ref().map(|it| it.value), path, notes)?, with })
}

fn share(percent: Option<f64>, path: &str, notes: &mut Notes<'_>) -> Option<Share> {
    let Some(percent) = percent else {
        let hint = "add percentage: {value: 100} to hit every request";
        notes.add(codes::WITHOUT_EFFECT, format!("{path}.percentage"), "is absent, so no request is hit", hint);
        return None;
    };
    let share = Share::of_percent(percent);
    if share.is_none() {
        notes.not_compiled(format!("{path}.percentage"), format!("{percent} is not between 0 and 100"));
    }
    share
}

/// A gRPC status by name, or by number.
fn grpc_status(name: &str) -> Option<u32> {
    let index = federation_crds::istio::GRPC_STATUSES.iter().position(|status| *status == name)?;
    u32::try_from(index).ok()
}

/// `mirrors`, or `mirror` with its share; all requests unless a percentage says otherwise.
pub(super) fn mirrors(route: &crd::HttpRoute, path: &str, scope: &mut Scope<'_, '_>) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    if let Some(found) = &route.mirror {
        let old = route.mirror_percent.or(route.mirror_percent_snake);
        if old.is_some() {
            let path = format!("{path}.mirrorPercent");
            scope.notes.add(codes::DEPRECATED, path, "is deprecated", "use mirrorPercentage: {value: …} instead");
        }
        #[expect(clippy::cast_precision_loss, reason = "0 to 100")]
        let percent = route.mirror_percentage.as_ref().map(|it| it.value).or(old.map(|percent| percent as f64));
        mirrors.extend(mirror(found, percent, &format!("{path}.mirror"), scope));
    }
    for (index, found) in route.mirrors.iter().enumerate() {
        let path = format!("{path}.mirrors[{index}]");
        let Some(target) = &found.destination else { continue };
        mirrors.extend(mirror(target, found.percentage.as_ref().map(|it| it.value), &path, scope));
    }
    mirrors
}

fn mirror(target: &crd::Destination, percent: Option<f64>, path: &str, scope: &mut Scope<'_, '_>) -> Option<Mirror> {
    let share = Share::of_percent(percent.unwrap_or(100.0)).filter(|share| share.percent() > 0.0)?;
    Some(Mirror { destination: destination(target, path, scope)?, share })
}
