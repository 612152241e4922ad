//! What a cell may not do, and how it comes that it can't.
//!
//! A cell is a process of one thread when it confines itself: `namespaces` take away
//! everything that it could see, capabilities everything that a user could do, `limits` bound
//! what it takes, and `seccomp` leaves it the system calls that a machine needs. All of it is
//! inherited by what the cell forks, and none of it can be undone.

mod limits;
mod namespaces;
mod seccomp;

pub use seccomp::Filter;

use std::fs::File;
use std::io;

use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tine_vmm::memory::{hotset, pagemap};

/// What can go wrong while a cell is confined.
#[derive(Debug, Error)]
pub enum ConfineError {
    /// A step failed.
    #[error("{step} failed{hint}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What may help, with a leading semicolon; may be empty.
        hint: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The filter of system calls could not be made.
    #[error("the filter of system calls can't be made")]
    Filter(#[from] seccompiler::BackendError),
    /// It could not be put in place.
    #[error("the filter of system calls can't be put in place")]
    Apply(#[from] seccompiler::Error),
}

fn failed<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> ConfineError {
    move |source| ConfineError::Step { step, hint: "", source: source.into() }
}

/// How far a cell is confined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Whether it gets namespaces of its own and an empty root.
    pub namespaces: bool,
    /// Whether it may make only the system calls that machines need. Without this and
    /// without namespaces it is not confined at all: to measure what confinement costs, and for
    /// nothing else.
    pub seccomp: bool,
}

impl Default for Confinement {
    fn default() -> Self {
        Self { namespaces: true, seccomp: true }
    }
}

/// Confines this process, which has one thread, for good.
pub fn confine(confinement: Confinement, filter: &Filter) -> Result<(), ConfineError> {
    // The last look at /proc: there is none in an empty root.
    let pages = File::open("/proc/self/pagemap").map_err(failed("opening /proc/self/pagemap"))?;
    pagemap::use_file(Some(pages));
    if confinement == (Confinement { namespaces: false, seccomp: false }) {
        return Ok(());
    }
    // The last chance, too, to make this; without it, pages that are read are not told apart.
    if let Err(error) = hotset::prepare_watch() {
        tracing::debug!(%error, "no userfaultfd");
    }
    let mut owner = namespaces::Owner::of_this_process();
    if confinement.namespaces {
        owner = namespaces::enter(owner)?;
    }
    limits::set(owner.is_own()).map_err(failed("setting limits"))?;
    drop_capabilities().map_err(failed("dropping capabilities"))?;
    owner.hide().map_err(failed("closing /proc to others"))?;
    if confinement.seccomp {
        filter.apply()?;
    }
    Ok(())
}

/// Gives up every capability, also those that a program could regain.
fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not know, or a user who has none anyway.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}
