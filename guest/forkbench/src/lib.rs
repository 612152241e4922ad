//! What `fork` and copy-on-write cost processes. The program of this crate measures it, on the
//! host or inside a Linux guest, and prints one JSON object a line: a [`Row`](rows::Row), with
//! every sample in the order in which it was taken. Statistics are up to who reads them.
//!
//! One file of [`probes`] measures one thing. The others are what they are made of: a region of
//! memory, which of its pages, children of every kind, the kernel's counters, one clock.

#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod args;
pub mod child;
pub mod clock;
pub mod counters;
pub mod eager;
pub mod failure;
pub mod line;
pub mod pages;
pub mod probes;
pub mod program;
pub mod region;
pub mod room;
pub mod rows;
pub mod shared;
pub mod slab;
pub mod ways;
