fn main() {
    println!("cargo:rerun-if-env-changed=GIT_SHA");
    let revision = std::env::var("GIT_SHA").unwrap_or_else(|_| "unknown".into());
    println!("cargo:rustc-env=REVISION={revision}");
}
