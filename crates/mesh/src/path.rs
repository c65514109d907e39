//! The path of a request, brought to the one form that routes, policies and applications see.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How paths are normalised: MeshConfig `pathNormalization.normalization`, whose DEFAULT is BASE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathNormalization {
    /// Not at all.
    None,
    /// RFC 3986 §6.2.2: `%41` is `A` for every unreserved character, `.` and `..` are resolved; and a backslash is a slash, as
    /// for browsers. Double slashes and escaped slashes stay.
    #[default]
    Base,
    /// The same, then `//` is `/`.
    MergeSlashes,
    /// `%2F` and `%5C` are slashes, then the same.
    DecodeAndMergeSlashes,
}

impl PathNormalization {
    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn merges(self) -> bool {
        matches!(self, Self::MergeSlashes | Self::DecodeAndMergeSlashes)
    }
}

/// The path, without its query, as it is carried on. `None`: it is no path, or would be another one for whoever normalises
/// it once more, and must not be carried on where somebody relies on it.
pub fn normalize_path(path: &str, how: PathNormalization) -> Option<Cow<'_, str>> {
    if path == "*" || how == PathNormalization::None {
        return Some(Cow::Borrowed(path));
    }
    if !path.starts_with('/') && !path.starts_with('\\') {
        return None;
    }
    let merges = how.merges() && path.contains("//");
    if !merges && !path.contains(['%', '\\']) && !path.contains("/.") {
        return Some(Cow::Borrowed(path));
    }
    let path = without_dots(&decoded(path, how == PathNormalization::DecodeAndMergeSlashes)?);
    Some(Cow::Owned(if how.merges() { merged(&path) } else { path }))
}

/// The same for a path with its query, which stays as it is.
pub fn normalize_target(target: &str, how: PathNormalization) -> Option<Cow<'_, str>> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let settled = normalize_path(path, how)?;
    Some(match query {
        _ if settled == path => Cow::Borrowed(target),
        Some(query) => Cow::Owned(format!("{settled}?{query}")),
        None => Cow::Owned(settled.into_owned()),
    })
}

/// Decodes what need not be encoded (RFC 3986 §2.3), and turns backslashes as browsers do. `None` when that writes an
/// escape that was none before: `%%341` must not reach an application as `%41`, which it reads as `A`.
fn decoded(path: &str, slashes: bool) -> Option<String> {
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
        let escaped = after.get(..2);
        if slashes && escaped.is_some_and(|hex| hex.eq_ignore_ascii_case("2f") || hex.eq_ignore_ascii_case("5c")) {
            out.push('/');
            rest = &after[2..];
            continue;
        }
        match escaped.and_then(unreserved) {
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

/// Runs of slashes become one.
fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !out.ends_with('/') {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_dots_and_needless_escapes_go() {
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
            assert_eq!(normalize_path(path, PathNormalization::Base).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn each_way_goes_further_than_the_one_before() {
        // As given, then by BASE, MERGE_SLASHES and DECODE_AND_MERGE_SLASHES.
        let cases = [
            ("/a/b", "/a/b", "/a/b", "/a/b"),
            ("/public/../admin", "/admin", "/admin", "/admin"),
            ("/public/%2e%2E/admin", "/admin", "/admin", "/admin"),
            (r"/public\..\admin", "/admin", "/admin", "/admin"),
            ("//admin", "//admin", "/admin", "/admin"),
            ("///a//b///", "///a//b///", "/a/b/", "/a/b/"),
            ("/a//../b", "/a/b", "/a/b", "/a/b"),
            ("//..//admin", "//admin", "/admin", "/admin"),
            (r"\\admin", "//admin", "/admin", "/admin"),
            ("/%2fadmin", "/%2fadmin", "/%2fadmin", "/admin"),
            ("/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b"),
            ("/a%5cb", "/a%5cb", "/a%5cb", "/a/b"),
            ("/a/%5C../b", "/a/%5C../b", "/a/%5C../b", "/a/b"),
            ("/public%2f..%2fadmin", "/public%2f..%2fadmin", "/public%2f..%2fadmin", "/admin"),
            ("/a%252fb", "/a%252fb", "/a%252fb", "/a%252fb"),
            ("*", "*", "*", "*"),
        ];
        for (path, base, merged, decoded) in cases {
            let by = |how| normalize_path(path, how).unwrap_or_else(|| panic!("{path} {how:?}")).into_owned();
            assert_eq!(by(PathNormalization::None), path);
            assert_eq!(by(PathNormalization::Base), base, "{path}");
            assert_eq!(by(PathNormalization::MergeSlashes), merged, "{path}");
            assert_eq!(by(PathNormalization::DecodeAndMergeSlashes), decoded, "{path}");
        }
        assert_eq!(normalize_path("a", PathNormalization::None).as_deref(), Some("a"), "nobody looks at it");
    }

    proptest::proptest! {
        #[test]
        fn a_normalised_path_stays_as_it_is(path in "\\PC{0,40}", steps in "(/|\\.|%2e|%2E|\\\\|a|%61|%|%34|1|%2f|%5C){0,24}") {
            use PathNormalization::{Base, DecodeAndMergeSlashes, MergeSlashes};
            for (path, how) in [path, format!("/{steps}")].iter().flat_map(|path| {
                [Base, MergeSlashes, DecodeAndMergeSlashes].map(|how| (path, how))
            }) {
                let Some(once) = normalize_path(path, how) else { continue };
                let again = normalize_path(&once, how);
                proptest::prop_assert_eq!(again.as_deref(), Some(&*once));
                proptest::prop_assert!(once == "*" || once.starts_with('/'));
                proptest::prop_assert!(!once.split('/').any(|segment| segment == ".."), "{}", once);
                proptest::prop_assert!(!how.merges() || !once.contains("//"), "{}", once);
            }
        }
    }
}
