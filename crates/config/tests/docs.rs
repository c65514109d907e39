//! The documentation is true: its examples are valid and compile, its tables are those of the code, its links lead somewhere.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on says why and ends")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::analyze::codes;
use config::{Input, Severity, support};
use federation_crds::parse_manifests;
use mesh::{ClusterName, MeshId, MeshInfo, TrustDomain};

/// Environment variable that writes generated pages anew.
const WRITE: &str = "ISTHMUS_WRITE_DOCS";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut pages = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the documentation").flatten() {
        let path = entry.path();
        if path.is_dir() {
            pages.extend(self::pages(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    pages
}

/// The fenced blocks of YAML that hold objects.
fn examples(text: &str) -> Vec<String> {
    let blocks = text.split("\n```yaml\n").skip(1).filter_map(|block| block.split("\n```").next());
    blocks.filter(|block| block.contains("apiVersion:")).map(|block| format!("{block}\n")).collect()
}

#[test]
fn every_example_is_valid_and_compiles() {
    let (cluster, mesh_id) = (ClusterName::new("east").unwrap(), MeshId::new("demo").unwrap());
    let trust_domain = TrustDomain::of_cluster(&cluster, &mesh_id);
    let mesh = MeshInfo { mesh_id, cluster, trust_domain, roots: Vec::new(), bundle_serial: 1 };
    let mut count = 0;
    for page in pages(&docs()) {
        let text = std::fs::read_to_string(&page).unwrap();
        for (number, example) in examples(&text).iter().enumerate() {
            let origin = format!("{} example {}", page.display(), number + 1);
            let manifests = parse_manifests(example, &origin).unwrap_or_else(|errors| panic!("{errors}"));
            let local = config::local::build(&manifests, &mesh.trust_domain);
            let imported = BTreeMap::new();
            let input = Input { manifests: &manifests, local: &local, mesh: &mesh, imported: &imported };
            let found = config::compile(&input).findings;
            let unwanted = [codes::WITHOUT_EFFECT, codes::DEPRECATED, codes::NOT_COMPILED, codes::UNREACHABLE_RULE];
            let unwanted: Vec<_> = found.iter().filter(|finding| unwanted.contains(&finding.code)).collect();
            assert!(unwanted.is_empty(), "{origin}: {unwanted:#?}");
            count += manifests.len();
        }
    }
    assert!(count > 20, "only {count} objects in examples");
}

#[test]
fn every_kind_has_a_page_with_an_example() {
    for kind in support::kinds() {
        let mut name = String::new();
        for (index, letter) in kind.as_str().char_indices() {
            if index > 0 && letter.is_ascii_uppercase() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        let page = docs().join("config").join(format!("{name}.md"));
        let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        assert!(
            examples(&text).iter().any(|example| example.contains(&format!("kind: {kind}\n"))),
            "{}",
            page.display()
        );
    }
}

/// Compares a generated page with what is there, or writes it.
fn generated(page: &str, expected: &str) {
    let path = docs().join(page);
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let actual = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        actual == expected,
        "{page} is out of date; {WRITE}=1 cargo test -p isthmus-config --test docs writes it anew"
    );
}

#[test]
fn the_support_table_is_that_of_the_code() {
    generated("config/support.md", &support::document().unwrap_or_else(|wrong| panic!("{}", wrong.join("\n"))));
}

#[test]
fn the_table_of_codes_is_that_of_the_code() {
    let mut text = String::from(
        "# Analysis\n\n`hubctl analyze` and `hubctl fleet apply` say what is wrong with objects that are valid one by one. Codes are stable. `IST…` are \
         Istio's, with\nIstio's names; `ISM…` are ours. Made from `crates/config/src/analyze/codes.rs` \
         (`ISTHMUS_WRITE_DOCS=1 cargo test -p isthmus-config --test docs`).\n\n```\nError [IST0101] (VirtualService default/reviews) \
         spec.http[0].route[0].destination.subset: no DestinationRule of reviews has a subset \"v3\"\n  hint: add it to spec.subsets of a \
         DestinationRule for the host; until then such requests get 503\n```\n\nWith `-o json` a finding is an object with `cluster`, `code`, `severity`, \
         `object`, `path`, `message` and `hint`. `hubctl analyze` ends with 1 when a\nfile is refused or a finding is an error, else with 0. `hubctl \
         fleet apply` prints findings and applies nevertheless; `--strict` refuses.\n\nSome of Istio's codes have no meaning here: IST0134 (a \
         ServiceEntry without addresses gets an automatic one), IST0102, IST0103 and others about\ninjection.\n\n| code | name | severity | found \
         when |\n|---|---|---|---|\n",
    );
    for info in codes::ALL {
        let severity = match info.severity {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        text.push_str(&format!("| {} | {} | {severity} | {} |\n", info.code, info.name, info.meaning));
    }
    generated("analysis.md", &text);
}

#[test]
fn links_lead_somewhere() {
    for page in pages(&docs()) {
        let text = std::fs::read_to_string(&page).unwrap();
        let directory = page.parent().unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            assert!(directory.join(file).exists(), "{}: {target}", page.display());
        }
    }
}
