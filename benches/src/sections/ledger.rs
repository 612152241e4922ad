//! The memory account of a clone before and after it writes a tenth of its memory.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::pattern::Selection;
use tine_vmm::memory::Ledger;

use super::{GUEST_MIB, MEMORIES, memory_name};
use crate::BenchError;
use crate::bench::Bench;
use crate::error::Doing;
use crate::rig::{data_pages, work_counted};

/// The account of one clone at one moment.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LedgerRow {
    /// `cow` or `eager`.
    pub memory: String,
    /// `before` or `after` the writes.
    pub moment: String,
    /// Pages that the guest has written since it was made, but for those that it needs to run.
    pub written_pages: u64,
    /// Page faults that KVM took for those.
    pub page_faults: u64,
    /// The account.
    #[serde(flatten)]
    pub ledger: Account,
}

/// Where the memory of one guest is, bytes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Account {
    /// Size of guest RAM.
    pub ram_bytes: u64,
    /// Pages that belong to this guest alone.
    pub private_bytes: u64,
    /// Of those, swapped out.
    pub swapped_bytes: u64,
    /// Pages of the image that this guest has touched, shared with every other clone.
    pub shared_bytes: u64,
    /// Host page tables that map the two.
    pub page_table_bytes: u64,
    /// Of the memory mapped, what huge page entries map.
    pub huge_bytes: u64,
    /// Size of the layer between the base image and this guest.
    pub delta_bytes: u64,
}

impl From<Ledger> for Account {
    fn from(ledger: Ledger) -> Self {
        Self {
            ram_bytes: ledger.ram_bytes,
            private_bytes: ledger.private_bytes,
            swapped_bytes: ledger.swapped_bytes,
            shared_bytes: ledger.shared_bytes,
            page_table_bytes: ledger.page_table_bytes,
            huge_bytes: ledger.huge_bytes,
            delta_bytes: ledger.delta_bytes,
        }
    }
}

/// Takes the accounts.
pub fn run(bench: &mut Bench) -> Result<Vec<LedgerRow>, BenchError> {
    let Bench { rig, measures, progress, .. } = bench;
    progress.steps(MEMORIES.len());
    let snapshot = rig.snapshot(GUEST_MIB)?;
    let mut rows = Vec::new();
    for memory in MEMORIES {
        let clone = rig.spawn(&snapshot, memory)?;
        let account = || clone.ledger().doing("taking a memory account");
        let row = |moment: &str, written_pages, page_faults| -> Result<LedgerRow, BenchError> {
            let (memory, moment) = (memory_name(memory).to_owned(), moment.to_owned());
            let ledger = account()?.into();
            Ok(LedgerRow { memory, moment, written_pages, page_faults, ledger })
        };
        rows.push(row("before", 0, 0)?);
        let pages = data_pages(&clone);
        let tenth = Selection::scattered(pages, pages / 10, 5);
        let written = work_counted(&clone, &Command::new(Op::Dirty, tenth).seed(5))?;
        rows.push(row("after", pages / 10, written.page_faults)?);
        progress.step()?;
    }
    for row in &rows {
        let id = |what| format!("ledger/{}/{}/{what}", row.memory, row.moment);
        measures.bytes(id("private"), &[row.ledger.private_bytes as f64]);
        measures.bytes(id("page_tables"), &[row.ledger.page_table_bytes as f64]);
    }
    Ok(rows)
}
