//! Images: a kernel, an initramfs with the agent, and a root file system, made by recipe and
//! kept in a [`Store`].
//!
//! The kernel is Debian's, as it is packaged. What no crate does is left to the programs that
//! Debian has for it: apt fetches, dpkg-deb unpacks, mmdebstrap installs, mkfs.erofs packs.

#![warn(missing_docs)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod digest;
mod error;
mod import;
mod initramfs;
mod kernel;
mod packages;
mod program;
mod recipe;
mod rootfs;
mod store;
mod unpack;

pub use error::ImageError;
pub use recipe::Recipe;
pub use store::{Image, Manifest, Store};
