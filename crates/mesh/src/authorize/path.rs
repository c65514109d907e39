//! Paths as policies match them against templates.

use crate::policy::TemplateSegment;

/// Whether a path fits a template. As in Envoy, `{*}` is one segment that is not empty, and `{**}` is what follows a slash,
/// however much: `/a/{**}` fits `/a/` and `/a/b/c`, not `/a`.
pub(super) fn template_matches(template: &[TemplateSegment], path: &str) -> bool {
    let Some(path) = path.strip_prefix('/') else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    // Glob matching with one point to return to, the last `{**}`: linear for one, never worse than the product.
    let (mut wanted, mut given) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while given < segments.len() {
        let fits = match template.get(wanted) {
            Some(TemplateSegment::Literal(text)) => text == segments[given],
            Some(TemplateSegment::One) => !segments[given].is_empty(),
            Some(TemplateSegment::Many) => {
                retry = Some((wanted + 1, given + 1));
                true
            }
            None => false,
        };
        if fits {
            (wanted, given) = (wanted + 1, given + 1);
        } else if let Some((after, from)) = retry {
            retry = Some((after, from + 1));
            (wanted, given) = (after, from + 1);
        } else {
            return false;
        }
    }
    wanted == template.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(text: &str) -> Vec<TemplateSegment> {
        let segment = |text: &str| match text {
            "{*}" => TemplateSegment::One,
            "{**}" => TemplateSegment::Many,
            text => TemplateSegment::Literal(text.to_owned()),
        };
        text.trim_start_matches('/').split('/').map(segment).collect()
    }

    #[test]
    fn templates_match_segments() {
        let cases = [
            ("/a/{*}", "/a/b", true),
            ("/a/{*}", "/a/", false),
            ("/a/{*}", "/a", false),
            ("/a/{*}", "/a/b/c", false),
            ("/{*}/b", "/a/b", true),
            ("/{*}/b", "//b", false),
            ("/a/{**}", "/a/b/c", true),
            ("/a/{**}", "/a/", true),
            ("/a/{**}", "/a", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/{**}/c", "/a/b/c", true),
            ("/{**}/c", "/a/b/d", false),
            ("/{**}/c", "/c", false),
            ("/a/{*}/c/{**}", "/a/b/c/d/e", true),
            ("/a/{*}/c/{**}", "/a/b/d/d/e", false),
            ("/{**}/b/{**}", "/b/b/b", true),
            ("/{**}/b/{**}", "/a/b/c/b", true),
            ("/a", "/a", true),
            ("/a", "/a/b", false),
            ("/a/{*}", "*", false),
        ];
        for (text, path, expected) in cases {
            assert_eq!(template_matches(&template(text), path), expected, "{text} {path}");
        }
    }
}
