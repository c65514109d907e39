//! The target of a request.

use http::{Request, Uri};

/// Replaces path and query; what is none changes nothing.
pub(super) fn set_path_and_query<B>(request: &mut Request<B>, target: &str) {
    let mut parts = request.uri().clone().into_parts();
    let Ok(target) = target.parse() else { return };
    parts.path_and_query = Some(target);
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
}

/// Replaces the path and leaves the query.
pub(super) fn set_path<B>(request: &mut Request<B>, path: &str) {
    let target = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    set_path_and_query(request, &target);
}
