//! `tine run`: one guest in this process, without a daemon.

mod linux;
mod workload;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;

use workload::Task;

/// The image that is built in.
const WORKLOAD: &str = "workload";
/// RAM of a guest unless told otherwise, MiB.
const MEMORY_MIB: u64 = 256;

/// Options of `tine run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The image: workload, or one that `tine image build` made
    #[arg(default_value = WORKLOAD)]
    image: String,
    /// Guest memory, MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB)]
    memory: u64,
    /// Number of vCPUs
    #[arg(long, default_value_t = 1)]
    vcpus: u8,
    /// Stop the workload after this many seconds instead of at Ctrl-C
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Have the workload do this first, e.g. dirty:64M, checksum, spin:500, clock; may be repeated
    #[arg(long, value_name = "OP[:AMOUNT]")]
    op: Vec<Task>,
    #[command(flatten)]
    linux: linux::Options,
}

impl Run {
    /// Runs the guest and stays with it.
    pub fn run(self) -> Result<ExitCode> {
        let ram_bytes = self.memory.checked_mul(1 << 20).context("--memory is too large")?;
        let limit = match self.seconds {
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds)
                    .with_context(|| format!("--for {seconds} is no number of seconds"))?,
            ),
            None => None,
        };
        if self.image == WORKLOAD {
            ensure!(self.linux.is_empty(), "the workload runs no commands; name an image for that");
            return workload::run(ram_bytes, self.vcpus, limit, self.op);
        }
        ensure!(self.op.is_empty() && limit.is_none(), "--op and --for are for the workload only");
        self.linux.run(&self.image, self.memory, self.vcpus)
    }
}
