//! The directory source: manifests in files, read again whenever their content changes.
//!
//! Writers replace files by a rename; a file that is read half written does not parse, or parses to less, until the
//! next poll.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use config::Local;
use federation_crds::{Manifest, parse_manifests};
use mesh::TrustDomain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::state;

/// How often the directory is read.
pub const POLL: Duration = Duration::from_millis(250);
/// A larger file is refused.
const MAX_FILE: u64 = 16 * 1024 * 1024;

/// One file of the directory.
#[derive(Debug, Clone, PartialEq)]
struct SourceFile {
    /// The content last read, good or bad.
    seen: Vec<u8>,
    /// The last content that parsed; what is in force.
    good: Option<Good>,
    /// Why `seen` is not in force.
    error: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
struct Good {
    text: String,
    manifests: Vec<Manifest>,
}

/// What the directory says, as far as it can be understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Files {
    files: BTreeMap<String, SourceFile>,
    /// Set while the directory itself cannot be read.
    directory_error: Option<String>,
}

/// What the directory says, read and compiled together: nobody sees the one without the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// Every object in force.
    pub manifests: Vec<Manifest>,
    /// Services, endpoints, workloads and exports among them.
    pub local: Local,
    /// The files that they stand in, each with the hash of its text.
    pub digests: BTreeMap<String, String>,
}

impl Content {
    /// Reads the files.
    pub fn of(files: &Files, trust_domain: &TrustDomain) -> Self {
        let manifests = files.manifests();
        Self { local: config::local::build(&manifests, trust_domain), manifests, digests: files.digests() }
    }
}

/// The state of one file, for `/debug/source`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct FileStatus {
    /// File name.
    pub file: String,
    /// Objects in force.
    pub objects: usize,
    /// Why the newest content is not in force; the previous one is.
    pub error: Option<String>,
}

impl Files {
    /// Starts from the last good texts of an earlier run: a file that is bad now keeps what it said then.
    pub fn restore(texts: BTreeMap<String, String>) -> Self {
        let mut files = Self::default();
        for (name, text) in texts {
            let Ok(manifests) = parse_manifests(&text, &name) else { continue };
            let good = Some(Good { text, manifests });
            files.files.insert(name, SourceFile { seen: Vec::new(), good, error: None });
        }
        files
    }

    /// Takes the content of the whole directory; says whether anything changed. A file that does not parse keeps its
    /// previous content, a directory that cannot be read keeps everything.
    pub fn handle_scan(&mut self, scan: Result<BTreeMap<String, Vec<u8>>, String>) -> bool {
        let before = self.clone();
        let scan = match scan {
            Ok(scan) => scan,
            Err(error) => {
                self.directory_error = Some(error);
                return *self != before;
            }
        };
        self.directory_error = None;
        self.files.retain(|name, _| scan.contains_key(name));
        for (name, content) in scan {
            if self.files.get(&name).is_some_and(|file| file.seen == content) {
                continue;
            }
            let parsed = parse(&name, &content);
            let previous = self.files.remove(&name).and_then(|file| file.good);
            let file = match parsed {
                Ok(good) => SourceFile { seen: content, good: Some(good), error: None },
                Err(error) => {
                    tracing::error!(file = name, %error, "a manifest file is refused; its previous content stays");
                    SourceFile { seen: content, good: previous, error: Some(error) }
                }
            };
            self.files.insert(name, file);
        }
        *self != before
    }

    /// Everything in force. Of an object that stands in two files, the first file's (by name) counts.
    pub fn manifests(&self) -> Vec<Manifest> {
        let mut seen = std::collections::BTreeSet::new();
        let all = self.files.values().filter_map(|file| file.good.as_ref()).flat_map(|good| &good.manifests);
        all.filter(|manifest| seen.insert(manifest.key())).cloned().collect()
    }

    /// Objects that stand in more than one file, and in which file they are ignored.
    pub fn duplicates(&self) -> Vec<String> {
        let mut first = BTreeMap::new();
        let mut duplicates = Vec::new();
        for (name, file) in &self.files {
            for manifest in file.good.iter().flat_map(|good| &good.manifests) {
                match first.get(&manifest.key()) {
                    Some(other) => duplicates.push(format!("{} in {name} is ignored: {other} has it", manifest.key())),
                    None => drop(first.insert(manifest.key(), name)),
                }
            }
        }
        duplicates
    }

    /// The last good texts, for [`Files::restore`].
    pub fn texts(&self) -> BTreeMap<String, String> {
        let good = |(name, file): (&String, &SourceFile)| Some((name.clone(), file.good.as_ref()?.text.clone()));
        self.files.iter().filter_map(good).collect()
    }

    /// The files with the hashes of their last good texts: whoever wrote a file can tell whether it is in force.
    fn digests(&self) -> BTreeMap<String, String> {
        let digest = |(name, text): (String, String)| (name, identity::root_hash(text.as_bytes()));
        self.texts().into_iter().map(digest).collect()
    }

