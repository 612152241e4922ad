//! Work for the embedded guest, as it goes over the wire.

use serde::{Deserialize, Serialize};
use tine_abi::command::{Command, Op};
use tine_abi::layout::{PAGE_SIZE, data_bytes};
use tine_abi::pattern::{Pattern, Selection};
use utoipa::ToSchema;

use crate::problem::Problem;

/// Longest that a guest may be asked to spin, milliseconds.
const MAX_MILLIS: u64 = 600_000;
/// Most rounds that a guest may be asked to compute.
const MAX_ROUNDS: u64 = 100_000_000_000;

/// What the embedded guest can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadOp {
    /// Read a word of each page and write it back.
    Touch,
    /// Write a word, made of `seed`, into each page.
    Dirty,
    /// Read a word of each page.
    Read,
    /// Hash every byte.
    Checksum,
    /// Compute for `millis`.
    Spin,
    /// Compute a fixed answer in `rounds` from `seed`.
    Compute,
    /// Read the clocks: `value` is monotonic, `value2` wall-clock nanoseconds.
    Clock,
    /// Print the heartbeat on the console.
    Say,
}

/// Body of `POST /v1/sandboxes/{id}/workload`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkloadRequest {
    /// What to do.
    pub op: WorkloadOp,
    /// Size of the region, in whole pages, rounded up; by default to the end of the data
    /// memory.
    pub bytes: Option<u64>,
    /// Where in the data memory the region begins: a multiple of 4096.
    #[serde(default)]
    pub offset: u64,
    /// Which part of the region's pages to visit, 0 to 1; all by default.
    pub fraction: Option<f64>,
    /// Visit every so manieth page, then the ones beside them.
    pub stride: Option<u64>,
    /// Visit the pages all over the region, as `seed` has it.
    #[serde(default)]
    pub scattered: bool,
    /// Seed of what is written, computed or scattered.
    #[serde(default)]
    pub seed: u64,
    /// How long to spin, milliseconds; 100 by default.
    pub millis: Option<u64>,
    /// How many rounds to compute; a million by default.
    pub rounds: Option<u64>,
    /// Which vCPU does it.
    #[serde(default)]
    pub vcpu: u8,
}

/// Answer to a workload request. Times are the guest's own.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct WorkloadAnswer {
    /// What was done.
    pub op: WorkloadOp,
    /// Whether it ended early because it was cancelled.
    pub cancelled: bool,
    /// The result, in hexadecimal.
    pub value: String,
    /// The second result, in hexadecimal.
    pub value2: String,
    /// Size of the region, where the work was on memory.
    pub bytes: Option<u64>,
    /// Pages, rounds or milliseconds' rounds done.
    pub done: u64,
    /// Microseconds, by the guest's TSC.
    pub guest_us: f64,
    /// Nanoseconds for each that was done.
    pub ns_each: f64,
    /// Units of work since boot, its ancestors' included.
    pub heartbeat: u64,
}

impl WorkloadOp {
    /// Whether it is work on memory.
    pub fn is_on_memory(self) -> bool {
        matches!(self, Self::Touch | Self::Dirty | Self::Read | Self::Checksum)
    }
}

impl WorkloadRequest {
    /// The command for a guest with `ram_bytes` of RAM.
    pub fn command(&self, ram_bytes: u64) -> Result<Command, Problem> {
        let all = data_bytes(ram_bytes);
        if !self.offset.is_multiple_of(PAGE_SIZE) || self.offset >= all {
            let detail = format!(
                "the region begins at a multiple of {PAGE_SIZE} below {all}, not at {}",
                self.offset
            );
            return Err(Problem::value("offset", detail));
        }
        let left = all - self.offset;
        let bytes = self.bytes.unwrap_or(left);
        if bytes == 0 || bytes > left {
            let detail = format!(
                "the guest has {left} bytes of data memory from byte {}, so 1 to {left} can be \
                 worked on, not {bytes}",
                self.offset
            );
            return Err(Problem::value("bytes", detail));
        }
        let fraction = self.fraction.unwrap_or(1.0);
        if !(0.0..=1.0).contains(&fraction) {
            return Err(Problem::value(
                "fraction",
                format!("a fraction is 0 to 1, not {fraction}"),
            ));
        }
        if self.stride.is_some() && self.scattered {
            return Err(Problem::value(
                "stride",
                "ask for a stride or for scattered pages, not both",
            ));
        }
        let region_pages = bytes.div_ceil(PAGE_SIZE);
        let pattern = match self.stride {
            Some(pages) => Pattern::Stride { pages },
            None if self.scattered => Pattern::Scattered { seed: self.seed },
            None => Pattern::Sequential,
        };
        let pages = (region_pages as f64 * fraction).round() as u64;
        let first_page = self.offset / PAGE_SIZE;
        let selection = Selection { first_page, region_pages, pages, pattern };
        let (op, amount) = match self.op {
            WorkloadOp::Touch => (Op::Touch, 0),
            WorkloadOp::Dirty => (Op::Dirty, 0),
            WorkloadOp::Read => (Op::Read, 0),
            WorkloadOp::Checksum => (Op::Checksum, 0),
            WorkloadOp::Spin => {
                (Op::Spin, bounded("millis", self.millis.unwrap_or(100), MAX_MILLIS)?)
            }
            WorkloadOp::Compute => {
                (Op::Compute, bounded("rounds", self.rounds.unwrap_or(1_000_000), MAX_ROUNDS)?)
            }
            WorkloadOp::Clock => (Op::Clock, 0),
            WorkloadOp::Say => (Op::Say, 0),
        };
        Ok(Command::new(op, selection).seed(self.seed).amount(amount))
    }
}

fn bounded(field: &str, value: u64, most: u64) -> Result<u64, Problem> {
    if value > most {
        return Err(Problem::value(field, format!("at most {most}, not {value}")));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::parse;

    fn command(body: &str) -> Result<Command, Problem> {
        parse::<WorkloadRequest>(body.as_bytes()).unwrap().command(16 << 20)
    }

    #[test]
    fn regions_are_whole_pages_inside_the_data_memory() {
        let all = data_bytes(16 << 20);
        let region = |body: &str| {
            let selection = command(body).unwrap().selection;
            (selection.first_page, selection.region_pages, selection.pages)
        };
        assert_eq!(region(r#"{"op":"dirty"}"#), (0, all / PAGE_SIZE, all / PAGE_SIZE));
        assert_eq!(region(r#"{"op":"dirty","bytes":1}"#), (0, 1, 1));
        assert_eq!(region(r#"{"op":"dirty","bytes":4097,"fraction":0.5}"#), (0, 2, 1));
        let last = all - PAGE_SIZE;
        assert_eq!(region(&format!(r#"{{"op":"read","offset":{last}}}"#)).1, 1);
        for (wrong, field) in [
            (r#"{"op":"dirty","bytes":0}"#.to_owned(), "bytes"),
            (format!(r#"{{"op":"dirty","bytes":{}}}"#, all + 1), "bytes"),
            (format!(r#"{{"op":"dirty","bytes":4097,"offset":{last}}}"#), "bytes"),
            (format!(r#"{{"op":"dirty","offset":{all}}}"#), "offset"),
            (r#"{"op":"dirty","offset":1}"#.to_owned(), "offset"),
        ] {
            assert_eq!(command(&wrong).unwrap_err().field.as_deref(), Some(field), "{wrong}");
        }
    }
}
