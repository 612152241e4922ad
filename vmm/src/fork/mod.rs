//! How one machine becomes several, and what each step costs.
//!
//! - `spawn`: from a snapshot. Nothing is copied, or everything (the eager baseline).
//! - `live`: from a running machine, whose own pages are copied while it is parked:
//!   straight into a single child, or once into a delta that several children share.

mod ladder;
pub(crate) mod live;
pub(crate) mod spawn;

pub use ladder::Ladder;
