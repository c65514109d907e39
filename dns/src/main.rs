//! isthmus-dns
fn main() {}
