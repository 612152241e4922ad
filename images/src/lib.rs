//! Images of Linux guests: a kernel, an initramfs with the agent, and a read-only root file
//! system, made by recipe from the distribution's packages or imported, and kept by content.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod build;
mod digest;
mod error;
mod import;
mod initramfs;
mod kernel;
mod manifest;
mod modules;
mod packages;
mod recipe;
mod rootfs;
mod store;
mod tool;
mod unpack;

pub use build::BuildOptions;
pub use error::ImageError;
pub use manifest::{KernelRecord, Manifest, Origin};
pub use packages::Package;
pub use recipe::Recipe;
pub use store::{Image, Store};
