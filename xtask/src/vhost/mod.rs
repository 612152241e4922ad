//! `cargo xtask vhost -- CMD`: runs CMD in a virtual KVM host.
//!
//! Where guests' ring 0 is emulated one instruction at a time, no Linux kernel runs in a
//! guest. So QEMU emulates a whole AMD machine with SVM, Debian's own kernel loads its
//! own `kvm_amd` in it, and tine runs there: slowly, but on the real thing.
//!
//! `root` is what is inside, `machine` the emulated machine, `init` its first program, and
//! `tools` what this host needs for it.

mod init;
mod kernel;
mod machine;
mod root;
mod tools;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

pub use machine::Output;

use machine::Machine;
use root::Root;

use crate::run::cargo;

/// A virtual KVM host, not started yet.
pub struct Vhost {
    directory: PathBuf,
    root: Root,
}

impl Vhost {
    /// Gets all that it needs, once.
    pub fn prepare() -> Result<Self> {
        let directory = target_directory()?.join("vhost");
        std::fs::create_dir_all(&directory)
            .with_context(|| format!("{} can't be made", directory.display()))?;
        let root = Root::stage(&directory.join("root"))?;
        Ok(Self { directory, root })
    }

    /// Puts the program `file` there, with the libraries that it needs.
    pub fn add_program(&self, file: &Path) -> Result<()> {
        self.root.add_program(file)
    }

    /// Puts the image store of this user there.
    pub fn add_images(&self) -> Result<()> {
        self.root.add_images(&image_store()?)
    }

    /// Runs `command` in it, its output going to `output`. Returns its exit code.
    pub fn run(&self, command: &[OsString], output: Output<'_>) -> Result<u8> {
        let kernel = kernel::fetch(&self.directory)?;
        let disk = self.root.pack(command, &self.directory.join("root.erofs"))?;
        let initramfs = init::initramfs(&kernel, &self.directory.join("initramfs.cpio"))?;
        let log = self.directory.join("console.log");
        let machine = Machine::start(&kernel.image, &initramfs, &disk, &log)?;
        machine.wait(output).with_context(|| {
            format!("the virtual KVM host failed; its console is in {}", log.display())
        })
    }
}

/// Runs `command` in a virtual KVM host with the release `tine` and the images at hand.
pub fn run(command: &[&str]) -> Result<ExitCode> {
    ensure!(!command.is_empty(), "which command? cargo xtask vhost -- tine doctor");
    build_release()?;
    build_images()?;
    let vhost = Vhost::prepare()?;
    vhost.add_program(&target_directory()?.join("release/tine"))?;
    vhost.add_images()?;
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let code = vhost.run(&command, Output { out: &mut out, err: &mut err })?;
    Ok(ExitCode::from(code))
}

fn build_release() -> Result<()> {
    let status = cargo()
        .args(["build", "--release", "--quiet", "-p", "tine"])
        .stdin(Stdio::null())
        .status()
        .context("cargo can't be started")?;
    ensure!(status.success(), "tine does not build");
    Ok(())
}

/// Where images are kept: as `tine image` has it.
fn image_store() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(store) = variable("TINE_IMAGES") {
        return Ok(store.into());
    }
    let cache = match variable("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(variable("HOME").context("no home directory")?).join(".cache"),
    };
    Ok(cache.join("tine/images"))
}

/// Builds the images that tests and trials use, unless they are there.
pub fn build_images() -> Result<()> {
    tools::prepare()?;
    for image in ["base", "redis"] {
        let status = cargo()
            .args(["run", "-p", "tine", "--", "image", "build", image])
            .stdin(Stdio::null())
            .status()
            .context("cargo can't be started")?;
        ensure!(status.success(), "the image {image} can't be built");
    }
    Ok(())
}

/// Where cargo builds to.
pub fn target_directory() -> Result<PathBuf> {
    let output = cargo()
        .args(["metadata", "--format-version=1", "--no-deps"])
        .stderr(Stdio::inherit())
        .output()
        .context("cargo can't be started")?;
    ensure!(output.status.success(), "cargo metadata failed");
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("cargo metadata makes no sense")?;
    let directory = metadata["target_directory"].as_str().context("no target directory")?;
    Ok(PathBuf::from(directory))
}

/// Runs `command`; an error that names `package` when its program is not installed.
fn tool(command: &mut Command, package: &str) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::bail!("{name} is missing; install it: apt-get install {package}")
        }
        output => output.with_context(|| format!("{name} can't be started"))?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name} failed: {}", said.trim());
    Ok(output.stdout)
}
