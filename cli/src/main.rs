//! The command `mica`.

fn main() {}
