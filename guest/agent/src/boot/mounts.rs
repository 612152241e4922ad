//! File systems: those that the kernel makes, and those on disks.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};

use super::{Cmdline, Error, doing};
use crate::log;

const ROOT_DISK: &str = "/dev/vda";
/// How long a disk is waited for: drivers look for theirs while the agent already runs.
const PATIENCE: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(1);

/// File system type, directory, options, and whether it may hold devices and programs.
type Kernel = (&'static str, &'static str, &'static str, MsFlags);

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);
/// What the agent needs itself. These move with it to another root.
const FIRST: [Kernel; 3] = [
    ("proc", "/proc", "", PLAIN),
    ("sysfs", "/sys", "", PLAIN),
    ("devtmpfs", "/dev", "mode=0755", MsFlags::MS_NOSUID),
];
/// What programs need. Group 5 is `tty`.
const THEN: [Kernel; 4] = [
    (
        "devpts",
        "/dev/pts",
        "gid=5,mode=620,ptmxmode=666",
        MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
    ),
    ("tmpfs", "/dev/shm", "mode=1777", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV)),
    ("tmpfs", "/run", "mode=0755", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV)),
    ("tmpfs", "/tmp", "mode=1777", MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV)),
];
/// Names in /dev that shells count on, and what they stand for.
const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Mounts what the agent needs itself.
pub fn first() -> Result<(), Error> {
    FIRST.iter().try_for_each(kernel)
}

/// Mounts what programs need.
pub fn then() -> Result<(), Error> {
    THEN.iter().try_for_each(kernel)?;
    for (name, target) in LINKS {
        match symlink(target, name) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(doing(format!("making {name}"))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn kernel((kind, directory, options, flags): &Kernel) -> Result<(), Error> {
    mount_at(kind, kind, directory, *flags, options)
}

/// Makes the root disk, with an overlay in memory to be written to, the root, if there is one.
pub fn enter_root(cmdline: &Cmdline) -> Result<(), Error> {
    let Some(kind) = &cmdline.root else { return Ok(()) };
    if !appears(ROOT_DISK) {
        return Ok(());
    }
    mount_at(ROOT_DISK, kind, "/lower", MsFlags::MS_RDONLY, "")?;
    let size = cmdline.overlay.as_ref().map_or(String::new(), |size| format!(",size={size}"));
    mount_at("tmpfs", "tmpfs", "/upper", MsFlags::empty(), &format!("mode=0755{size}"))?;
    make_directory("/upper/files")?;
    make_directory("/upper/work")?;
    let layers = "lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work";
    mount_at("overlay", "overlay", "/root", MsFlags::empty(), layers)?;
    for (_, directory, ..) in FIRST {
        move_to(directory, &format!("/root{directory}"))?;
    }
    switch_root("/root").map_err(doing("entering the root disk"))
}

/// Mounts the other disks. One that can't be is reported: the host can still look into it.
pub fn disks(cmdline: &Cmdline) {
    for disk in &cmdline.disks {
        // What does not appear fails to mount, and says so.
        appears(&disk.device);
        let flags = if disk.read_only { MsFlags::MS_RDONLY } else { MsFlags::empty() };
        if let Err(error) = mount_at(&disk.device, &disk.kind, &disk.directory, flags, "") {
            log::error(error);
        }
    }
}

/// Whether the device is there, or comes soon.
fn appears(device: &str) -> bool {
    let until = Instant::now() + PATIENCE;
    while !Path::new(device).exists() {
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(TICK);
    }
    true
}

/// Mounts in a directory that is made if it is not there. What is mounted there already, by
/// a kernel that does it itself, stays.
fn mount_at(
    source: &str,
    kind: &str,
    directory: &str,
    flags: MsFlags,
    options: &str,
) -> Result<(), Error> {
    make_directory(directory)?;
    match mount(Some(source), directory, Some(kind), flags, Some(options)) {
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(doing(format!("mounting {source} ({kind}) at {directory}"))(error)),
    }
}

fn make_directory(path: &str) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(doing(format!("making {path}")))
}

fn move_to(from: &str, to: &str) -> Result<(), Error> {
    make_directory(to)?;
    mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
        .map_err(doing(format!("moving {from} to {to}")))
}

/// The way of switch_root(8): the first root can't be unmounted, but mounted over.
fn switch_root(root: &str) -> nix::Result<()> {
    chdir(root)?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    chroot(".")?;
    chdir("/")
}
