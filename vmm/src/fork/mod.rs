//! How one machine becomes several, and what each step costs.
//!
//! - `spawn`: from a snapshot. Nothing is copied, or everything (the eager baseline). A clone
//!   can be prepared before anybody asks for it.
//! - `live`: from a running machine, whose own pages are copied while it is parked:
//!   straight into a single child, or once into a delta that several children share.
//! - `frozen`: from a running machine in a child process, which shares its pages.

mod frozen;
mod ladder;
pub(crate) mod live;
pub(crate) mod spawn;

pub use frozen::{Frozen, Pause};
pub use ladder::Ladder;
pub use spawn::{Prepared, StartOptions};
