//! Every ioctl and every mapping on the fork path made to fail, by a seccomp filter on the
//! thread that forks: the parent must run on, unchanged, and nothing be left behind.
//!
//! One test, in a process of its own, because it counts the process's descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests stop at what surprises them")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::{KvmHost, Machine, Snapshot, SpawnOptions, Status};

/// The ioctls of forks and snapshots (linux/kvm.h, linux/fs.h, linux/userfaultfd.h).
const IOCTLS: [(&str, u64); 34] = [
    ("KVM_CREATE_VM", 0xae01),
    ("KVM_GET_VCPU_MMAP_SIZE", 0xae04),
    ("KVM_SET_TSS_ADDR", 0xae47),
    ("KVM_SET_USER_MEMORY_REGION", 0x4020_ae46),
    ("KVM_CREATE_IRQCHIP", 0xae60),
    ("KVM_CREATE_VCPU", 0xae41),
    ("KVM_SET_CPUID2", 0x4008_ae90),
    ("KVM_GET_MP_STATE", 0x8004_ae98),
    ("KVM_GET_REGS", 0x8090_ae81),
    ("KVM_GET_SREGS", 0x8138_ae83),
    ("KVM_GET_XSAVE", 0x9000_aea4),
    ("KVM_GET_XCRS", 0x8188_aea6),
    ("KVM_GET_DEBUGREGS", 0x8080_aea1),
    ("KVM_GET_LAPIC", 0x8400_ae8e),
    ("KVM_GET_TSC_KHZ", 0xaea3),
    ("KVM_GET_MSRS", 0xc008_ae88),
    ("KVM_GET_VCPU_EVENTS", 0x8040_ae9f),
    ("KVM_GET_IRQCHIP", 0xc208_ae62),
    ("KVM_GET_CLOCK", 0x8030_ae7c),
    ("KVM_SET_IRQCHIP", 0x8208_ae63),
    ("KVM_SET_CLOCK", 0x4030_ae7b),
    ("KVM_SET_MP_STATE", 0x4004_ae99),
    ("KVM_SET_REGS", 0x4090_ae82),
    ("KVM_SET_SREGS", 0x4138_ae84),
    ("KVM_SET_XSAVE", 0x5000_aea5),
    ("KVM_SET_XCRS", 0x4188_aea7),
    ("KVM_SET_DEBUGREGS", 0x4080_aea2),
    ("KVM_SET_LAPIC", 0x4400_ae8f),
    ("KVM_SET_MSRS", 0x4008_ae89),
    ("KVM_SET_VCPU_EVENTS", 0x4040_aea0),
    ("KVM_RUN", 0xae80),
    ("PAGEMAP_SCAN", 0xc060_6610),
    ("UFFDIO_REGISTER", 0xc020_aa00),
    ("UFFDIO_COPY", 0xc028_aa03),
];

/// Used on the path, but with a way around them, or not by all operations.
const MAY_SUCCEED: [&str; 4] =
    ["KVM_GET_VCPU_MMAP_SIZE", "UFFDIO_REGISTER", "userfaultfd", "ftruncate"];

fn equals(argument: u8, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).unwrap()
}

fn differs(argument: u8, value: u64) -> SeccompCondition {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, value).unwrap()
}

fn has_bits(argument: u8, bits: i32) -> SeccompCondition {
    let bits = bits as u64;
    let masked = SeccompCmpOp::MaskedEq(bits);
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, masked, bits).unwrap()
}

/// A filter under which system call `number` fails with `errno`, where all `conditions` hold.
fn failing(number: i64, conditions: Vec<SeccompCondition>, errno: i32) -> BpfProgram {
    let rules =
        if conditions.is_empty() { vec![] } else { vec![SeccompRule::new(conditions).unwrap()] };
    SeccompFilter::new(
        BTreeMap::from([(number, rules)]),
        SeccompAction::Allow,
        SeccompAction::Errno(errno as u32),
        TargetArch::x86_64,
    )
    .unwrap()
    .try_into()
    .unwrap()
}

/// The failures to inject, by name.
fn injections() -> Vec<(&'static str, BpfProgram)> {
    const FILE: i32 = -1;
    let on_file = || differs(4, FILE as u32 as u64);
    let mut all: Vec<_> = IOCTLS
        .iter()
        .map(|&(name, request)| {
            (name, failing(libc::SYS_ioctl, vec![equals(1, request)], libc::EIO))
        })
        .collect();
    let private = libc::MAP_PRIVATE | libc::MAP_NORESERVE;
    all.extend([
        (
            "mmap of a clone",
            failing(libc::SYS_mmap, vec![has_bits(3, private), on_file()], libc::ENOMEM),
        ),
        (
            "mmap of kvm_run",
            failing(
                libc::SYS_mmap,
                vec![equals(3, libc::MAP_SHARED as u64), on_file()],
                libc::ENOMEM,
            ),
        ),
        ("clone3", failing(libc::SYS_clone3, vec![], libc::EAGAIN)),
        ("userfaultfd", failing(libc::SYS_userfaultfd, vec![], libc::EPERM)),
        ("memfd_create", failing(libc::SYS_memfd_create, vec![], libc::EMFILE)),
        ("ftruncate", failing(libc::SYS_ftruncate, vec![], libc::ENOSPC)),
        (
            "sealing",
            failing(libc::SYS_fcntl, vec![equals(1, libc::F_ADD_SEALS as u64)], libc::EBUSY),
        ),
        (
            "populating",
            failing(
                libc::SYS_madvise,
                vec![equals(2, libc::MADV_POPULATE_WRITE as u64)],
                libc::ENOMEM,
            ),
        ),
    ]);
    all
}

