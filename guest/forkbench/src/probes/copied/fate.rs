//! Tests of behaviour: a child changes something, and the parent sees it or not.

use std::env;
use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::sys::stat::{Mode, umask};
use nix::unistd::chdir;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Thing;
use crate::child::Partner;
use crate::failure::{During, Failure};
use crate::pages::PAGE;
use crate::region::Region;
use crate::rows::{Backing, Density, Fate, Memory};

const BYTES: u64 = 2 << 20;
const VARIABLE: &str = "TINE_FORKBENCH_TEST";

/// What becomes of a thing, and how that was found.
pub fn test(thing: Thing) -> Result<(Fate, &'static str), Failure> {
    let (fate, how) = match thing {
        Thing::Process => (process()?, "the child changes its name"),
        Thing::Memory => (memory()?, "the child says that its memory may not be dumped"),
        Thing::Mappings => (mappings()?, "the child makes a mapping read-only"),
        Thing::Tables => (tables()?, "the child drops a page (MADV_DONTNEED)"),
        Thing::Descriptors => (descriptors()?, "the child closes a file"),
        Thing::Handlers => (handlers()?, "the child ignores a signal"),
        Thing::Credentials => {
            (credentials()?, "the child keeps its capabilities (PR_SET_KEEPCAPS)")
        }
        Thing::Limits => (limits()?, "the child lowers its limit of descriptors"),
        Thing::Mask => (mask()?, "the child changes its umask"),
        Thing::Environment => (environment()?, "the child sets a variable"),
        Thing::Frames => (
            frames()?,
            "smaps of the child: all is shared at first; when it has written a page, one is its own, \
             and the parent does not see the write",
        ),
        Thing::Files => (files()?, "the child moves the offset of a file (lseek)"),
        Thing::Directory => (directory()?, "the child changes its working directory"),
    };
    Ok((fate, how))
}

/// A child does `change`; who looks sees it in the child. Does the parent see it?
fn fate<T: Serialize + DeserializeOwned + PartialEq + Debug>(
    what: &str,
    look: impl Fn() -> Result<T, Failure>,
    change: impl FnOnce() -> Result<(), Failure>,
) -> Result<Fate, Failure> {
    let before = look()?;
    let partner = Partner::fork(|line| {
        change()?;
        line.tell(&look()?)
    })?;
    let changed: T = partner.answer(&format!("change its {what}"))?;
    let after = look()?;
    if changed == before {
        return Err(Failure::Wrong {
            what: format!("the {what} of a child that changed it"),
            found: format!("{changed:?} as before"),
            expected: "what it changed it to".into(),
        });
    }
    match after {
        after if after == before => Ok(Fate::Copied),
        after if after == changed => Ok(Fate::Shared),
        after => Err(Failure::Wrong {
            what: format!("the {what} of a parent"),
            found: format!("{after:?}"),
            expected: format!("{before:?} or {changed:?}"),
        }),
    }
}

fn process() -> Result<Fate, Failure> {
    const NAME: &str = "/proc/thread-self/comm";
    let look = || fs::read_to_string(NAME).during(&format!("reading {NAME}"));
    fate("name", look, || fs::write(NAME, "changed").during(&format!("writing {NAME}")))
}

fn memory() -> Result<Fate, Failure> {
    let look = || prctl(libc::PR_GET_DUMPABLE, 0);
    let other = libc::c_ulong::from(look()? == 0);
    fate("dumpable memory", look, || prctl(libc::PR_SET_DUMPABLE, other).map(drop))
}

fn mappings() -> Result<Fate, Failure> {
    let region = small()?;
    let start = format!("{:x}-", region.address());
    let look = || {
        let maps = fs::read_to_string("/proc/self/maps").during("reading /proc/self/maps")?;
        let line = maps.lines().find(|line| line.starts_with(&start));
        Ok(line.and_then(|line| line.split(' ').nth(1)).map(str::to_owned))
    };
    fate("mapping", look, || {
        // SAFETY: nothing writes to the region in this child any more.
        unsafe { mprotect(region.pointer(), region.bytes(), ProtFlags::PROT_READ) }
            .during("mprotect")
    })
}

fn tables() -> Result<Fate, Failure> {
    let region = small()?;
    fate(
        "page",
        || Ok(region.read(3)),
        || {
            // SAFETY: the page is in the region, which holds no references.
            unsafe { madvise(region.pointer().add(3 * PAGE), PAGE, MmapAdvise::MADV_DONTNEED) }
                .during("MADV_DONTNEED")
        },
    )
}

fn descriptors() -> Result<Fate, Failure> {
    let file = empty()?;
    let descriptor = file.as_raw_fd();
    fate(
        "descriptor",
        || Ok(is_open(descriptor)),
        || {
            // SAFETY: the child owns its copy of the descriptor, and never drops `file`: it leaves.
            Errno::result(unsafe { libc::close(descriptor) }).map(drop).during("close")
        },
    )
}

