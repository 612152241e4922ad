//! What the VMM and what runs inside its guests agree on.
//!
//! Both sides compile this crate: the VMM builds the guest's memory by
//! [`layout`], sends a [`Command`](command::Command) through the mailbox of a vCPU,
//! and reads a [`Reply`](command::Reply) back. [`pattern`] says which pages a
//! command visits, so that a test on the host can name the very same pages.
//!
//! The mailbox holds nothing but 64-bit words, so that neither side ever
//! interprets the other's bytes as a Rust structure.

//!
//! With the feature `agent`, [`agent`] is the protocol of Linux guests.

#![no_std]
#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

#[cfg(feature = "agent")]
extern crate std;

#[cfg(feature = "agent")]
pub mod agent;

pub mod command;
pub mod layout;
pub mod pattern;

/// Version of everything in this crate. The VMM writes it into the boot page and
/// the guest refuses to run under another.
pub const ABI_VERSION: u64 = 1;
