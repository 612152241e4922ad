//! Builds the programs for guests as static ones: cargo has no stable way to depend on a
//! binary made with other flags.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Static, and at a fixed address: nothing relocates the first process.
const FLAGS: [&str; 4] = ["-C", "target-feature=+crt-static", "-C", "relocation-model=static"];
/// Small: each guest holds it in memory.
const PROFILE: [(&str, &str); 6] = [
    ("OPT_LEVEL", "s"),
    ("LTO", "fat"),
    ("CODEGEN_UNITS", "1"),
    ("PANIC", "abort"),
    ("DEBUG", "none"),
    ("STRIP", "symbols"),
];
/// The packages, by their directories. Each has one program, of its own name.
const PROGRAMS: [(&str, &str); 2] = [("agent", "tine-agent"), ("forkbench", "tine-forkbench")];

fn main() {
    let guest = PathBuf::from(var("CARGO_MANIFEST_DIR")).join("..");
    println!("cargo::rerun-if-changed=build.rs");
    for part in ["src", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", guest.join("abi").join(part).display());
        for (directory, _) in PROGRAMS {
            println!("cargo::rerun-if-changed={}", guest.join(directory).join(part).display());
        }
    }
    for (directory, package) in PROGRAMS {
        build(&guest.join(directory), package);
    }
}

/// Builds the program of `package`, which is in `directory`.
fn build(directory: &Path, package: &str) {
    let mut cargo = Command::new(var("CARGO"));
    cargo
        .args(["build", "--release", "--package", package, "--bin", package])
        .args(["--target", TARGET])
        .arg("--manifest-path")
        .arg(directory.join("Cargo.toml"))
        // Its own: the build that this is part of holds the lock of the other.
        .arg("--target-dir")
        .arg(PathBuf::from(var("OUT_DIR")).join("programs"))
        // These go before RUSTFLAGS and all configuration.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        // Lints look at the program where it is a package of the workspace.
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    for (name, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    if directory.join("../../Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    match cargo.status() {
        Ok(status) => assert!(status.success(), "{package} does not build"),
        Err(error) => panic!("cargo can't be run: {error}"),
    }
}

fn var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
