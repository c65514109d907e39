//! Snapshots as files: complete and on disk before anybody relies on them.
//!
//! A file is `ISTHSNP1`, the length of the metadata (4 bytes, big endian), the metadata (postcard), the body, and the
//! CRC-32 of all before it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::raft_types::{SnapshotBytes, SnapshotMeta};

const MAGIC: &[u8; 8] = b"ISTHSNP1";
/// Older ones are removed; the second is there in case that a disk eats the first.
const KEPT: usize = 2;

/// The directory of snapshots.
#[derive(Debug, Clone)]
pub(super) struct SnapshotFiles {
    directory: PathBuf,
}

impl SnapshotFiles {
    pub(super) fn open(directory: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&directory)?;
        Ok(Self { directory })
    }

    /// Writes a snapshot; when this returns, it survives a power cut.
    pub(super) fn write(&self, meta: &SnapshotMeta, body: &SnapshotBytes) -> io::Result<()> {
        let path = self.directory.join(file_name(meta));
        let temporary = path.with_extension("tmp");
        let mut file = File::create(&temporary)?;
        file.write_all(&encode(meta, body)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(&self.directory)?.sync_all()?;
        self.remove_old()
    }

    /// The newest snapshot whose checksum holds.
    pub(super) fn newest(&self) -> io::Result<Option<(SnapshotMeta, SnapshotBytes)>> {
        for path in self.files()?.into_iter().rev() {
            match decode(&fs::read(&path)?) {
                Some(snapshot) => return Ok(Some(snapshot)),
                None => tracing::error!(path = %path.display(), "a snapshot file is damaged and skipped"),
            }
        }
        Ok(None)
    }

    /// Oldest first; the names sort by log index.
    fn files(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "snapshot") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    fn remove_old(&self) -> io::Result<()> {
        let files = self.files()?;
        let surplus = files.len().saturating_sub(KEPT);
        files.iter().take(surplus).try_for_each(fs::remove_file)
    }
}

fn file_name(meta: &SnapshotMeta) -> String {
    let (index, term) = meta.last_log_id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{index:020}-{term:010}.snapshot")
}

fn encode(meta: &SnapshotMeta, body: &SnapshotBytes) -> io::Result<Vec<u8>> {
    let meta = postcard::to_stdvec(meta).map_err(io::Error::other)?;
    let length = u32::try_from(meta.len()).map_err(io::Error::other)?;
    let mut bytes = [&MAGIC[..], &length.to_be_bytes(), &meta, &body.0].concat();
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Option<(SnapshotMeta, SnapshotBytes)> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(bytes) != u32::from_be_bytes(*crc) {
        return None;
    }
    let rest = bytes.strip_prefix(MAGIC)?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (meta, body) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    Some((postcard::from_bytes(meta).ok()?, SnapshotBytes(body.to_vec())))
}

/// The path of a directory that moves out of the way, the first free one of `<path>.set-aside-<n>`.
pub(super) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let free = (1..u32::MAX).map(|n| path.with_extension(format!("set-aside-{n}"))).find(|path| !path.exists());
    let target = free.ok_or_else(|| io::Error::other("no free name to set a directory aside"))?;
    fs::rename(path, &target)?;
    Ok(target)
}
