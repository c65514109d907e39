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

    /// A Secret `secret` in istio-system with the certificate `name`; with the CA as well, for mutual TLS.
    pub fn secret(&self, secret: &str, name: &str, with_ca: bool) -> String {
        let indented = |file: String| {
            let text = std::fs::read_to_string(self.file(&file)).expect("a certificate");
            text.lines().map(|line| format!("    {line}\n")).collect::<String>()
        };
        let (certificate, key) = (indented(format!("{name}.crt")), indented(format!("{name}.key")));
        let ca = if with_ca { format!("  ca.crt: |\n{}", indented("ca.crt".to_owned())) } else { String::new() };
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {secret}, namespace: istio-system}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{certificate}  tls.key: |\n{key}{ca}"
        )
    }
}
