//! The program that children execute: this one, as `nop`. It tells when it started, waits if it is
//! told to, and ends.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, RawFd};
use std::ptr;

use crate::failure::{During, Failure};
use crate::shared::{Shared, Slot, stamp_file};

/// What is needed to execute it, made before there is a child.
#[derive(Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
}

/// The arguments as the kernel takes them.
pub struct Pointers<'a> {
    path: &'a CStr,
    arguments: Vec<*const libc::c_char>,
    environment: [*const libc::c_char; 1],
}

impl Program {
    /// The program at `path`, which stamps `shared`, and stays until `hold` is closed if there is such a socket.
    ///
    /// # Errors
    ///
    /// When the path holds a zero.
    pub fn new(path: &str, shared: &Shared, hold: Option<RawFd>) -> Result<Self, Failure> {
        let mut words = vec!["nop".to_owned(), "--stamp".into(), shared.descriptor().to_string()];
        words.extend(hold.into_iter().flat_map(|hold| ["--hold".into(), hold.to_string()]));
        words.insert(0, "forkbench".into());
        let text = |word: &str| {
            CString::new(word).map_err(|_| Failure::Usage(format!("{word:?} is no path")))
        };
        Ok(Self {
            path: text(path)?,
            arguments: words.iter().map(|word| text(word)).collect::<Result<_, _>>()?,
        })
    }

    /// The arguments as the kernel takes them.
    pub fn pointers(&self) -> Pointers<'_> {
        let mut arguments: Vec<_> = self.arguments.iter().map(|word| word.as_ptr()).collect();
        arguments.push(ptr::null());
        Pointers { path: &self.path, arguments, environment: [ptr::null()] }
    }
}

impl Pointers<'_> {
    /// Becomes the program. Returns only if that failed: why, as the kernel numbers it.
    pub fn execute(&self) -> i32 {
        // SAFETY: path and arguments are strings with an end, in lists with an end, and live.
        unsafe {
            libc::execve(self.path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr())
        };
        nix::errno::Errno::last_raw()
    }

    /// A child that is the program, by `posix_spawn`: its process id.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn spawn(&self) -> Result<i32, Failure> {
        let mut pid = 0;
        // SAFETY: as in `execute`; there are no actions and no attributes, and it writes to
        // `pid` only. The lists are of pointers that it does not write through.
        let error = unsafe {
            libc::posix_spawn(
                &mut pid,
                self.path.as_ptr(),
                ptr::null(),
                ptr::null(),
                self.arguments.as_ptr().cast(),
                self.environment.as_ptr().cast(),
            )
        };
        match error {
            0 => Ok(pid),
            error => Err(std::io::Error::from_raw_os_error(error)).during("posix_spawn"),
        }
    }
}

/// What the program does: puts the time into the page of stamps that is the descriptor `stamp`, and
/// waits until the other end of the descriptor `hold` is closed.
///
/// # Errors
///
/// When these are no such descriptors.
pub fn nop(stamp: RawFd, hold: Option<RawFd>) -> Result<(), Failure> {
    // SAFETY: whoever executed this program gave it the descriptor and its number, for it alone.
    let page = unsafe { File::from_raw_fd(stamp) };
    stamp_file(&page, Slot::Program as u64)?;
    if let Some(hold) = hold {
        // SAFETY: as above.
        let mut hold = unsafe { File::from_raw_fd(hold) };
        hold.write_all(b"r").during("saying that the program runs")?;
        hold.read_to_end(&mut Vec::new()).during("waiting to be let go")?;
    }
    Ok(())
}
