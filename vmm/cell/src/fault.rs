//! Why a cell could not do what was wanted: what matters of an error between two processes.

use std::error::Error;

use serde::{Deserialize, Serialize};
use tine_abi::agent::Failure;
use tine_vmm::MachineError;
use tine_vmm::boot::BootError;
use tine_vmm::kvm::KvmError;

/// Longest explanation, bytes: a message has room for one.
const MAX_TEXT: usize = 3000;

/// Whose fault something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The machine is in no state for that.
    State,
    /// What was asked for is impossible: the field at fault.
    Value(String),
    /// It took too long.
    Timeout,
    /// The guest broke something.
    Guest,
    /// The guest's agent refused.
    Agent(Failure),
    /// The host has no room.
    Room,
    /// The cell is gone.
    Gone,
    /// Anything else.
    Internal,
}

/// Why something could not be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Fault {
    /// Whose fault it is.
    pub kind: Kind,
    /// What to tell.
    pub text: String,
}

impl Fault {
    /// A fault of `kind`, which `text` explains.
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if let Some((end, _)) = text.char_indices().find(|(at, _)| *at >= MAX_TEXT) {
            text.truncate(end);
        }
        Self { kind, text }
    }

    /// A fault of `kind`, which `error` explains.
    pub fn of(kind: Kind, error: &dyn Error) -> Self {
        Self::new(kind, with_causes(error))
    }

    /// The machine is in no state for that.
    pub fn state(text: impl Into<String>) -> Self {
        Self::new(Kind::State, text)
    }

    /// Something of this program's own went wrong.
    pub fn internal(error: &dyn Error) -> Self {
        Self::of(Kind::Internal, error)
    }
}

impl From<MachineError> for Fault {
    fn from(error: MachineError) -> Self {
        let text = with_causes(&error);
        let kind = match error {
            MachineError::Busy { .. }
            | MachineError::Killed
            | MachineError::Failed(_)
            | MachineError::Lost
            | MachineError::NoAgent
            | MachineError::NoWorkload
            | MachineError::Ended(_)
            | MachineError::NoOrigin => Kind::State,
            MachineError::NoVcpu { .. } => Kind::Value("vcpu".into()),
            MachineError::Refused { .. } => Kind::Value("bytes".into()),
            MachineError::Boot(BootError::Vcpus { .. } | BootError::LinuxVcpus { .. }) => {
                Kind::Value("vcpus".into())
            }
            MachineError::Boot(BootError::Ram { .. } | BootError::LinuxRam { .. }) => {
                Kind::Value("memory_mib".into())
            }
            MachineError::Timeout { .. } | MachineError::AgentSilent(_) => Kind::Timeout,
            MachineError::Agent { .. } => Kind::Guest,
            MachineError::AgentRefused { failure, .. } => Kind::Agent(failure),
            MachineError::Memory(_) | MachineError::Thread { .. } => Kind::Room,
            // The host is full; a few sandboxes less, and it would have worked.
            MachineError::Kvm(KvmError::Call { source, .. })
                if [libc::ENOMEM, libc::EMFILE, libc::ENFILE].contains(&source.errno()) =>
            {
                Kind::Room
            }
            _ => Kind::Internal,
        };
        Self::new(kind, text)
    }
}

/// An error and what caused it, in one line.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explanations_fit_into_a_message() {
        let fault = Fault::state("é".repeat(5000));
        assert!(fault.text.len() <= MAX_TEXT + 2);
        assert!(postcard::to_stdvec(&fault).unwrap().len() < crate::channel::MAX_BYTES);
    }
}
