//! What can go wrong with a measurement.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use tine_cell::Fault;
use tine_cell::warden::WardenError;
use tine_vmm::MachineError;
use tine_vmm::kvm::KvmError;

/// What can go wrong with a measurement.
#[derive(Debug, Error)]
pub enum BenchError {
    /// KVM can't be used.
    #[error("KVM can't be used; `tine doctor` tells more")]
    Kvm(#[from] KvmError),
    /// A guest did not do what was to be measured.
    #[error("{doing} failed")]
    Machine {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: MachineError,
    },
    /// A cell did not do what was to be measured.
    #[error("{doing} failed")]
    Cell {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: Fault,
    },
    /// There are no cells.
    #[error("no cells can be made; `tine doctor` tells more")]
    Cells(#[from] WardenError),
    /// A clone that was to be there already had to be made.
    #[error("a clone that was to be dormant came from a {origin} cell")]
    Miss {
        /// Where its cell came from.
        origin: String,
    },
    /// A disk can't be used.
    #[error("a disk that was to be forked can't be used")]
    Disk(#[from] tine_vmm::devices::disk::DiskError),
    /// Memory is not what was written to it.
    #[error("the memory of {who} is not what it wrote")]
    Spoilt {
        /// Whose memory.
        who: String,
    },
    /// A child is not what its parent was.
    #[error("child {child} of a running guest has other memory than its parent")]
    OtherMemory {
        /// Which of them.
        child: usize,
    },
    /// Another VMM did not do what was to be measured.
    #[error("{peer}: {doing} failed: {reason}")]
    Peer {
        /// Which.
        peer: String,
        /// What was being done.
        doing: String,
        /// Why it failed.
        reason: String,
    },
    /// A daemon did not do what was to be measured.
    #[error("{doing}: {reason}")]
    Daemon {
        /// What was being done.
        doing: String,
        /// Why it failed.
        reason: String,
    },
    /// The program that measures processes failed.
    #[error("{command}: {reason}")]
    Forkbench {
        /// How it was called.
        command: String,
        /// What it said, or how it ended.
        reason: String,
    },
    /// A Redis server did not do what was to be measured.
    #[error("{doing} failed")]
    Redis {
        /// What was being done.
        doing: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// What was saved is not what there was at one instant.
    #[error("{mismatches} of {checked} {things} of a save are not of one instant: {first}")]
    Torn {
        /// Of what it is made.
        things: &'static str,
        /// How many were looked at.
        checked: u64,
        /// How many of them are wrong.
        mismatches: u64,
        /// The first of them.
        first: String,
    },
    /// A clone was made but not seen to run, so there is nothing to report.
    #[error("{doing}: no first instruction was seen within {seconds} s")]
    NoFirstInstruction {
        /// What was being done.
        doing: &'static str,
        /// How long was waited.
        seconds: u64,
    },
    /// A guest did less than it was told.
    #[error("{doing}: the guest did {done} of {asked}")]
    Incomplete {
        /// What was being done.
        doing: String,
        /// How much it did.
        done: u64,
        /// How much it was to do.
        asked: u64,
    },
    /// A parent stood still after it was forked.
    #[error("the heartbeat of a guest stood still at {heartbeat} for {seconds} s")]
    Heartbeat {
        /// The heartbeat.
        heartbeat: u64,
        /// How long was waited.
        seconds: u64,
    },
    /// There is no such section.
    #[error("there is no section {name:?} to measure; there are {known}")]
    Section {
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A guest size makes no sense.
    #[error("guests of {mib} MiB can't be measured: at least {least} MiB are needed")]
    Size {
        /// The size asked for.
        mib: u64,
        /// The least possible.
        least: u64,
    },
    /// The process may not have enough of something.
    #[error("{clones} clones need {needed} {what}, and the limit is {limit}; raise {setting}")]
    Limit {
        /// How many clones were to be made.
        clones: u64,
        /// Of what there is too little.
        what: &'static str,
        /// How many are needed.
        needed: u64,
        /// How many there may be.
        limit: u64,
        /// What to raise.
        setting: &'static str,
    },
    /// A file of the kernel can't be read.
    #[error("{path} can't be read")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A control group could not be limited.
    #[error("{path} can't be written")]
    Group {
        /// The file of the group.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the kernel does not say what is needed.
    #[error("{path} does not tell {what}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// What it should tell.
        what: &'static str,
    },
    /// A system call failed.
    #[error("{call} failed")]
    Call {
        /// The call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Someone has asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// A report can't be gone on with.
    #[error("{path} {what}: start a new run")]
    Resume {
        /// The report.
        path: PathBuf,
        /// Why not.
        what: &'static str,
    },
    /// A file is no report.
    #[error("{path} is no report of `tine bench --json`")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A report is of another version.
    #[error("{path} has version {version} of the format, and this tine reads {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that is read.
        known: u32,
    },
    /// Two reports have no measure in common.
    #[error("{before} and {after} have no measure in common")]
    NothingToCompare {
        /// The first.
        before: PathBuf,
        /// The second.
        after: PathBuf,
    },
    /// Nothing can be printed.
    #[error("stdout can't be written")]
    Print(#[source] io::Error),
    /// A report can't be written.
    #[error("the report {path} can't be written")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The measures can't be made CSV.
    #[error("the measures can't be written as CSV")]
    Csv(#[source] io::Error),
    /// The figures can't be made JSON.
    #[error("the figures can't be written as JSON")]
    Json(#[from] serde_json::Error),
    /// A plot can't be drawn.
    #[error("the plot {title:?} can't be drawn: {reason}")]
    Plot {
        /// Its title.
        title: String,
        /// Why.
        reason: String,
    },
}

/// `error` and what caused it, in one line.
pub(crate) fn text(error: &BenchError) -> String {
    tine_cell::fault::with_causes(error)
}

/// Says what was being done when a machine failed.
pub(crate) trait Doing<T> {
    /// The value, or the error with `what` was being done.
    fn doing(self, what: &str) -> Result<T, BenchError>;
}

impl<T> Doing<T> for Result<T, MachineError> {
    fn doing(self, what: &str) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Machine { doing: what.to_owned(), source })
    }
}

impl<T> Doing<T> for Result<T, Fault> {
    fn doing(self, what: &str) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Cell { doing: what.to_owned(), source })
    }
}
