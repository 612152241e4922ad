//! What many machines take of the host's memory, part by part.

use std::time::Duration;

use crate::BenchError;
use crate::cgroup::kernel_bytes;
use crate::meminfo::MemInfo;
use crate::named::Named;

/// The kernel counts slabs and per-processor pages lazily.
const SETTLE: Duration = Duration::from_millis(1500);

/// What belongs to the processes in which the machines are, bytes; none where the kernel does
/// not tell. What other processes do meanwhile does not count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Own {
    /// Their page tables.
    pub page_tables: Option<f64>,
    /// Their pages without a file, those that several share in part.
    pub anon: Option<f64>,
}

/// What has grown from `before` to `after`, for each of `clones`. Fields that this
/// kernel does not have are left out.
pub fn between(before: &Reading, after: &Reading, clones: u64, own: Own) -> Named {
    let each = |bytes: f64| bytes / clones as f64;
    let grown = |field: &str| after.memory.grown(&before.memory, field).map(each);
    // Stacks of threads come from vmalloc and are counted in both, wherever
    // vmalloc has grown at least as much.
    let stacks = grown("KernelStack").unwrap_or(0.0);
    let vmalloc = grown("VmallocUsed").map(|all| if all >= stacks { all - stacks } else { all });
    let kernel = [
        ("vmalloc", vmalloc),
        ("slab", grown("Slab")),
        ("page_tables", own.page_tables.map(each)),
        ("kvm_mmu", grown("SecPageTables")),
        ("kernel_stacks", Some(stacks)),
        ("percpu", grown("Percpu")),
    ];
    let counted: f64 = kernel.iter().filter_map(|part| part.1).sum();
    // Less than is counted anyway means that the controller does not see the process.
    let charged = match (before.charged, after.charged) {
        (Some(before), Some(after)) => Some(each(after as f64 - before as f64)),
        _ => None,
    };
    let direct = charged.map(|charged| charged - counted).filter(|&direct| direct >= 0.0);
    let rest = [("kernel_pages", direct), ("anon", own.anon.map(each)), ("shmem", grown("Shmem"))];
    let parts = kernel.into_iter().chain(rest);
    parts.filter_map(|(name, part)| Some((name, part?))).collect()
}

/// What the kernel has handed out at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Of the whole host.
    pub memory: MemInfo,
    /// Of this process alone, where the kernel tells: what others do does not count.
    own: MemInfo,
    /// Kernel memory charged to the control group, where it is known.
    charged: Option<u64>,
}

impl Reading {
    /// By how much this process itself has grown since `before`.
    pub fn own_since(&self, before: &Self) -> Own {
        let grown = |field| self.own.grown(&before.own, field);
        Own { page_tables: grown("VmPTE"), anon: grown("RssAnon") }
    }

    /// Waits until the counters have settled, and reads them.
    pub fn settled() -> Result<Self, BenchError> {
        std::thread::sleep(SETTLE);
        Ok(Self { memory: MemInfo::read()?, own: MemInfo::own()?, charged: kernel_bytes() })
    }
}
