//! What code that has taken over a cell would try: each attempt succeeds without confinement,
//! and is refused, or kills the process, with it. And what a live cell holds, seen from outside.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use common::*;
use tine_cell::confine::{Confinement, Filter, confine};
use tine_cell::{Cell, Nursery};

/// What others must not read; it lies at the same address in all children of this process.
static SECRET: [u8; 16] = *b"nobody reads me!";
/// The real-time signal that cells stop their own threads with.
const KICK: i32 = 34;

/// System call `number`.
fn call(number: i64, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the attempts pass pointers to what lives as long as the call, and each runs in
    // a process of its own.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value as usize),
    }
}

fn at<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

/// Forks a process that does `work` and is gone.
fn forked(work: impl FnOnce()) -> u32 {
    // SAFETY: the child has one thread, and leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", io::Error::last_os_error()),
        0 => {
            work();
            // SAFETY: ends the process.
            unsafe { libc::_exit(0) }
        }
        pid => pid as u32,
    }
}

/// How child `pid` ended.
fn reap(pid: u32) -> ExitStatus {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    assert_eq!(unsafe { libc::waitpid(pid as i32, &mut status, 0) }, pid as i32);
    ExitStatus::from_raw(status)
}

/// A process that does nothing: what is tried is tried on it. Gone when dropped.
struct Victim(Process);

impl Victim {
    fn start() -> Self {
        let pid = forked(|| {
            let kill = [libc::PR_SET_PDEATHSIG as usize, libc::SIGKILL as usize, 0, 0, 0, 0];
            if call(libc::SYS_prctl, kill).is_ok() {
                while call(libc::SYS_pause, [0; 6]).is_err() {}
            }
        });
        Self(Process::find(pid))
    }

    fn pid(&self) -> usize {
        self.0.pid as usize
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.0.kill();
        reap(self.0.pid);
    }
}

/// What attempts work on.
struct Place {
    victim: Victim,
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { victim: Victim::start(), directory: tempfile::tempdir().unwrap() }
    }

    /// A path in the directory.
    fn path(&self, name: &str) -> CString {
        CString::new(self.directory.path().join(name).as_os_str().as_bytes()).unwrap()
    }

    /// A file of the victim in /proc.
    fn of_victim(&self, name: &str) -> CString {
        CString::new(format!("/proc/{}/{name}", self.victim.pid())).unwrap()
    }
}

/// What came of an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Succeeded,
    Refused(i32),
    Killed(i32),
}

/// Does `attempt` in a process of its own, `confined` or not.
fn attempt(attempt: &Attempt, place: &Place, confined: Option<&Filter>) -> Outcome {
    let (reader, writer) = pipe();
    let pid = forked(|| {
        let errno = match confined.map(|filter| confine(Confinement::default(), filter)) {
            Some(Err(_)) => i32::MIN,
            _ => match (attempt.work)(place) {
                Ok(_) => 0,
                Err(error) => error.raw_os_error().unwrap_or(i32::MAX),
            },
        };
        let bytes = errno.to_ne_bytes();
        let _ = call(libc::SYS_write, [writer.as_raw_fd() as usize, at(&bytes), 4, 0, 0, 0]);
    });
    drop(writer);
    let status = reap(pid);
    let mut told = Vec::new();
    fs::File::from(reader).read_to_end(&mut told).unwrap();
    match (status.signal(), told.try_into().map(i32::from_ne_bytes)) {
        (Some(signal), _) => Outcome::Killed(signal),
        // Another program told nothing and ended well.
        (None, Ok(0)) | (None, Err(_)) if status.success() => Outcome::Succeeded,
        (None, Ok(i32::MIN)) => panic!("{}: the process could not be confined", attempt.name),
        (None, Ok(errno)) => Outcome::Refused(errno),
        other => panic!("{}: {other:?}, {status:?}", attempt.name),
    }
}

fn pipe() -> (OwnedFd, OwnedFd) {
    let mut ends = [0; 2];
    // SAFETY: there is room for both, and they are nobody else's.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
    }
}

/// Something that a cell must not do.
struct Attempt {
    name: &'static str,
    /// What it comes to when it is confined.
    confined: Outcome,
    /// Who can do it without confinement.
    by: By,
    work: fn(&Place) -> io::Result<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Anyone,
    /// Root alone: others only show that it is refused.
    Root,
    /// Those whose kernel has it, and has it switched on.
    SomeKernels,
}

const KILLED: Outcome = Outcome::Killed(libc::SIGSYS);
const NOT_THERE: Outcome = Outcome::Refused(libc::ENOENT);

const fn new(
    name: &'static str,
    by: By,
    confined: Outcome,
    work: fn(&Place) -> io::Result<usize>,
) -> Attempt {
    Attempt { name, confined, by, work }
}

