//! One microVM, from guest bytes to running vCPUs, and its copy-on-write forks.
#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod memory;