/// An operation that makes clones of `parent`, or a snapshot.
type Operation = fn(&Arc<KvmHost>, &Machine, &Snapshot) -> Result<Vec<Machine>, String>;

fn fork_one(_: &Arc<KvmHost>, parent: &Machine, _: &Snapshot) -> Result<Vec<Machine>, String> {
    let forked = parent.fork(vec![SpawnOptions::new()]).map_err(|error| error.to_string())?;
    forked.into_iter().map(|child| child.map_err(|error| error.to_string())).collect()
}

fn fork_two(_: &Arc<KvmHost>, parent: &Machine, _: &Snapshot) -> Result<Vec<Machine>, String> {
    let options = vec![SpawnOptions::new(), SpawnOptions::new()];
    let forked = parent.fork(options).map_err(|error| error.to_string())?;
    forked.into_iter().map(|child| child.map_err(|error| error.to_string())).collect()
}

fn spawn(host: &Arc<KvmHost>, _: &Machine, snapshot: &Snapshot) -> Result<Vec<Machine>, String> {
    let clone = Machine::spawn(host, snapshot, SpawnOptions::new());
    Ok(vec![clone.map_err(|error| error.to_string())?])
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Mappings of guest memory and of vCPUs.
fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("tine-") || line.contains("kvm-vcpu")).count()
}

/// Does `operation` on a thread of its own, under `filter`.
fn under(
    filter: BpfProgram,
    operation: Operation,
    host: &Arc<KvmHost>,
    parent: &Machine,
    snapshot: &Snapshot,
) -> Result<Vec<Machine>, String> {
    thread::scope(|scope| {
        scope
            .spawn(move || {
                apply_filter(&filter).unwrap();
                operation(host, parent, snapshot)
            })
            .join()
            .unwrap()
    })
}

#[test]
fn whatever_fails_on_the_way_the_parent_runs_on_and_nothing_is_left() {
    let host = host();
    let parent = boot(&host, 16, 2);
    let (snapshot, _) = parent.snapshot().unwrap();
    dirty(&parent, 300, 1);
    let expected = checksum(&parent);
    let operations: [(&str, Operation); 3] =
        [("fork of one", fork_one), ("fork of two", fork_two), ("spawn", spawn)];

    // The list is complete: nothing else is asked of the kernel by ioctl.
    for (name, operation) in operations {
        let others = IOCTLS.iter().map(|&(_, request)| differs(1, request));
        // UFFDIO_API comes before UFFDIO_REGISTER and fails like it.
        let others = others.chain([differs(1, 0xc018_aa3f)]).collect();
        let filter = failing(libc::SYS_ioctl, others, libc::EPERM);
        let clones = under(filter, operation, &host, &parent, &snapshot);
        assert!(clones.is_ok(), "{name} needs an ioctl that is not tested: {:?}", clones.err());
    }

    let spinning =
        parent.submit(1, &Command::new(Op::Spin, Selection::NONE).amount(600_000)).unwrap();
    let (open, mapped) = (descriptors(), mappings());
    let mut failures = BTreeMap::<&str, usize>::new();
    for (call, filter) in injections() {
        for (name, operation) in operations {
            let what = format!("{name} with {call} failing");
            let before = parent.heartbeat(1).unwrap();
            match under(filter.clone(), operation, &host, &parent, &snapshot) {
                Ok(clones) => {
                    for clone in &clones {
                        let same = if name == "spawn" {
                            checksum(clone) != expected
                        } else {
                            checksum(clone) == expected
                        };
                        assert!(same, "{what}: it succeeded with wrong memory");
                    }
                }
                Err(_) => *failures.entry(call).or_default() += 1,
            }
            assert_eq!(parent.status(), Status::Running, "{what}");
            let begun = Instant::now();
            while parent.heartbeat(1).unwrap() == before {
                assert!(begun.elapsed() < LIMIT, "{what}: the parent stands still");
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!((descriptors(), mappings()), (open, mapped), "{what}: something is left");
        }
        assert!(
            failures.contains_key(call) || MAY_SUCCEED.contains(&call),
            "{call} was made to fail and nothing failed: is it on the path at all?"
        );
    }
    assert_eq!(checksum(&parent), expected);
    parent.cancel(1).unwrap();
    parent.wait(spinning, LIMIT).unwrap();
    for clone in fork_many(&parent, 2) {
        assert_eq!(checksum(&clone), expected, "and it can still be forked");
    }
}