fn is_open(descriptor: RawFd) -> bool {
    // SAFETY: it reads a flag, if there is such a descriptor.
    unsafe { libc::fcntl(descriptor, libc::F_GETFD) != -1 }
}

fn handlers() -> Result<Fate, Failure> {
    let look = || {
        // SAFETY: zeroes are a value of it; with no new handler, the kernel only tells the old one.
        let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let told = unsafe { libc::sigaction(libc::SIGUSR2, std::ptr::null(), &mut old) };
        Errno::result(told).during("sigaction")?;
        Ok(old.sa_sigaction)
    };
    let other = if look()? == libc::SIG_IGN { SigHandler::SigDfl } else { SigHandler::SigIgn };
    fate("signal handler", look, || {
        // SAFETY: neither to ignore it nor to end for it runs any code.
        unsafe { signal(Signal::SIGUSR2, other) }.map(drop).during("sigaction")
    })
}

fn credentials() -> Result<Fate, Failure> {
    let look = || prctl(libc::PR_GET_KEEPCAPS, 0);
    let other = libc::c_ulong::from(look()? == 0);
    fate("credentials", look, || prctl(libc::PR_SET_KEEPCAPS, other).map(drop))
}

fn limits() -> Result<Fate, Failure> {
    let look = || getrlimit(Resource::RLIMIT_NOFILE).during("getrlimit");
    fate("limit", look, || {
        let (soft, hard) = look()?;
        setrlimit(Resource::RLIMIT_NOFILE, soft - 1, hard).during("setrlimit")
    })
}

fn mask() -> Result<Fate, Failure> {
    let look = || {
        let status = fs::read_to_string("/proc/self/status").during("reading /proc/self/status")?;
        Ok(status.lines().find(|line| line.starts_with("Umask:")).map(str::to_owned))
    };
    fate("umask", look, || {
        let old = umask(Mode::S_IRWXO);
        umask(old ^ Mode::S_IRWXO);
        Ok(())
    })
}

fn environment() -> Result<Fate, Failure> {
    fate(
        "environment",
        || Ok(env::var_os(VARIABLE).is_some()),
        || {
            // SAFETY: a child of fork has one thread.
            unsafe { env::set_var(VARIABLE, "1") };
            Ok(())
        },
    )
}

fn frames() -> Result<Fate, Failure> {
    let region = small()?;
    let word = region.read(3);
    let partner = Partner::fork(|line| {
        let before = region.memory()?;
        region.write(3, !word);
        line.tell(&(before, region.memory()?))
    })?;
    let (before, after): (Memory, Memory) = partner.answer("write a page")?;
    if region.read(3) != word {
        return Err(Failure::Wrong {
            what: "a word of a parent whose child wrote to its own".into(),
            found: "what the child wrote".into(),
            expected: "as it was".into(),
        });
    }
    let (shared, own) = (before.shared_bytes, after.private_dirty_bytes);
    match (shared, before.private_dirty_bytes, own) {
        (BYTES, 0, own) if own == PAGE as u64 => Ok(Fate::Shared),
        (0, BYTES, BYTES) => Ok(Fate::Copied),
        found => Err(Failure::Wrong {
            what: "a child's memory: shared, its own, its own after one write".into(),
            found: format!("{found:?}"),
            expected: format!("({BYTES}, 0, {PAGE})"),
        }),
    }
}

fn files() -> Result<Fate, Failure> {
    let file = empty()?;
    let look = || (&file).stream_position().during("lseek");
    fate("offset", look, || (&file).seek(SeekFrom::Start(7)).map(drop).during("lseek"))
}

fn directory() -> Result<Fate, Failure> {
    let look = || env::current_dir().during("getcwd");
    let other = if look()?.as_os_str() == "/proc" { "/" } else { "/proc" };
    fate("working directory", look, || chdir(other).during("chdir"))
}

fn small() -> Result<Region, Failure> {
    Region::filled(BYTES, Backing::Small, Density::Dense)
}

fn empty() -> Result<File, Failure> {
    memfd_create("offset", MFdFlags::MFD_CLOEXEC).map(File::from).during("memfd_create")
}

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> Result<i32, Failure> {
    // SAFETY: the options that are used here take one number and touch no memory.
    Errno::result(unsafe { libc::prctl(option, argument, 0, 0, 0) }).during("prctl")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shared_is_told_from_what_is_copied() {
        let page = crate::shared::Shared::new().unwrap();
        let slot = crate::shared::Slot::Started;
        let shared = fate(
            "page",
            || Ok(page.get(slot)),
            || {
                page.put(slot, 5);
                Ok(())
            },
        );
        assert_eq!(shared.unwrap(), Fate::Shared);
        let cell = std::cell::Cell::new(1);
        let copied = fate(
            "cell",
            || Ok(cell.get()),
            || {
                cell.set(2);
                Ok(())
            },
        );
        assert_eq!(copied.unwrap(), Fate::Copied);
        let error = fate("cell", || Ok(cell.get()), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("as before"), "{error}");
    }
}
