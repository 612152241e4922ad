//! The daemon: microVMs forked over HTTP.
//!
//! [`server`] speaks HTTP, [`model`] is what goes over the wire, [`registry`] holds the
//! sandboxes and snapshots, and [`metrics`] counts.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod agent;
pub mod console;
pub mod metrics;
pub mod model;
pub mod problem;
pub mod registry;
pub mod server;
pub mod template;
pub mod time;
