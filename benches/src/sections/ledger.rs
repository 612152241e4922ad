//! The memory account of a clone before and after it writes a tenth of its memory.

use serde::Serialize;
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::memory::Ledger;

use super::{GUEST_MIB, MEMORIES, memory_name};
use crate::BenchError;
use crate::error::Doing;
use crate::plan::Section;
use crate::progress::Progress;
use crate::rig::{Rig, data_pages, work_counted};

/// The account of one clone at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct LedgerRow {
    /// `cow` or `eager`.
    pub memory: &'static str,
    /// `before` or `after` the writes.
    pub moment: &'static str,
    /// Pages that the guest has written since it was made, but for those that it needs to run.
    pub written_pages: u64,
    /// Page faults that KVM took for those.
    pub page_faults: u64,
    /// The account.
    #[serde(flatten)]
    pub ledger: Ledger,
}

/// Takes the accounts.
pub fn run(rig: &mut Rig) -> Result<Vec<LedgerRow>, BenchError> {
    let progress = Progress::start(Section::Ledger.name(), MEMORIES.len());
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let mut rows = Vec::new();
    for memory in MEMORIES {
        let clone = rig.spawn(&snapshot, memory)?;
        let account = || clone.ledger().doing("taking a memory account");
        let row = |moment, written_pages, page_faults| -> Result<LedgerRow, BenchError> {
            let memory = memory_name(memory);
            Ok(LedgerRow { memory, moment, written_pages, page_faults, ledger: account()? })
        };
        rows.push(row("before", 0, 0)?);
        let pages = data_pages(&clone);
        let tenth = Selection::scattered(pages, pages / 10, 5);
        let written = work_counted(&clone, &Command::new(Op::Dirty, tenth).seed(5))?;
        rows.push(row("after", pages / 10, written.page_faults)?);
        progress.step();
    }
    Ok(rows)
}
