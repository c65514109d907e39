//! isthmus-hub
fn main() {}