    /// The state of each file.
    pub fn status(&self) -> Vec<FileStatus> {
        let status = |(name, file): (&String, &SourceFile)| FileStatus {
            file: name.clone(),
            objects: file.good.as_ref().map_or(0, |good| good.manifests.len()),
            error: file.error.clone(),
        };
        let directory = self.directory_error.iter().map(|error| FileStatus {
            file: ".".to_owned(),
            objects: 0,
            error: Some(error.clone()),
        });
        directory.chain(self.files.iter().map(status)).collect()
    }
}

fn parse(name: &str, content: &[u8]) -> Result<Good, String> {
    let text = std::str::from_utf8(content).map_err(|error| format!("{name}: {error}"))?.to_owned();
    let manifests = parse_manifests(&text, name).map_err(|errors| errors.to_string())?;
    Ok(Good { text, manifests })
}

/// Reads the files `*.yaml` and `*.yml` of a directory.
pub fn scan(directory: &Path) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", directory.display());
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') || !(name.ends_with(".yaml") || name.ends_with(".yml")) {
            continue;
        }
        let metadata = match std::fs::metadata(entry.path()) {
            Ok(metadata) if metadata.is_file() => metadata,
            Ok(_) => continue,
            // Removed since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        if metadata.len() > MAX_FILE {
            // Something that cannot parse, so that the file is reported and its previous content stays.
            files.insert(name, b"!file-too-large".to_vec());
            continue;
        }
        match std::fs::read(entry.path()) {
            Ok(content) => drop(files.insert(name, content)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(files)
}

/// Follows the directory until shutdown; publishes what changed and keeps the last good texts on disk.
pub(crate) async fn follow(
    directory: PathBuf,
    state_path: PathBuf,
    files: watch::Sender<Arc<Files>>,
    shutdown: CancellationToken,
) {
    let mut timer = tokio::time::interval(POLL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let directory = directory.clone();
        let current = Arc::clone(&files.borrow());
        let state_path = state_path.clone();
        let polled = tokio::task::spawn_blocking(move || poll(&directory, &state_path, &current)).await;
        if let Ok(Some(changed)) = polled {
            files.send_replace(Arc::new(changed));
        }
    }
}

/// One look at the directory; `None` when nothing changed. Blocking.
pub(crate) fn poll(directory: &Path, state_path: &Path, current: &Files) -> Option<Files> {
    let mut files = current.clone();
    if !files.handle_scan(scan(directory)) {
        return None;
    }
    if files.texts() != current.texts()
        && let Err(error) = state::write(state_path, &files.texts())
    {
        tracing::warn!(error = &error as &dyn std::error::Error, "the last good manifests are not kept");
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 80}]}\n";

    fn scan_of(files: &[(&str, &str)]) -> Result<BTreeMap<String, Vec<u8>>, String> {
        Ok(files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn a_bad_file_keeps_its_previous_content_and_names_the_field() {
        let mut files = Files::default();
        assert!(files.handle_scan(scan_of(&[("a.yaml", SERVICE)])));
        assert!(!files.handle_scan(scan_of(&[("a.yaml", SERVICE)])));
        let bad = SERVICE.replace("port: 80", "port: eighty");
        assert!(files.handle_scan(scan_of(&[("a.yaml", &bad), ("b.yaml", &SERVICE.replace("web", "db"))])));
        assert_eq!(files.manifests().len(), 2);
        let status = files.status();
        let error = status[0].error.as_ref().expect("an error");
        assert!(error.contains("a.yaml") && error.contains("port"), "{error}");
        assert!(files.handle_scan(scan_of(&[("b.yaml", SERVICE)])));
        assert_eq!(files.manifests().len(), 1, "a removed file takes its objects away");
    }

    #[test]
    fn an_unreadable_directory_takes_nothing_away() {
        let mut files = Files::default();
        files.handle_scan(scan_of(&[("a.yaml", SERVICE)]));
        assert!(files.handle_scan(Err("gone".into())));
        assert_eq!(files.manifests().len(), 1);
        assert_eq!(files.status()[0].error.as_deref(), Some("gone"));
    }

    #[test]
    fn what_was_good_before_a_restart_stays_in_force() {
        let mut files = Files::default();
        files.handle_scan(scan_of(&[("a.yaml", SERVICE)]));
        let mut restarted = Files::restore(files.texts());
        restarted.handle_scan(scan_of(&[("a.yaml", "kind: Nonsense")]));
        assert_eq!(restarted.manifests(), files.manifests());
    }

    #[test]
    fn of_an_object_in_two_files_the_first_counts() {
        let mut files = Files::default();
        files.handle_scan(scan_of(&[("a.yaml", SERVICE), ("b.yaml", SERVICE)]));
        assert_eq!(files.manifests().len(), 1);
        assert_eq!(files.duplicates(), ["Service default/web in b.yaml is ignored: a.yaml has it"]);
    }

    #[test]
    fn only_manifests_are_read() {
        let directory = tempfile::tempdir().expect("directory");
        for (name, text) in [("a.yaml", SERVICE), ("b.txt", "x"), (".c.yaml", "x")] {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        let found = scan(directory.path()).expect("readable");
        assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a.yaml"]);
    }
}
