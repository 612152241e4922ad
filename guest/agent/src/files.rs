//! Files: what a request does to one of them.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tine_abi::agent::{AgentMessage, CHUNK, Failure, HostMessage};

use crate::connection::{Connection, broken};
use crate::failure::on_file;
use crate::replacement::Replacement;
use crate::users::Identity;

/// Sends what is in the file at `path`: `length` bytes from `offset`, or what there is of them.
pub fn read(
    connection: &mut Connection,
    path: &str,
    offset: u64,
    length: Option<u64>,
) -> Result<(), Failure> {
    let failed = |error| on_file("reading", path, error);
    // Without O_NONBLOCK a pipe that nobody writes to could be waited for for ever.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file =
        OpenOptions::new().read(true).custom_flags(flags).open(absolute(path)?).map_err(failed)?;
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).map_err(failed)?;
    }
    let mut rest = file.take(length.unwrap_or(u64::MAX));
    loop {
        let mut data = vec![0; CHUNK];
        let bytes = read_some(&mut rest, &mut data).map_err(failed)?;
        if bytes == 0 {
            return Ok(());
        }
        data.truncate(bytes);
        connection.send(&AgentMessage::Data(data))?;
    }
}

fn read_some(from: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Takes the file at `path` from the host.
pub fn write(
    connection: &mut Connection,
    path: &str,
    mode: Option<u32>,
    owner: Option<&str>,
    parents: bool,
) -> Result<(), Failure> {
    let owner = owner.map(Identity::find).transpose()?;
    let directory = absolute(path)?.parent().unwrap_or(Path::new("/"));
    if parents {
        make_directory(&directory.to_string_lossy())?;
    }
    let owner = owner.map(|owner| (owner.uid, owner.gid));
    let mut replacement = Replacement::new(path, mode, owner)?;
    loop {
        match connection.receive().map_err(broken)? {
            Some(HostMessage::Data(data)) => replacement.write(&data)?,
            Some(HostMessage::End) => return replacement.commit(),
            Some(_) => return Err(Failure::Invalid("a file is Data and End".into())),
            None => return Err(broken(io::ErrorKind::UnexpectedEof.into())),
        }
    }
}

/// Makes the directory at `path`, and those above it.
pub fn make_directory(path: &str) -> Result<(), Failure> {
    let made = fs::create_dir_all(absolute(path)?);
    made.map_err(|error| on_file("making the directory", path, error))
}

/// Removes what is at `path`, a directory with all in it if `recursive`.
pub fn remove(path: &str, recursive: bool) -> Result<(), Failure> {
    let failed = |error| on_file("removing", path, error);
    let absolute = absolute(path)?;
    let directory = fs::symlink_metadata(absolute).map_err(failed)?.is_dir();
    match (directory, recursive) {
        (true, true) => fs::remove_dir_all(absolute),
        (true, false) => fs::remove_dir(absolute),
        (false, _) => fs::remove_file(absolute),
    }
    .map_err(failed)
}

/// Gives what is at `from` the name `to`.
pub fn rename(from: &str, to: &str) -> Result<(), Failure> {
    let (source, target) = (absolute(from)?, absolute(to)?);
    fs::symlink_metadata(source).map_err(|error| on_file("renaming", from, error))?;
    // What is missing now is a directory above the new name.
    fs::rename(source, target).map_err(|error| on_file(&format!("renaming {from} to"), to, error))
}

/// `path`, if it says where from the root.
pub fn absolute(path: &str) -> Result<&Path, Failure> {
    let path = Path::new(path);
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Failure::Invalid(format!("{} is not an absolute path", path.display()))),
    }
}
