//! The programs of the host that the virtual KVM host is made with, installed where they are not.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::kernel::SERIES;

/// Programs, and Debian's packages with them.
const TOOLS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mkfs.erofs", "erofs-utils"),
    ("busybox", "busybox-static"),
    ("cpio", "cpio"),
    ("xz", "xz-utils"),
    ("dpkg-deb", "dpkg"),
];

/// Sees to it that they are there, and that apt knows the kernel.
pub fn prepare() -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(name, _)| !is_installed(name)).map(|(_, package)| *package).collect();
    let knows_kernel = succeeds(Command::new("apt-cache").args(["show", SERIES]));
    if missing.is_empty() && knows_kernel {
        return Ok(());
    }
    let install = format!("apt-get update && apt-get install {}", missing.join(" "));
    if !succeeds(Command::new("sh").args(["-c", "[ $(id -u) = 0 ] && command -v apt-get"])) {
        bail!("Linux guests need some of Debian's packages; as root: {install}");
    }
    eprintln!("for Linux guests: {install}");
    apt(&["update", "-q"])?;
    if !missing.is_empty() {
        let options = ["install", "-qy", "--no-install-recommends"];
        apt(&[&options, missing.as_slice()].concat())?;
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("apt-get can't be started")?;
    ensure!(status.success(), "apt-get {} failed", arguments.join(" "));
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(Path::new(program)).is_file())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
