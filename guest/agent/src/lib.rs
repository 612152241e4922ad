//! The agent of tine's Linux guests.
//!
//! It is their first process: [`boot`] makes a machine of an initramfs and a disk, and
//! [`service`] does what the host asks for over vsock, in the protocol of
//! [`tine_abi::agent`]. It is linked statically, as the images bring any C library or none.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod adopt;
pub mod boot;
pub mod children;
mod connection;
mod entries;
mod exec;
mod failure;
mod files;
pub mod listener;
pub mod log;
pub mod power;
mod replacement;
pub mod service;
mod users;

/// Whether this is the first process, to which the machine belongs. Any other must not
/// switch it off or set its clock.
fn is_first() -> bool {
    std::process::id() == 1
}
