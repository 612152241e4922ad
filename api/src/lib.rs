//! The daemon: microVMs forked over HTTP.
//!
//! [`server`] speaks HTTP, [`model`] is what goes over the wire, [`registry`] holds the
//! sandboxes and snapshots, [`engine`] makes machines, [`template`] has the images that have
//! booted, [`agent`] speaks with what runs in Linux guests, [`metrics`] counts, and [`audit`]
//! tells who did what.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod agent;
pub mod audit;
pub mod console;
pub mod engine;
pub mod metrics;
pub mod model;
pub mod problem;
pub mod registry;
pub mod server;
pub mod stream;
pub mod template;
pub mod time;
