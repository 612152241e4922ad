//! A snapshot: an immutable, complete machine state.

pub mod file;
pub mod parts;
pub mod state;

pub use file::{SnapshotFileError, Unfinished, Verify};
pub use parts::PartsError;
pub use state::{MachineState, VcpuRecord};

use std::sync::Arc;

use crate::memory::{HotSet, MemoryImage};

/// Memory image, machine state and hot set of one moment. Sandboxes are spawned from it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The memory.
    pub image: Arc<MemoryImage>,
    /// Everything else.
    pub state: Arc<MachineState>,
    /// Pages that clones are known to write soon.
    pub hot_set: Option<Arc<HotSet>>,
}

impl Snapshot {
    /// The same snapshot with a hot set.
    #[must_use]
    pub fn with_hot_set(&self, hot_set: HotSet) -> Self {
        Self { hot_set: Some(Arc::new(hot_set)), ..self.clone() }
    }
}
