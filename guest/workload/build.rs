//! Builds the guest program with the compiler that builds everything else, for the
//! installed target, freestanding: cargo has no stable way to depend on a binary
//! made with other flags.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let here = PathBuf::from(var("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(var("OUT_DIR"));
    let abi = here.join("../abi/src");
    let guest = here.join("src/guest");
    println!("cargo::rerun-if-changed={}", abi.display());
    println!("cargo::rerun-if-changed={}", guest.display());
    println!("cargo::rerun-if-changed=build.rs");

    let abi_rlib = out.join("libtine_abi.rlib");
    compile(&abi.join("lib.rs"), &abi_rlib, &["--crate-type=rlib", "--crate-name=tine_abi"]);

    let mut link = OsString::from("link-arg=-Wl,-T,");
    link.push(guest.join("link.ld"));
    let mut external = OsString::from("tine_abi=");
    external.push(&abi_rlib);
    let program = out.join("workload.elf");
    rustc(&guest.join("main.rs"), &program)
        .args(["--crate-type=bin", "--crate-name=workload"])
        .arg("--extern")
        .arg(external)
        .args(["-C", "link-args=-nostartfiles -nostdlib -static -no-pie -Wl,--build-id=none"])
        .arg("-C")
        .arg(link)
        .status()
        .map(|status| assert!(status.success(), "the guest program does not build"))
        .unwrap_or_else(|error| panic!("the compiler can't be run: {error}"));
}

fn compile(source: &Path, output: &Path, arguments: &[&str]) {
    let status = rustc(source, output).args(arguments).status();
    match status {
        Ok(status) => assert!(status.success(), "{} does not build", source.display()),
        Err(error) => panic!("the compiler can't be run: {error}"),
    }
}

/// The flags that both crates share. The machine starts without a red zone (interrupts
/// push on the same stack) and without a loader (nothing relocates the program).
fn rustc(source: &Path, output: &Path) -> Command {
    let mut command = Command::new(var("RUSTC"));
    command
        .arg(source)
        .arg("-o")
        .arg(output)
        .args(["--edition=2024", "--target", "x86_64-unknown-linux-gnu"])
        .args(["-C", "opt-level=3", "-C", "panic=abort", "-C", "no-redzone=yes"])
        .args(["-C", "relocation-model=pic", "-C", "strip=symbols"]);
    command
}

fn var(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"))
}
