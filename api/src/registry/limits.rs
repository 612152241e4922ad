//! What the daemon admits.

/// Largest [`Limits::operations`]: as many threads again wait for guests at work, and all of
/// them fit into the pool of blocking threads (512) with room for kills.
pub const MAX_OPERATIONS: usize = 200;

/// What the daemon admits.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most sandboxes.
    pub sandboxes: usize,
    /// Most snapshots, without the images' own.
    pub snapshots: usize,
    /// Most guest RAM of all sandboxes together, bytes, as [`Self::overcommit`] counts it.
    pub ram_bytes: u64,
    /// What the RAM of a copy-on-write clone is divided by before it is counted: clones share
    /// what they do not write. 1 at least, at which all of them may write everything.
    pub overcommit: f64,
    /// Most guest RAM of one sandbox, bytes.
    pub sandbox_ram_bytes: u64,
    /// Largest request body, bytes.
    pub body_bytes: usize,
    /// Most operations on machines at once, and most guests that are waited for at once;
    /// others wait. 1 to [`MAX_OPERATIONS`].
    pub operations: usize,
    /// Most operations that wait for their turn; more are refused.
    pub queue: usize,
}

/// How many times over guest RAM is admitted unless the operator says otherwise: clones were seen
/// to write a few percent of theirs.
pub const OVERCOMMIT: f64 = 16.0;

impl Limits {
    /// For a host with `memory_bytes` of memory to give.
    pub fn for_host(memory_bytes: u64) -> Self {
        Self {
            sandboxes: 2000,
            snapshots: 1000,
            ram_bytes: memory_bytes,
            overcommit: OVERCOMMIT,
            sandbox_ram_bytes: memory_bytes,
            body_bytes: 64 << 10,
            operations: 64,
            queue: 256,
        }
    }
}
