//! The request id of a join, kept so that a repetition is recognised as one.

use std::path::Path;

use identity::files;
use serde::{Deserialize, Serialize};

use super::JoinError;

/// `join-request`: which token was tried under which request id. A new token is a new request.
#[derive(Serialize, Deserialize)]
struct RequestFile {
    token_id: String,
    request_id: String,
}

/// The request id for this token: the one on disk, or a new one that is on disk when this returns.
pub(super) fn request_id(data_dir: &Path, token_id: &str) -> Result<String, JoinError> {
    let path = data_dir.join("join-request");
    let found = match files::read_text(&path) {
        // A file that does not parse was not written by this function; a new id is as good as any.
        Ok(text) => serde_json::from_str::<RequestFile>(&text).ok(),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(found) = found.filter(|found| found.token_id == token_id) {
        return Ok(found.request_id);
    }
    let file = RequestFile { token_id: token_id.to_owned(), request_id: format!("{:032x}", rand::random::<u128>()) };
    // A struct of two strings always serialises.
    let text = serde_json::to_vec(&file).unwrap_or_default();
    files::write_private(&path, &text)?;
    Ok(file.request_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_keeps_its_id_and_another_token_gets_another() {
        let dir = tempfile::tempdir().unwrap();
        let first = request_id(dir.path(), "t1").unwrap();
        assert_eq!(request_id(dir.path(), "t1").unwrap(), first);
        assert_ne!(request_id(dir.path(), "t2").unwrap(), first);
    }
}
