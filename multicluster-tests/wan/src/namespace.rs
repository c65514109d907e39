//! Network namespaces, named as a user names them.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespace {
    /// The one that the process runs in.
    Current,
    /// A file that stands for one: `/proc/<pid>/ns/net`, or one of `/run/netns`.
    File(PathBuf),
}

/// A namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// There is no such file, or it may not be read.
    #[error(
        "cannot open the network namespace {namespace}\n    hint: name one of `ip netns list`, a path like /proc/<pid>/ns/net, or `current`"
    )]
    Open {
        /// Which one.
        namespace: Namespace,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel does not let this process in.
    #[error("may not enter the network namespace {namespace}\n    hint: {}", enter_hint(*source))]
    Enter {
        /// Which one.
        namespace: Namespace,
        /// Why.
        source: Errno,
    },
}

fn enter_hint(errno: Errno) -> &'static str {
    match errno {
        Errno::PERM => {
            "run as root, or inside the user namespace that owns it: nsenter -t <pid> --user --preserve-credentials isthmus-wan …"
        }
        _ => "the file must be a network namespace",
    }
}

impl FromStr for Namespace {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "current" => Self::Current,
            path if path.contains('/') => Self::File(path.into()),
            name => Self::File(PathBuf::from("/run/netns").join(name)),
        })
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current => f.write_str("current"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl Namespace {
    /// Moves the calling thread into it, and what it spawns from now on. Meant for a thread of its own.
    ///
    /// # Errors
    /// It does not exist or must not be entered.
    pub fn enter(&self) -> Result<(), NamespaceError> {
        let Self::File(path) = self else { return Ok(()) };
        let open = |source| NamespaceError::Open { namespace: self.clone(), source };
        let enter = |source| NamespaceError::Enter { namespace: self.clone(), source };
        let file = File::open(path).map_err(open)?;
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).map_err(enter)
    }
}
