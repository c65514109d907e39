//! The shape of PEM (RFC 7468): whether a text has the blocks that it is meant to have. What is in them is not looked at.

/// One or more certificates, and nothing else.
pub fn certificates(text: &[u8]) -> Result<(), String> {
    let labels = labels(text)?;
    match labels
        .iter()
        .find(|label| !matches!(label.as_str(), "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"))
    {
        Some(other) if other.ends_with("PRIVATE KEY") => Err("has a private key where certificates belong".to_owned()),
        Some(other) => Err(format!("has a block {other:?} where certificates belong")),
        None => Ok(()),
    }
}

/// A private key that is not encrypted.
pub fn private_key(text: &[u8]) -> Result<(), String> {
    let labels = labels(text)?;
    if labels.iter().any(|label| label == "ENCRYPTED PRIVATE KEY") {
        return Err("is encrypted; nobody is there to type a password".to_owned());
    }
    // `openssl ecparam -genkey` writes the parameters before the key.
    let keys =
        labels.iter().filter(|label| matches!(label.as_str(), "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY"));
    match keys.count() {
        1 => Ok(()),
        0 => Err(format!("has no private key but {}", labels.join(", "))),
        _ => Err("has several private keys".to_owned()),
    }
}

/// One or more revocation lists.
pub fn revocation_lists(text: &[u8]) -> Result<(), String> {
    match labels(text)?.iter().find(|label| *label != "X509 CRL") {
        Some(other) => Err(format!("has a block {other:?} where revocation lists belong")),
        None => Ok(()),
    }
}

/// The labels of all blocks; at least one.
fn labels(text: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is not PEM but binary; convert it with openssl".to_owned())?;
    let mut labels = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            if let Some(open) = open.replace(label.to_owned()) {
                return Err(format!("has a block {open:?} without an end"));
            }
        } else if let Some(label) = line.strip_prefix("-----END ").and_then(|rest| rest.strip_suffix("-----")) {
            if open.as_deref() != Some(label) {
                return Err(format!("has an end of {label:?} without its beginning"));
            }
            labels.extend(open.take());
        } else if let Some(open) = &open {
            // Headers such as `Proc-Type:` are of encrypted keys in an old form.
            let base64 = line.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
            if !base64 {
                return Err(format!("has a line in the block {open:?} that is not base64"));
            }
        }
    }
    match open {
        Some(open) => Err(format!("has a block {open:?} without an end")),
        None if labels.is_empty() => Err("is not PEM: there is no -----BEGIN line".to_owned()),
        None => Ok(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(label: &str) -> String {
        format!("-----BEGIN {label}-----\nMIIB+/==\n-----END {label}-----\n")
    }

    #[test]
    fn blocks_are_told_apart_by_their_labels() {
        type Rule = fn(&[u8]) -> Result<(), String>;
        let (certificate, key) = (block("CERTIFICATE"), block("PRIVATE KEY"));
        let cases: [(&str, Rule, String, bool); 12] = [
            ("a chain", certificates, certificate.clone() + &certificate, true),
            ("words around", certificates, format!("subject=x\n{certificate}"), true),
            ("a key as certificate", certificates, key.clone(), false),
            ("both", certificates, certificate.clone() + &key, false),
            ("nothing", certificates, String::new(), false),
            ("no PEM", certificates, "MIIB".to_owned(), false),
            ("no end", certificates, certificate.replace("-----END CERTIFICATE-----", ""), false),
            ("a key", private_key, key.clone(), true),
            ("a key with parameters", private_key, block("EC PARAMETERS") + &block("EC PRIVATE KEY"), true),
            ("an encrypted key", private_key, block("ENCRYPTED PRIVATE KEY"), false),
            ("a certificate as key", private_key, certificate.clone(), false),
            ("no base64", private_key, key.replace("MIIB", "MI IB"), false),
        ];
        for (name, rule, text, good) in cases {
            assert_eq!(rule(text.as_bytes()).is_ok(), good, "{name}: {:?}", rule(text.as_bytes()));
        }
    }
}
