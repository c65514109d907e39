//! isthmus-agent
fn main() {}
