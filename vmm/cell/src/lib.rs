//! One confined process per microVM.
//!
//! A *cell* is a process that hosts one machine and may do nothing else ([`confine`]). Its
//! *keeper*, in the daemon, talks to it over a [`channel`] by a [`protocol`], and never maps
//! guest memory. The *warden* is the process whose children all cells are, and with which they
//! all end. A live fork is `fork(2)` of a cell; its child is a cell of its own.
//!
//! - in the daemon: [`Nursery`] makes cells ahead and hands them out, [`Cell`] is one of them
//! - in the cells: `inside`

#![warn(missing_docs)]
// Tests may stop at what surprises them.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod channel;
pub mod confine;
pub mod fault;
mod inside;
pub mod keeper;
pub mod meminfo;
pub mod protocol;
pub mod warden;

pub use fault::{Fault, Kind};
pub use keeper::{Cell, CellLimits, CellSnapshot, Nursery, NurseryConfig, Origin, SpawnWish};
