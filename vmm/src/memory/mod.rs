//! How a guest gets its memory, how a clone shares it, and what that costs.
//!
//! A [`MemoryImage`] is the memory of a snapshot. A [`GuestRam`] is one mapping of an
//! image: copy-on-write for clones, shared for a guest that boots. [`pagemap`] tells
//! which pages a mapping has of its own; [`delta`] keeps such pages as a layer over an
//! image; [`hotset`] copies pages ahead; [`ledger`] is the account of it all.

pub mod copy;
pub mod delta;
pub mod hotset;
pub mod image;
pub mod layout;
pub mod ledger;
pub mod mapping;
pub mod pagemap;
pub mod ram;
pub mod runs;
mod uffd;

pub use hotset::HotSet;
pub use image::{ImageKind, MemoryImage};
pub use layout::RamLayout;
pub use ledger::Ledger;
pub use ram::{EagerReport, GuestRam};
pub use runs::{Run, Runs};

use std::io;
use thiserror::Error;

/// Size of a base page, bytes.
pub const PAGE_SIZE: usize = 4096;
/// Size of a huge page, bytes.
pub const HUGE_PAGE_SIZE: usize = 2 << 20;

/// What can go wrong with guest memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The size is zero, or no multiple of the page size.
    #[error("memory of {bytes} bytes: must be a positive multiple of {unit}")]
    Size {
        /// The size asked for.
        bytes: u64,
        /// The page size.
        unit: usize,
    },
    /// A mapping could not be made.
    #[error("mapping {bytes} bytes of {what} failed; check memory limits and vm.max_map_count")]
    Map {
        /// What was to be mapped.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel refused advice on a mapping.
    #[error("madvise({advice}) on {bytes} bytes failed")]
    Advise {
        /// Name of the advice.
        advice: &'static str,
        /// Size of the range.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A memory file could not be made, sized, written or sealed.
    #[error("{operation} of a memory file of {bytes} bytes failed")]
    File {
        /// What was tried.
        operation: &'static str,
        /// Size of the file.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The pages of a mapping could not be examined.
    #[error("finding the private pages of {bytes} bytes by {method} failed")]
    Scan {
        /// `PAGEMAP_SCAN` or `/proc/self/pagemap`.
        method: &'static str,
        /// Size of the mapping.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Pages could not be placed into a clone.
    #[error("copying {pages} pages into a clone by {method} failed")]
    Copy {
        /// How.
        method: &'static str,
        /// How many were to be copied.
        pages: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The mapping can't be described to vm-memory.
    #[error("guest memory of {bytes} bytes at {address:#x} is no valid region: {reason}")]
    Region {
        /// Guest-physical address.
        address: u64,
        /// Size.
        bytes: usize,
        /// Why.
        reason: String,
    },
}
