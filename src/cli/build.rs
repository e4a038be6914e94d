//! Links the command so that what a supervisor runs lies together (layout.ld). Without it the command works as well, and takes more memory.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=src/cli/build.rs");
    println!("cargo:rerun-if-changed=src/cli/layout.ld");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        let layout = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("src/cli/layout.ld");
        println!("cargo:rustc-link-arg-bins=-Wl,-T,{}", layout.display());
    }
}
