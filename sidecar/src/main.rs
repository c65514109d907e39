//! isthmus-sidecar
fn main() {}
