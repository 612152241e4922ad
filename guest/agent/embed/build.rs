//! Builds the agent as a static program: cargo has no stable way to depend on a binary made
//! with other flags.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
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

fn main() {
    let here = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let agent = here.join("..");
    let workspace = here.join("../../..");
    for path in ["src", "Cargo.toml", "../abi/src", "../abi/Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", agent.join(path).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let mut cargo = Command::new(var("CARGO"));
    cargo
        .args(["build", "--release", "--package", "tine-agent", "--bin", "tine-agent"])
        .args(["--target", TARGET])
        .arg("--manifest-path")
        .arg(agent.join("Cargo.toml"))
        // Its own: the build that this is part of holds the lock of the other.
        .arg("--target-dir")
        .arg(PathBuf::from(var("OUT_DIR")).join("agent"))
        // These go before RUSTFLAGS and all configuration.
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        .env_remove("RUSTFLAGS")
        // Lints look at the agent where it is a package of the workspace.
        .env_remove("RUSTC_WORKSPACE_WRAPPER");
    for (name, value) in PROFILE {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    if workspace.join("Cargo.lock").exists() {
        cargo.arg("--locked");
    }
    match cargo.status() {
        Ok(status) => assert!(status.success(), "the agent does not build"),
        Err(error) => panic!("cargo can't be run: {error}"),
    }
}

fn var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
