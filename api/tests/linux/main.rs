//! Linux guests, forked. They need a KVM that runs a kernel: `cargo xtask test` runs these in
//! a virtual KVM host where this one does not. It knows them by the name of their module.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod in_linux;
