//! What can go wrong with a probe.

use std::io;

use thiserror::Error;

/// What can go wrong with a probe.
#[derive(Debug, Error)]
pub enum Failure {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    /// The kernel refused something.
    #[error("{action} failed")]
    Os {
        /// What it refused.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the kernel does not say what is needed.
    #[error("{file} does not tell {what}")]
    Missing {
        /// The file.
        file: String,
        /// What it should tell.
        what: String,
    },
    /// A child did not do its work.
    #[error("a child that was to {doing} {ended}")]
    Child {
        /// Its work.
        doing: String,
        /// How it ended, or what it said.
        ended: String,
    },
    /// Memory is not what it should be.
    #[error("{what} is {found}, not {expected}")]
    Wrong {
        /// What was looked at.
        what: String,
        /// What it was.
        found: String,
        /// What it should have been.
        expected: String,
    },
    /// A row can't be made JSON, or a message read.
    #[error("{what} can't be put into JSON, or read from it")]
    Json {
        /// What it was.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// Says what was being done when the kernel refused.
pub trait During<T> {
    /// The value, or the error with `action`.
    ///
    /// # Errors
    ///
    /// When there is no value.
    fn during(self, action: &str) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> During<T> for Result<T, E> {
    fn during(self, action: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Os { action: action.into(), source: error.into() })
    }
}

/// The error and its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text += &format!(": {cause}");
        next = cause.source();
    }
    text
}