fn open(path: &CString, flags: i32) -> io::Result<usize> {
    call(
        libc::SYS_openat,
        [libc::AT_FDCWD as usize, path.as_ptr() as usize, flags as usize, 0o600, 0, 0],
    )
}

/// Reads the victim's secret from its memory file, or fails.
fn read_memory(place: &Place) -> io::Result<usize> {
    let file = open(&place.of_victim("mem"), libc::O_RDONLY)?;
    let mut bytes = [0u8; SECRET.len()];
    let to = bytes.as_mut_ptr() as usize;
    call(libc::SYS_pread64, [file, to, bytes.len(), SECRET.as_ptr() as usize, 0, 0])?;
    if bytes == SECRET { Ok(0) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn attempts() -> Vec<Attempt> {
    use By::{Anyone, Root, SomeKernels};
    vec![
        // Files.
        new("open a file of the host", Anyone, NOT_THERE, |_| {
            call(libc::SYS_open, [c"/etc/passwd".as_ptr() as usize, 0, 0, 0, 0, 0])
        }),
        new("openat a file of the host", Anyone, NOT_THERE, |_| {
            open(&c"/etc/passwd".to_owned(), libc::O_RDONLY)
        }),
        new("openat2 a file of the host", Anyone, KILLED, |_| {
            let how = [0u64; 3];
            let path = c"/etc/passwd".as_ptr() as usize;
            call(libc::SYS_openat2, [libc::AT_FDCWD as usize, path, at(&how), 24, 0, 0])
        }),
        new("look into /proc", Anyone, NOT_THERE, |_| {
            open(&c"/proc/self/status".to_owned(), libc::O_RDONLY)
        }),
        new("create a file", Anyone, NOT_THERE, |place| {
            open(&place.path("new"), libc::O_CREAT | libc::O_WRONLY)
        }),
        new("make a directory", Anyone, KILLED, |place| {
            call(libc::SYS_mkdir, [place.path("below").as_ptr() as usize, 0o700, 0, 0, 0, 0])
        }),
        new("list the directory that it stands in", Anyone, KILLED, |place| {
            let directory = open(&place.path(""), libc::O_RDONLY).unwrap_or(0);
            let mut entries = [0u8; 512];
            let to = entries.as_mut_ptr() as usize;
            call(libc::SYS_getdents64, [directory, to, entries.len(), 0, 0, 0])
        }),
        new("mount", Root, KILLED, |place| {
            let (path, kind) = (place.path(""), c"tmpfs".as_ptr() as usize);
            call(libc::SYS_mount, [kind, path.as_ptr() as usize, kind, 0, 0, 0])?;
            let away = libc::MNT_DETACH as usize;
            call(libc::SYS_umount2, [path.as_ptr() as usize, away, 0, 0, 0, 0])
        }),
        new("chroot", Root, KILLED, |place| {
            call(libc::SYS_chroot, [place.path("").as_ptr() as usize, 0, 0, 0, 0, 0])
        }),
        // Other processes.
        new("read another's memory file", Root, NOT_THERE, read_memory),
        new("read another's memory", Root, KILLED, |place| {
            let mut bytes = [0u8; SECRET.len()];
            let to = [bytes.as_mut_ptr() as usize, bytes.len()];
            let from = [SECRET.as_ptr() as usize, SECRET.len()];
            let victim = place.victim.pid();
            call(libc::SYS_process_vm_readv, [victim, at(&to), 1, at(&from), 1, 0])?;
            if bytes == SECRET { Ok(0) } else { Err(io::ErrorKind::InvalidData.into()) }
        }),
        new("read another's environment", Anyone, NOT_THERE, |place| {
            open(&place.of_victim("environ"), libc::O_RDONLY)
        }),
        new("trace another", Root, KILLED, |place| {
            let attach = libc::PTRACE_SEIZE as usize;
            call(libc::SYS_ptrace, [attach, place.victim.pid(), 0, 0, 0, 0])
        }),
        new("kill another", Anyone, KILLED, |place| {
            call(libc::SYS_kill, [place.victim.pid(), libc::SIGKILL as usize, 0, 0, 0, 0])
        }),
        new("kill another's thread", Anyone, KILLED, |place| {
            let victim = place.victim.pid();
            call(libc::SYS_tgkill, [victim, victim, libc::SIGKILL as usize, 0, 0, 0])
        }),
        // The one signal that the filter lets pass: a user of its own keeps it from others.
        new("stop another cell's thread", Root, Outcome::Refused(libc::EPERM), |place| {
            let victim = place.victim.pid();
            call(libc::SYS_tgkill, [victim, victim, KICK as usize, 0, 0, 0])
        }),
        new("open a handle to another", Anyone, KILLED, |place| {
            call(libc::SYS_pidfd_open, [place.victim.pid(), 0, 0, 0, 0, 0])
        }),
        new("set another's limits", Root, KILLED, |place| {
            let limit = [64u64; 2];
            let files = libc::RLIMIT_NOFILE as usize;
            call(libc::SYS_prlimit64, [place.victim.pid(), files, at(&limit), 0, 0, 0])
        }),
        new("set limits that lie where 32 bits of the address are zero", Anyone, KILLED, |_| {
            let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let place = 0x77 << 32;
            let nowhere = usize::MAX;
            call(libc::SYS_mmap, [place, 4096, access as usize, fixed as usize, nowhere, 0])?;
            call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE as usize, place, 0, 0, 0])
        }),
        // Becoming another.
        new("run a program", Anyone, KILLED, |_| {
            let path = c"/bin/true".as_ptr() as usize;
            let (arguments, environment) = ([path, 0], [0usize]);
            call(libc::SYS_execve, [path, at(&arguments), at(&environment), 0, 0, 0])
        }),
        new("be root", Root, KILLED, |_| call(libc::SYS_setuid, [0; 6])),
        new("be dumped", Anyone, KILLED, |_| {
            call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0])
        }),
        new("have a user namespace", Anyone, KILLED, |_| {
            call(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0])
        }),
        new("have a child in a user namespace", Anyone, KILLED, |_| {
            let flags = (libc::CLONE_NEWUSER | libc::SIGCHLD) as usize;
            match call(libc::SYS_clone, [flags, 0, 0, 0, 0, 0])? {
                0 => call(libc::SYS_exit_group, [0; 6]),
                child => call(libc::SYS_wait4, [child, 0, 0, 0, 0, 0]),
            }
        }),
        new("have a child of its own", Anyone, KILLED, |_| {
            match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0])? {
                0 => call(libc::SYS_exit_group, [0; 6]),
                child => call(libc::SYS_wait4, [child, 0, 0, 0, 0, 0]),
            }
        }),
        // The network.
        new("have an internet socket", Anyone, KILLED, |_| {
            let (family, kind) = (libc::AF_INET as usize, libc::SOCK_STREAM as usize);
            call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])
        }),
        new("have a Unix socket", Anyone, KILLED, |_| {
            let (family, kind) = (libc::AF_UNIX as usize, libc::SOCK_STREAM as usize);
            call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])
        }),
        new("speak with the kernel's network", Anyone, KILLED, |_| {
            let (family, kind) = (libc::AF_NETLINK as usize, libc::SOCK_RAW as usize);
            call(libc::SYS_socket, [family, kind, 0, 0, 0, 0])
        }),
        // The large surfaces of the kernel.
        new("bpf", SomeKernels, KILLED, |_| {
            // An array of one word.
            let mut attributes = [0u32; 18];
            attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
            call(libc::SYS_bpf, [0, at(&attributes), size_of_val(&attributes), 0, 0, 0])
        }),
        new("count events", SomeKernels, KILLED, |_| {
            // The software clock, of this thread.
            let mut attributes = [0u32; 32];
            attributes[..2].copy_from_slice(&[1, 128]);
            call(libc::SYS_perf_event_open, [at(&attributes), 0, usize::MAX, usize::MAX, 0, 0])
        }),
        new("io_uring", SomeKernels, KILLED, |_| {
            let parameters = [0u32; 30];
            call(libc::SYS_io_uring_setup, [4, at(&parameters), 0, 0, 0, 0])
        }),
        new("keys", SomeKernels, KILLED, |_| {
            // Its session's.
            call(libc::SYS_keyctl, [0, -3isize as usize, 1, 0, 0, 0])
        }),
        new("userfaultfd", SomeKernels, Outcome::Refused(libc::EPERM), |_| {
            call(libc::SYS_userfaultfd, [libc::O_CLOEXEC as usize, 0, 0, 0, 0, 0])
        }),
        new("own signals of a descriptor", Anyone, KILLED, |place| {
            let (reader, _writer) = pipe();
            let own = libc::F_SETOWN as usize;
            call(libc::SYS_fcntl, [reader.as_raw_fd() as usize, own, place.victim.pid(), 0, 0, 0])
        }),
        new("system calls of 32 bits", SomeKernels, KILLED, |_| {
            let pid: i64;
            // SAFETY: getpid of the old interface, which changes nothing but registers.
            unsafe {
                std::arch::asm!("int 0x80", inlateout("rax") 20i64 => pid,
                    out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            if pid > 0 { Ok(0) } else { Err(io::Error::from_raw_os_error(libc::ENOSYS)) }
        }),
        new("system calls of x32", SomeKernels, KILLED, |_| {
            call(libc::SYS_getpid | 0x4000_0000, [0; 6])
        }),
    ]
}

