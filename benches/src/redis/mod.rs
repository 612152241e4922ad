//! A real Redis to measure: its server, a client that knows the time of every request, and
//! the proof that what it saved is the data of one instant.

pub mod benchmark;
pub mod client;
pub mod cut;
pub mod guest;
pub mod record;
pub mod save;
pub mod server;
pub mod writer;

use std::io;

use crate::BenchError;

/// What went wrong with a Redis.
pub fn failed(doing: impl Into<String>) -> impl FnOnce(io::Error) -> BenchError {
    let doing = doing.into();
    move |source| BenchError::Redis { doing, source }
}
