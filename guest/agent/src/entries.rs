//! What is known of files.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tine_abi::agent::{AgentMessage, CHUNK, Entry, EntryKind, Failure};

use crate::connection::Connection;
use crate::failure::on_file;
use crate::files::absolute;

/// What is known of the file at `path`. A link is not followed.
pub fn stat(path: &str) -> Result<Entry, Failure> {
    entry(absolute(path)?).map_err(|error| on_file("looking at", path, error))
}

/// Sends what is in the directory at `path`, by name.
pub fn list(connection: &mut Connection, path: &str) -> Result<(), Failure> {
    let failed = |error| on_file("listing", path, error);
    let directory = absolute(path)?;
    let mut names = fs::read_dir(directory)
        .and_then(|entries| {
            entries.map(|entry| Ok(entry?.file_name())).collect::<Result<Vec<_>, _>>()
        })
        .map_err(failed)?;
    names.sort();
    let mut entries = Vec::new();
    let mut bytes = 0;
    for name in names {
        match entry(&directory.join(name)) {
            Ok(entry) => {
                bytes += size(&entry);
                entries.push(entry);
            }
            // It went while the others were looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if bytes > CHUNK {
            connection.send(&AgentMessage::Entries(std::mem::take(&mut entries)))?;
            bytes = 0;
        }
    }
    match entries.is_empty() {
        true => Ok(()),
        false => connection.send(&AgentMessage::Entries(entries)),
    }
}

/// About what the entry takes in a message, bytes: no more than twice [`CHUNK`] is sent, as
/// one entry has at most a name and a path.
fn size(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.name.len() + entry.target.as_ref().map_or(0, String::len)
}

fn entry(path: &Path) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let target = match metadata.is_symlink() {
        true => Some(fs::read_link(path)?.to_string_lossy().into_owned()),
        false => None,
    };
    let name = path.file_name().unwrap_or(path.as_os_str());
    Ok(Entry {
        name: name.to_string_lossy().into_owned(),
        kind: kind(&metadata),
        bytes: metadata.size(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        modified_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
        target,
    })
}

fn kind(metadata: &Metadata) -> EntryKind {
    let kind = metadata.file_type();
    if kind.is_file() {
        EntryKind::File
    } else if kind.is_dir() {
        EntryKind::Directory
    } else if kind.is_symlink() {
        EntryKind::Link
    } else {
        EntryKind::Other
    }
}
