//! Bytes that are no request.

/// Why the bytes of a client are no request of HTTP/1. On HTTP/2 the stream or connection is reset instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unreadable {
    /// They break the grammar, or say in two ways where the body ends.
    Malformed,
    /// The head is longer, or has more fields, than may be.
    HeadTooLarge,
}

impl Unreadable {
    /// What a connection that failed says of its client; `None` for everything that is not about a head.
    pub fn of(error: &hyper::Error) -> Option<Self> {
        match error {
            error if error.is_parse_too_large() => Some(Self::HeadTooLarge),
            error if error.is_parse() => Some(Self::Malformed),
            _ => None,
        }
    }

    /// The status that the client got.
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::HeadTooLarge => 431,
        }
    }

    /// In kebab case, for the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed-request",
            Self::HeadTooLarge => "head-too-large",
        }
    }
}
