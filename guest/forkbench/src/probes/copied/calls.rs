//! What it takes to copy each thing: a call that has to, and one that has not, one after the other.

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::Thing;
use crate::child::{Child, Partner};
use crate::clock;
use crate::failure::{During, Failure};
use crate::pages::{PAGE, pick};
use crate::probes::faults::{Written, write};
use crate::region::Region;
use crate::rows::{Backing, Density, Order};

/// Size of the region whose page tables are copied.
pub const TABLES_BYTES: u64 = 64 << 20;
/// How many more mappings or descriptors.
pub const MORE: usize = 1000;

/// A child that shares all that it can with its parent.
const SHARING: i32 = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND;
/// Stack of such a child, which does nothing.
const STACK: usize = 16 << 10;

/// Times of calls that copy, and of those that do not.
#[derive(Default)]
pub struct Calls {
    pub with_us: Vec<f64>,
    pub without_us: Vec<f64>,
    pub how: &'static str,
}

/// Times calls that have to copy a thing, and calls that have not.
pub fn time(thing: Thing, rounds: usize) -> Result<Calls, Failure> {
    let other = |flag: i32| rounds_of(rounds, || clone(SHARING & !flag), || clone(SHARING));
    let (mut calls, how) = match thing {
        Thing::Process => (
            rounds_of(rounds, || clone(SHARING), || Ok(0.0))?,
            "a clone that shares all else (CLONE_VM, _FS, _FILES, _SIGHAND); nothing is without",
        ),
        Thing::Memory => {
            let shared = libc::CLONE_FS | libc::CLONE_FILES;
            let calls = rounds_of(rounds, || clone(shared), || clone(shared | libc::CLONE_VM))?;
            (calls, "a clone without CLONE_VM, and one with")
        }
        Thing::Mappings => {
            let with = || {
                let _mappings = Mappings::new()?;
                fork()
            };
            (rounds_of(rounds, with, fork)?, "a fork with 1,000 more mappings, and one without")
        }
        Thing::Tables => {
            let region = Region::filled(TABLES_BYTES, Backing::Small, Density::Dense)?;
            let without = || {
                let _left_out = region.left_out()?;
                fork()
            };
            (
                rounds_of(rounds, fork, without)?,
                "a fork with 64 MiB, and one without (MADV_DONTFORK)",
            )
        }
        Thing::Descriptors => {
            let _files = open_files()?;
            (other(libc::CLONE_FILES)?, "a clone without CLONE_FILES, and one with")
        }
        Thing::Handlers => {
            (other(libc::CLONE_SIGHAND)?, "a clone without CLONE_SIGHAND, and one with")
        }
        Thing::Directory => (
            other(libc::CLONE_FS)?,
            "a clone without CLONE_FS, and one with: file mode mask and all",
        ),
        Thing::Mask => {
            (Calls::default(), "not measured: it is in one structure with the working directory")
        }
        Thing::Frames => (
            writes(rounds)?,
            "a child's write to a page that it shares, and a write to a page of its own",
        ),
        Thing::Credentials => {
            (Calls::default(), "not measured: every clone of a process copies them")
        }
        Thing::Limits => {
            (Calls::default(), "not measured: they are a part of the process's own block")
        }
        Thing::Environment => (Calls::default(), "not measured: it is memory like other memory"),
        Thing::Files => (Calls::default(), "nothing to measure: they are not copied"),
    };
    calls.how = how;
    if thing == Thing::Process {
        calls.without_us.clear();
    }
    Ok(calls)
}

fn rounds_of(
    rounds: usize,
    mut with: impl FnMut() -> Result<f64, Failure>,
    mut without: impl FnMut() -> Result<f64, Failure>,
) -> Result<Calls, Failure> {
    let mut calls = Calls::default();
    // The first round warms up.
    for round in 0..=rounds {
        // Neither always comes first.
        let pair = if round % 2 == 0 {
            (with()?, without()?)
        } else {
            let first = without()?;
            (with()?, first)
        };
        if round > 0 {
            calls.with_us.push(pair.0);
            calls.without_us.push(pair.1);
        }
    }
    Ok(calls)
}

/// The time of a `clone` with `flags`, whose child does nothing.
fn clone(flags: i32) -> Result<f64, Failure> {
    extern "C" fn nothing(_: *mut c_void) -> libc::c_int {
        0
    }
    let mut stack = vec![0u128; STACK / size_of::<u128>()];
    let top = stack.as_mut_ptr_range().end.cast::<c_void>();
    let flags = flags | libc::SIGCHLD;
    let began = clock::now();
    // SAFETY: the child runs on a stack of its own, which is aligned and lives until it is waited
    // for. It touches no memory but that, so that it may share it with this process.
    let pid = unsafe { libc::clone(nothing, top, flags, std::ptr::null_mut()) };
    let returned = clock::now();
    Child::new(Errno::result(pid).during("clone")?).wait("do nothing")?;
    Ok(clock::microseconds(began, returned))
}

/// The time of a `fork`.
fn fork() -> Result<f64, Failure> {
    let partner = Partner::fork(|_| Ok(()))?;
    let us = clock::microseconds(partner.began, partner.returned);
    partner.end("do nothing")?;
    Ok(us)
}

/// The time of a write to a page: shared with the parent, and not.
fn writes(rounds: usize) -> Result<Calls, Failure> {
    const PAGES: f64 = 512.0;
    let region = Region::filled(2 << 20, Backing::Small, Density::Dense)?;
    let pages = pick(region.pages(), 1.0, Order::Sequential);
    let work = || {
        // The second time they are its own.
        let times = (write(&region, &pages)?, write(&region, &pages)?);
        Ok::<_, Failure>(times)
    };
    let mut calls = Calls::default();
    for _ in 0..rounds {
        let times: (Written, Written) =
            Partner::fork(|line| line.tell(&work()?))?.answer("write pages")?;
        calls.with_us.push(times.0.us / PAGES);
        calls.without_us.push(times.1.us / PAGES);
    }
    Ok(calls)
}

/// A thousand mappings that can't be one.
pub struct Mappings {
    address: NonNull<c_void>,
}

impl Mappings {
    const BYTES: usize = MORE * PAGE;

    pub fn new() -> Result<Self, Failure> {
        let bytes = NonZeroUsize::new(Self::BYTES).ok_or(Errno::EINVAL).during("mmap")?;
        // SAFETY: it replaces no mapping.
        let mapped =
            unsafe { mmap_anonymous(None, bytes, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) };
        let mappings = Self { address: mapped.during("mmap")? };
        for page in (1..MORE).step_by(2) {
            // SAFETY: the page is in the mapping, which nothing uses.
            unsafe { mprotect(mappings.address.add(page * PAGE), PAGE, ProtFlags::PROT_READ) }
                .during("mprotect; /proc/sys/vm/max_map_count may be too low")?;
        }
        Ok(mappings)
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: nothing uses the mappings.
        let unmapped = unsafe { munmap(self.address, Self::BYTES) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A thousand open files.
pub fn open_files() -> Result<Vec<File>, Failure> {
    let file: File = memfd_create("many", MFdFlags::MFD_CLOEXEC).during("memfd_create")?.into();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    (0..MORE)
        .map(|_| File::open(&path).during("opening 1,000 files; `ulimit -n` may be too low"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_thousand_mappings_are_a_thousand() {
        let count = || fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let before = count();
        let mappings = Mappings::new().unwrap();
        assert!((990..1010).contains(&(count() - before)));
        drop(mappings);
        assert!(count() < before + 10);
        assert_eq!(open_files().unwrap().len(), 1000);
    }
}
