//! Paths as policies compare them: normalised, and matched against templates.

use std::borrow::Cow;

use crate::policy::TemplateSegment;

/// The path after the normalisation that Istio does by default (`pathNormalization: BASE`, RFC 3986 §6.2.2): `%41` is `A`
/// for every unreserved character, `.` and `..` are resolved, and a backslash is a slash. Double slashes and escaped
/// slashes stay. `None`: it is no path, or would be another one for whoever normalises it once more, and must not be
/// carried on where somebody relies on it.
pub fn normalize_path(path: &str) -> Option<Cow<'_, str>> {
    if path == "*" {
        return Some(Cow::Borrowed(path));
    }
    if !path.starts_with('/') && !path.starts_with('\\') {
        return None;
    }
    if !path.contains(['%', '\\']) && !path.contains("/.") {
        return Some(Cow::Borrowed(path));
    }
    decoded(path).map(|path| Cow::Owned(without_dots(&path)))
}

/// Decodes what need not be encoded (RFC 3986 §2.3), and turns backslashes as browsers do. `None` when that writes an
/// escape that was none before: `%%341` must not reach an application as `%41`, which it reads as `A`.
fn decoded(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        out.push_str(&rest[..at]);
        let (special, after) = rest.split_at(at + 1);
        rest = after;
        if special.ends_with('\\') {
            out.push('/');
            continue;
        }
        match after.get(..2).and_then(unreserved) {
            Some(character) if character.is_ascii_hexdigit() && ends_in_escape(&out) => return None,
            Some(character) => {
                out.push(character);
                rest = &after[2..];
            }
            None => out.push('%'),
        }
    }
    out.push_str(rest);
    Some(out)
}

/// Whether one or two digits more would make an escape of the end.
fn ends_in_escape(text: &str) -> bool {
    let bare = text.strip_suffix(|last: char| last.is_ascii_hexdigit()).unwrap_or(text);
    bare.ends_with('%')
}

fn unreserved(hex: &str) -> Option<char> {
    // `from_str_radix` would take a sign.
    let digits = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    let byte = u8::from_str_radix(hex, 16).ok().filter(|_| digits)?;
    (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then_some(char::from(byte))
}

/// RFC 3986 §5.2.4 for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { "/".to_owned() } else { out }
}

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

    #[test]
    fn paths_are_normalised_as_istio_does_by_default() {
        let cases = [
            ("/", Some("/")),
            ("*", Some("*")),
            ("/a/b", Some("/a/b")),
            ("/a/./b", Some("/a/b")),
            ("/a/../b", Some("/b")),
            ("/a/b/..", Some("/a/")),
            ("/a/b/.", Some("/a/b/")),
            ("/..", Some("/")),
            ("/../../a", Some("/a")),
            ("/a/%2e%2e/b", Some("/b")),
            ("/a/%2E%2e/b", Some("/b")),
            ("/a/.%2e/b", Some("/b")),
            ("/%61dmin", Some("/admin")),
            ("/a%2Fb", Some("/a%2Fb")),
            ("/a%2f..%2fb", Some("/a%2f..%2fb")),
            ("/a\\b", Some("/a/b")),
            ("/a\\..\\b", Some("/b")),
            ("\\a", Some("/a")),
            ("//a", Some("//a")),
            ("/a//b", Some("/a//b")),
            ("/a//../b", Some("/a/b")),
            ("/...", Some("/...")),
            ("/.a", Some("/.a")),
            ("/a%", Some("/a%")),
            ("/a%4", Some("/a%4")),
            ("/a%+1", Some("/a%+1")),
            ("/a%zz", Some("/a%zz")),
            ("/%2561", Some("/%2561")),
            ("/%25%61", Some("/%25a")),
            ("/%%341", None),
            ("/%4%31", None),
            ("/%%34%31", None),
            ("/%%2e", Some("/%.")),
            ("/%%67", Some("/%g")),
            ("/%\u{e9}\u{e9}", Some("/%\u{e9}\u{e9}")),
            ("", None),
            ("a", None),
        ];
        for (path, expected) in cases {
            assert_eq!(normalize_path(path).as_deref(), expected, "{path}");
        }
    }

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
