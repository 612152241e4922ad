//! The system calls that a cell may make. Anything else kills it.
//!
//! The list is what machines, their devices and their forks were seen to need; a test runs
//! all of that under it. What can do different things is allowed by its arguments.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::ConfineError;
use crate::inside::fork::FLAGS as FORK_FLAGS;

/// Allowed whatever their arguments are: they act on memory, on descriptors that the cell has, on
/// its own threads, or wait.
const PLAIN: [i64; 53] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_memfd_create,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_getsockopt,
];

/// The ioctls: of machines (linux/kvm.h), and to find the pages that they use (linux/fs.h,
/// linux/userfaultfd.h).
const IOCTLS: [u64; 45] = [
    0xae01,      // KVM_CREATE_VM
    0xae03,      // KVM_CHECK_EXTENSION
    0xae04,      // KVM_GET_VCPU_MMAP_SIZE
    0xae41,      // KVM_CREATE_VCPU
    0xae47,      // KVM_SET_TSS_ADDR
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION
    0xae60,      // KVM_CREATE_IRQCHIP
    0x4008_ae61, // KVM_IRQ_LINE
    0xc208_ae62, // KVM_GET_IRQCHIP
    0x8208_ae63, // KVM_SET_IRQCHIP
    0x4020_ae76, // KVM_IRQFD
    0x4040_ae79, // KVM_IOEVENTFD
    0x4030_ae7b, // KVM_SET_CLOCK
    0x8030_ae7c, // KVM_GET_CLOCK
    0x4040_ae77, // KVM_CREATE_PIT2
    0x8070_ae9f, // KVM_GET_PIT2
    0x4070_aea0, // KVM_SET_PIT2
    0xae80,      // KVM_RUN
    0x8090_ae81, // KVM_GET_REGS
    0x4090_ae82, // KVM_SET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x4138_ae84, // KVM_SET_SREGS
    0xc008_ae88, // KVM_GET_MSRS
    0x4008_ae89, // KVM_SET_MSRS
    0x8400_ae8e, // KVM_GET_LAPIC
    0x4400_ae8f, // KVM_SET_LAPIC
    0x4008_ae90, // KVM_SET_CPUID2
    0x8004_ae98, // KVM_GET_MP_STATE
    0x4004_ae99, // KVM_SET_MP_STATE
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
    0x4040_aea0, // KVM_SET_VCPU_EVENTS
    0x8080_aea1, // KVM_GET_DEBUGREGS
    0x4080_aea2, // KVM_SET_DEBUGREGS
    0xaea2,      // KVM_SET_TSC_KHZ
    0xaea3,      // KVM_GET_TSC_KHZ
    0x9000_aea4, // KVM_GET_XSAVE
    0x5000_aea5, // KVM_SET_XSAVE
    0x8188_aea6, // KVM_GET_XCRS
    0x4188_aea7, // KVM_SET_XCRS
    0xaece,      // KVM_GET_STATS_FD
    0xc060_6610, // PAGEMAP_SCAN
    0xc020_aa00, // UFFDIO_REGISTER
    0x5421,      // FIONBIO
    0x5450,      // FIONCLEX
    0x5451,      // FIOCLEX
];

/// What `fcntl` may be asked.
const FCNTLS: [i32; 7] = [
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_ADD_SEALS,
    libc::F_GET_SEALS,
];

/// The flags with which the C library makes a thread.
const THREAD_FLAGS: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;

/// What libraries try and have a way around: refused with an error, where anything else that is
/// not allowed kills.
const REFUSED: [(i64, i32); 4] = [
    (libc::SYS_clone3, libc::ENOSYS),
    (libc::SYS_userfaultfd, libc::EPERM),
    (libc::SYS_open, libc::ENOENT),
    (libc::SYS_openat, libc::ENOENT),
];

/// A filter, made once for all cells: programs of which the strictest answer counts, as each has
/// one answer only.
#[derive(Clone, Debug)]
pub struct Filter(Vec<BpfProgram>);

fn is(argument: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    let (width, equals) = (SeccompCmpArgLen::Dword, SeccompCmpOp::Eq);
    SeccompRule::new(vec![SeccompCondition::new(argument, width, equals, value)?])
}

impl Filter {
    /// Makes the filter.
    pub fn new() -> Result<Self, ConfineError> {
        let refused = REFUSED.iter().map(|&(call, _)| call);
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            PLAIN.iter().copied().chain(refused).map(|call| (call, vec![])).collect();
        let each = |argument, values: &[u64]| {
            values.iter().map(|&value| is(argument, value)).collect::<Result<Vec<_>, _>>()
        };
        let fcntls = FCNTLS.map(|command| command as u64);
        rules.insert(libc::SYS_ioctl, each(1, &IOCTLS)?);
        rules.insert(libc::SYS_fcntl, each(1, &fcntls)?);
        rules.insert(libc::SYS_clone, each(0, &[THREAD_FLAGS, FORK_FLAGS as u64])?);
        rules.insert(libc::SYS_socketpair, each(0, &[libc::AF_UNIX as u64])?);
        rules.insert(libc::SYS_prctl, each(0, &[libc::PR_SET_NAME as u64])?);
        // Reading the cell's own limits, not setting them. All of the pointer counts: a place
        // in memory may have 32 bits of zeros, too.
        let own = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, 0)?;
        let no_new = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0)?;
        rules.insert(libc::SYS_prlimit64, vec![SeccompRule::new(vec![own, no_new])?]);
        let kick = vmm_sys_util::signal::SIGRTMIN() as u64;
        rules.insert(libc::SYS_tgkill, each(2, &[kick])?);
        let filter = |rules, no, yes| -> Result<BpfProgram, seccompiler::BackendError> {
            SeccompFilter::new(rules, no, yes, TargetArch::x86_64)?.try_into()
        };
        let mut programs = Vec::with_capacity(1 + REFUSED.len());
        for (call, errno) in REFUSED {
            let rules = BTreeMap::from([(call, vec![])]);
            programs.push(filter(rules, SeccompAction::Allow, SeccompAction::Errno(errno as u32))?);
        }
        // The last: the others could not be put in place after it.
        programs.push(filter(rules, SeccompAction::KillProcess, SeccompAction::Allow)?);
        Ok(Self(programs))
    }

    /// Puts it in place for this thread and all that it makes, for good.
    pub(super) fn apply(&self) -> Result<(), ConfineError> {
        Ok(self.0.iter().try_for_each(|program| seccompiler::apply_filter(program))?)
    }
}
