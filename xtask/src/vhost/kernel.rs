//! The kernel of the virtual host: Debian's, as it is packaged.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::tool;

/// A meta package that depends on the newest kernel of its series.
pub const SERIES: &str = "linux-image-6.12-cloud-amd64";

/// An unpacked kernel package.
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// Directory of its modules.
    pub modules: PathBuf,
}

/// Fetches and unpacks the kernel below `directory`, unless it is there.
pub fn fetch(directory: &Path) -> Result<Kernel> {
    let unpacked = directory.join("kernel");
    if !unpacked.is_dir() {
        let work = directory.join("kernel.unfinished");
        if work.exists() {
            fs::remove_dir_all(&work).context("an unfinished kernel can't be removed")?;
        }
        fs::create_dir_all(work.join("package")).context("the kernel has no place")?;
        let package = newest()?;
        eprintln!("fetching {package} for the virtual KVM host");
        let mut download = Command::new("apt-get");
        download.args(["download", "-qq", "-o", "APT::Sandbox::User=root", &package]);
        tool(download.current_dir(work.join("package")), "apt")?;
        let file = only_entry(&work.join("package"))?;
        let mut unpack = Command::new("dpkg-deb");
        tool(unpack.arg("-x").arg(&file).arg(work.join("files")), "dpkg")?;
        fs::rename(work.join("files"), &unpacked).context("the kernel can't be renamed")?;
        fs::remove_dir_all(&work).context("the kernel's package can't be removed")?;
    }
    let image = fs::read_dir(unpacked.join("boot"))
        .context("the kernel's package has no /boot")?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("vmlinuz"))
        .context("the kernel's package has no vmlinuz")?;
    Ok(Kernel { image, modules: only_entry(&unpacked.join("lib/modules"))? })
}

/// The package that the meta package stands for.
fn newest() -> Result<String> {
    let output = tool(Command::new("apt-cache").args(["depends", SERIES]), "apt")?;
    let output = String::from_utf8_lossy(&output);
    output
        .lines()
        .find_map(|line| Some(line.trim().strip_prefix("Depends: ")?.trim().to_owned()))
        .with_context(|| format!("apt knows no {SERIES}; run apt-get update (Debian 12 or newer)"))
}

fn only_entry(directory: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(directory)
        .with_context(|| format!("{} can't be read", directory.display()))?;
    let entry = entries.next().with_context(|| format!("{} is empty", directory.display()))?;
    Ok(entry?.path())
}
