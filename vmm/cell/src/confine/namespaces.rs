//! Namespaces of a cell's own, an empty root, and a user who is nobody else.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::Mode;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::UnshareFlags;

use super::{ConfineError, failed};

/// First of the user ids that cells get where they may choose: far above those that people and
/// containers have.
const FIRST_USER: u32 = 0x7f00_0000;
/// Who a cell is in its own user namespace: nobody.
const NOBODY: u32 = 65534;
/// Where the empty root is mounted before it is the root; every system has that directory.
const STAGE: &str = "/proc";

/// Whom the process belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    user: u32,
    group: u32,
    /// Whether nobody but a privileged keeper needs to look into /proc/PID of the cell.
    is_own: bool,
}

impl Owner {
    pub(super) fn of_this_process() -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { user, group: rustix::process::getegid().as_raw(), is_own: false }
    }

    /// Whether nobody else has its user id.
    pub(super) fn is_own(self) -> bool {
        self.is_own
    }

    /// Closes /proc/PID of this process to others of the same user, where its keeper may look
    /// all the same.
    pub(super) fn hide(self) -> io::Result<()> {
        if self.is_own {
            rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        }
        Ok(())
    }

    /// Becomes a user of its own, where it may.
    fn become_own(self) -> Result<Self, ConfineError> {
        if self.user != 0 {
            return Ok(self);
        }
        let id = FIRST_USER + rustix::process::getpid().as_raw_nonzero().get() as u32;
        let (uid, gid) = (rustix::thread::Uid::from_raw(id), rustix::thread::Gid::from_raw(id));
        rustix::thread::set_thread_groups(&[]).map_err(failed("leaving all groups"))?;
        match rustix::thread::set_thread_res_gid(gid, gid, gid) {
            Ok(()) => {}
            // In a container that has not so many: it stays who it is.
            Err(rustix::io::Errno::INVAL) => return Ok(self),
            Err(error) => return Err(failed("changing the group")(error)),
        }
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(failed("changing the user"))?;
        Ok(Self { user: id, group: id, is_own: true })
    }
}

/// Moves this process into namespaces of its own, with nothing in them; the network namespace is
/// the warden's, which has nothing in it either: one for each would take 190 KiB of the host.
pub(super) fn enter(owner: Owner) -> Result<Owner, ConfineError> {
    let owner = owner.become_own()?;
    // Another user's process is closed to itself: it has to write to its own /proc/self.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
        .map_err(failed("opening /proc/self"))?;
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the file descriptor table is not among what is unshared.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|source| ConfineError::Step {
        step: "making namespaces",
        hint: "; may users make user namespaces here (kernel.unprivileged_userns_clone, \
               user.max_user_namespaces, AppArmor)?",
        source: source.into(),
    })?;
    let write = |path: &'static str, text: String| {
        fs::write(path, text).map_err(failed("mapping the user"))
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("{NOBODY} {} 1", owner.user))?;
    write("/proc/self/gid_map", format!("{NOBODY} {} 1", owner.group))?;
    empty_root().map_err(failed("making an empty root"))?;
    Ok(owner)
}

/// Makes a directory with nothing in it, which can't be written, the root.
fn empty_root() -> io::Result<()> {
    use rustix::mount::{mount, mount_change, unmount};
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOEXEC | MountFlags::NODEV | MountFlags::NOSUID;
    mount("none", STAGE, "tmpfs", flags, Some(c"size=4k,nr_inodes=2,mode=0500"))?;
    rustix::process::chdir(STAGE)?;
    rustix::process::pivot_root(Path::new("."), Path::new("."))?;
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_bits_truncate(0o777));
    Ok(())
}
