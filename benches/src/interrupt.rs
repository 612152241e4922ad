//! Ctrl-C: the run stops between two samples, and what was measured is kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::BenchError;

/// Whether someone has asked for the end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT and SIGTERM ask for the end. The second of them ends the process.
    pub fn install() -> Result<Self, BenchError> {
        let asked = Self::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds nothing asked for yet.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&asked.0))
                .and_then(|_| flag::register(signal, Arc::clone(&asked.0)))
                .map_err(|source| BenchError::Call { call: "sigaction", source })?;
        }
        Ok(asked)
    }

    /// An error, once it is asked for.
    pub fn check(&self) -> Result<(), BenchError> {
        if self.asked() { Err(BenchError::Interrupted) } else { Ok(()) }
    }

    /// Whether it is asked for.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks for it, as a signal does.
    #[cfg(test)]
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
