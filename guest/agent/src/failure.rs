//! How the kernel's refusals become answers.

use std::io;

use tine_abi::agent::Failure;

/// The kernel refused `action`.
pub fn os(action: impl Into<String>, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    // Only errors that the standard library finds itself, such as a NUL in a path, have no
    // number: all of them are about arguments.
    Failure::Os { action: action.into(), errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// The kernel refused `action` on the file `path`, which may just not be there.
pub fn on_file(action: &str, path: &str, error: impl Into<io::Error>) -> Failure {
    let error = error.into();
    match error.kind() {
        io::ErrorKind::NotFound => Failure::NotFound(path.into()),
        _ => os(format!("{action} {path}"), error),
    }
}