#[test]
fn what_succeeds_outside_is_refused_in_a_cell() {
    let filter = Filter::new().unwrap();
    let is_root = rustix::process::geteuid().is_root();
    let mut wrong = Vec::new();
    for one in attempts() {
        let place = Place::new();
        let inside = attempt(&one, &place, Some(&filter));
        // Root alone gives cells users of their own.
        if inside != one.confined && (is_root || one.by != By::Root) {
            wrong.push(format!("{}: {inside:?} in a cell, not {:?}", one.name, one.confined));
        }
        assert!(!place.victim.0.is_gone(), "{}: the other process is gone", one.name);
        assert_eq!(fs::read_dir(place.directory.path()).unwrap().count(), 0, "{}", one.name);
        let outside = match one.by {
            By::Root if !is_root => {
                println!("{}: what root can is not shown", one.name);
                continue;
            }
            _ => attempt(&one, &place, None),
        };
        match (one.by, outside) {
            (_, Outcome::Succeeded) => {}
            (By::SomeKernels, outside) => println!("{}: {outside:?} here", one.name),
            (_, outside) => wrong.push(format!("{}: {outside:?} without a cell", one.name)),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A cell, one forked from it, and another.
fn live_cells(nursery: &Nursery) -> Vec<(&'static str, Cell)> {
    let snapshot = template(nursery, 64, 2);
    let parent = spawn(nursery, &snapshot);
    let child = fork(nursery, &parent, 2).pop().unwrap();
    let other = spawn(nursery, &snapshot);
    vec![("a clone", parent), ("a fork", child), ("another clone", other)]
}

#[test]
fn a_live_cell_has_no_powers_and_its_own_namespaces() {
    let nursery = nursery(0);
    let cells = live_cells(&nursery);
    let mut namespaces = BTreeSet::new();
    let namespace = |pid: u32, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    for (who, cell) in &cells {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status_of(cell.pid(), set).unwrap(), "0000000000000000", "{who}: {set}");
        }
        assert_eq!(status_of(cell.pid(), "NoNewPrivs").unwrap(), "1", "{who}");
        assert_eq!(status_of(cell.pid(), "Seccomp").unwrap(), "2", "{who}");
        assert_eq!(status_of(cell.pid(), "Groups").unwrap(), "", "{who}");
        let root: Vec<_> = fs::read_dir(format!("/proc/{}/root/", cell.pid())).unwrap().collect();
        assert!(root.is_empty(), "{who} sees {root:?}");
        let pids = namespace(cell.pid(), "pid");
        assert_ne!(pids, namespace(std::process::id(), "pid"), "{who}");
        for kind in ["user", "mnt", "ipc", "net", "uts", "cgroup"] {
            let own = namespace(cell.pid(), kind);
            assert_ne!(own, namespace(std::process::id(), kind), "{who}: {kind}");
            namespaces.insert(own);
        }
    }
    // A fork is in those of its parent: they are empty.
    // The network namespace, with nothing in it, is that of all cells.
    assert_eq!(
        namespaces.len(),
        2 * 5 + 1,
        "two clones have nothing else in common: {namespaces:?}"
    );
}

#[test]
fn a_live_cell_holds_nothing_but_its_machine_and_its_channel() {
    let nursery = nursery(0);
    for (who, cell) in live_cells(&nursery) {
        let mut held: Vec<String> = fs::read_dir(format!("/proc/{}/fd", cell.pid()))
            .unwrap()
            .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
            .collect();
        held.sort();
        println!("{who}: {held:?}");
        let count = |wanted: &dyn Fn(&str) -> bool| held.iter().filter(|name| wanted(name)).count();
        let vm = count(&|name| name == "anon_inode:kvm-vm");
        let vcpus = count(&|name| name.starts_with("anon_inode:kvm-vcpu"));
        let channels = count(&|name| name.starts_with("socket:"));
        let kvm = count(&|name| name == "/dev/kvm");
        let pages = count(&|name| Path::new(name).ends_with("pagemap"));
        let images = count(&|name| name.starts_with("/memfd:"));
        let bells = count(&|name| name.starts_with("anon_inode:[eventfd]"));
        assert_eq!((vm, vcpus, channels, kvm, pages), (1, 2, 1, 1, 1), "{who}: {held:?}");
        assert!((1..=2).contains(&images), "{who}: {held:?}");
        assert!(bells <= 8, "{who}: {held:?}");
        // To see which pages are only read; not every host has it.
        let watch = count(&|name| name == "anon_inode:[userfaultfd]");
        assert!(watch <= 1, "{who}: {held:?}");
        let known = watch + vm + vcpus + channels + kvm + pages + images + bells;
        assert_eq!(known, held.len(), "{who} holds something else: {held:?}");
        // It is its own pagemap.
        let own = format!("/proc/{}/pagemap", cell.pid());
        assert!(held.contains(&own), "{who} has not {own}: {held:?}");
    }
}
