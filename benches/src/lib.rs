//! What forks of virtual machines and copy-on-write faults cost against an eager copy,
//! measured on the host at hand with real guests.
//!
//! One file of `sections` measures one thing and returns figures; `claims` holds them against
//! what is claimed for `fork(2)`; `report` makes text, JSON, CSV and a page with plots of
//! it all. `rig` makes guests, `plan` says how many and how large, `measure` keeps every
//! sample, `noise` tells how far to trust it, `compare` holds two runs against each other.

#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod bench;
mod cells;
mod cgroup;
mod child;
mod claims;
mod client;
mod compare;
mod content;
mod daemon;
mod error;
mod host;
mod interrupt;
mod limits;
mod measure;
mod meminfo;
mod memory_limit;
mod named;
mod noise;
mod peers;
mod plan;
mod process;
mod progress;
mod redis;
mod render;
mod report;
mod rig;
mod room;
mod run;
mod saves;
mod sections;
mod setting;
mod stats;

use std::path::PathBuf;

pub use compare::{Comparison, compare};
pub use error::BenchError;
pub use render::{Rendered, render};
pub use report::schema::schema;
pub use run::{End, run};

/// What to measure, and where the figures go.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Guest sizes to measure beside the usual ones, MiB.
    pub sizes_mib: Vec<u64>,
    /// Fewer sizes and samples: a minute and a half.
    pub quick: bool,
    /// Write the figures to this file; `-` is stdout.
    pub json: Option<PathBuf>,
    /// Write a page with plots to this file.
    pub html: Option<PathBuf>,
    /// Write the measures, a line each, to this file.
    pub csv: Option<PathBuf>,
    /// Go on with the run whose figures are in the JSON file.
    pub resume: bool,
    /// The exact command that was given, for the header.
    pub command: String,
    /// Measure only these sections; all when empty.
    pub only: Vec<String>,
}
