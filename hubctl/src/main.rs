//! hubctl
fn main() {}
