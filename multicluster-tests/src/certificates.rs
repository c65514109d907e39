//! Certificates that openssl makes, as files and as Secrets.

use std::path::Path;
use std::process::Command;

use crate::tool;

/// A directory with a CA and certificates of it.
pub struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    /// Makes a CA and a certificate per `<name>=<DNS name>`.
    pub fn new(names: &[&str]) -> Self {
        tool("openssl", "openssl");
        let certificates = Self { directory: tempfile::tempdir().expect("a directory") };
        certificates.make(names);
        certificates
    }

    /// Makes certificates, also anew, of the same CA.
    pub fn make(&self, names: &[&str]) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/certificates.sh");
        let output = Command::new("sh").arg(script).arg(self.directory.path()).args(names).output();
        let output = output.expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Where the files are: `ca.crt`, `<name>.crt`, `<name>.key`.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of one of them.
    pub fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// Revokes a certificate of the CA: `ca.crl` is made anew.
    pub fn revoke(&self, name: &str) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/revoke.sh");
        let output = Command::new("sh").arg(script).arg(self.directory.path()).arg(name).output().expect("sh runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What a shell command prints that runs beside the files.
    pub fn shell(&self, command: &str) -> String {
        let output = Command::new("sh").args(["-c", command]).current_dir(self.path()).output().expect("sh runs");
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// A Secret `secret` in istio-system with the certificate `name`; with the CA as well, for mutual TLS.
    pub fn secret(&self, secret: &str, name: &str, with_ca: bool) -> String {
        let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
        let mut entries = vec![("tls.crt", certificate.as_str()), ("tls.key", key.as_str())];
        entries.extend(with_ca.then_some(("ca.crt", "ca.crt")));
        self.secret_of(secret, &entries)
    }

    /// A Secret `secret` in istio-system with these files, each `(<key>, <file>)`.
    pub fn secret_of(&self, secret: &str, entries: &[(&str, &str)]) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {secret}, namespace: istio-system}}\nstringData:\n"
        );
        for (key, file) in entries {
            let content = std::fs::read_to_string(self.file(file)).expect("a file of the certificates");
            let lines = content.lines().map(|line| format!("    {line}\n"));
            text.push_str(&format!("  {key}: |\n{}", lines.collect::<String>()));
        }
        text
    }
}
