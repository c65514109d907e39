//! isthmus-gateway
fn main() {}
