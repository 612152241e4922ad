//! `tine cp`: files and directories into a guest, or out of it.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::Args;
use http_body_util::BodyExt;
use tine::model::{Entry, EntryKind};
use tine::stream::Channel;

use super::client::{Body, Client};
use super::files::{Files, GuestPath, join};
use super::output;
use super::terminal::read_ahead;

/// Permissions of a file whose own are not known, before the umask.
const DEFAULT_MODE: u32 = 0o666;
/// The permissions that are carried over: none that make a program another user.
const MODE_MASK: u32 = 0o777;

/// Options of `tine cp`.
#[derive(Args, Debug)]
pub struct Cp {
    /// What to copy: a path here, ID:/PATH, or - for standard input. Directories with all
    /// in them, but without symbolic links
    #[arg(value_name = "SRC")]
    source: Place,
    /// Where to: a path here, ID:/PATH, or - for standard output
    #[arg(value_name = "DST")]
    destination: Place,
}

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Guest(GuestPath),
    Here(PathBuf),
    /// Standard input or output.
    Standard,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("", _) => Err("a path is not empty".to_owned()),
            ("-", _) => Ok(Self::Standard),
            (_, Ok(place)) => Ok(Self::Guest(place)),
            (path, Err(_)) => Ok(Self::Here(path.into())),
        }
    }
}

impl Cp {
    /// Copies. What can't be copied is told, and the rest is.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let skipped = match (&self.source, &self.destination) {
            (Place::Guest(from), Place::Standard) => {
                Files::of(client, &from.id)?.read(&from.path, output::write)?;
                0
            }
            (Place::Standard, Place::Guest(to)) => {
                let body = body_of(io::stdin())?;
                Files::of(client, &to.id)?.write(&to.path, None, body)?;
                0
            }
            (Place::Guest(from), Place::Here(to)) => {
                download(&Files::of(client, &from.id)?, &from.path, to)?
            }
            (Place::Here(from), Place::Guest(to)) => {
                upload(&Files::of(client, &to.id)?, from, &to.path)?
            }
            (Place::Guest(_), Place::Guest(_)) => {
                bail!("one side must be here: copy out of the first sandbox, then into the second")
            }
            _ => bail!("one side must be in a sandbox: ID:/PATH"),
        };
        Ok(if skipped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn skip(what: &str, why: &str) -> usize {
    eprintln!("tine: {} is skipped: {why}", what.escape_debug());
    1
}

/// Copies the file or directory at `from` into the guest; how many files were skipped.
fn upload(files: &Files<'_>, from: &Path, to: &str) -> Result<usize> {
    let metadata =
        fs::metadata(from).with_context(|| format!("{} can't be read", from.display()))?;
    let to = match to.ends_with('/') || files.is_directory(to)? {
        true => join(to, &name_of(from)?),
        false => to.to_owned(),
    };
    if !metadata.is_dir() {
        return send(files, from, metadata.permissions().mode(), &to).map(|()| 0);
    }
    let mut skipped = 0;
    let mut directories = vec![(from.to_path_buf(), to)];
    while let Some((from, to)) = directories.pop() {
        let unreadable = || format!("{} can't be read", from.display());
        files.make_directory(&to)?;
        for entry in fs::read_dir(&from).with_context(unreadable)? {
            let entry = entry.with_context(unreadable)?;
            let path = entry.path();
            let metadata = entry.metadata().with_context(unreadable)?;
            let Some(to) = entry.file_name().to_str().map(|name| join(&to, name)) else {
                skipped += skip(&path.to_string_lossy(), "its name is no UTF-8");
                continue;
            };
            if metadata.is_dir() {
                directories.push((path, to));
            } else if metadata.is_file() {
                send(files, &path, metadata.permissions().mode(), &to)?;
            } else {
                skipped += skip(&path.to_string_lossy(), "it is no file and no directory");
            }
        }
    }
    Ok(skipped)
}

/// The last part of `path`, however it is written.
fn name_of(path: &Path) -> Result<String> {
    let name = match path.file_name() {
        Some(name) => name.to_owned(),
        None => {
            let whole = fs::canonicalize(path);
            let whole = whole.with_context(|| format!("{} can't be read", path.display()))?;
            whole.file_name().map(OsStr::to_owned).unwrap_or_default()
        }
    };
    let name = name.into_string();
    name.map_err(|name| anyhow::anyhow!("the name {name:?} is no UTF-8, which a guest's must be"))
}

fn send(files: &Files<'_>, from: &Path, mode: u32, to: &str) -> Result<()> {
    let file = File::open(from).with_context(|| format!("{} can't be read", from.display()))?;
    let sent = files.write(to, Some(mode & MODE_MASK), body_of(file)?);
    sent.with_context(|| format!("{} was not copied", from.display()))
}

fn body_of(from: impl io::Read + Send + 'static) -> Result<Body> {
    Ok(Channel(read_ahead(from)?).boxed_unsync())
}

/// Copies the file or directory at `from` out of the guest; how many files were skipped.
fn download(files: &Files<'_>, from: &str, to: &Path) -> Result<usize> {
    let name = from.rsplit('/').find(|part| !part.is_empty());
    let to = match name {
        Some(name) if to.is_dir() => to.join(name),
        _ => to.to_path_buf(),
    };
    if !files.is_directory(from)? {
        let entry = files.stat(from)?;
        return fetch(files, from, &entry, &to).map(|()| 0);
    }
    let mut skipped = 0;
    let mut directories = vec![(from.to_owned(), to)];
    while let Some((from, to)) = directories.pop() {
        make_directory(&to)?;
        for entry in files.list(&from)?.entries {
            let (from, to) = (join(&from, &entry.name), to.join(&entry.name));
            match entry.kind {
                EntryKind::Directory => directories.push((from, to)),
                EntryKind::File => fetch(files, &from, &entry, &to)?,
                EntryKind::Link | EntryKind::Other => {
                    skipped += skip(&from, "it is no file and no directory");
                }
            }
        }
    }
    Ok(skipped)
}

fn make_directory(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made.with_context(|| format!("{} can't be made", path.display())),
    }
}

/// Copies one file out of the guest. It appears whole, or not at all.
fn fetch(files: &Files<'_>, from: &str, entry: &Entry, to: &Path) -> Result<()> {
    let mode = match entry.kind {
        EntryKind::File => u32::from_str_radix(&entry.mode, 8).unwrap_or(DEFAULT_MODE) & MODE_MASK,
        _ => DEFAULT_MODE,
    };
    let unwritable = || format!("{} can't be written", to.display());
    // What is no file, as /dev/null, is written to and not replaced.
    if fs::metadata(to).is_ok_and(|metadata| !metadata.is_file()) {
        let mut out = OpenOptions::new().write(true).open(to).with_context(unwritable)?;
        return files.read(from, |piece| out.write_all(piece).with_context(unwritable));
    }
    let mut unfinished = Unfinished::create(to, mode).with_context(unwritable)?;
    files.read(from, |piece| unfinished.file.write_all(piece).with_context(unwritable))?;
    unfinished.finish(to).with_context(unwritable)
}

/// A file that is not whole yet, beside the one that it is to be; it goes when it is dropped.
struct Unfinished {
    file: File,
    path: Option<PathBuf>,
}

impl Unfinished {
    fn create(to: &Path, mode: u32) -> io::Result<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(to.file_name().ok_or(io::ErrorKind::InvalidInput)?);
        name.push(format!(".{}.new", std::process::id()));
        let path = to.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?;
        Ok(Self { file, path: Some(path) })
    }

    fn finish(mut self, to: &Path) -> io::Result<()> {
        if let Some(path) = &self.path {
            fs::rename(path, to)?;
        }
        self.path = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            eprintln!("tine: {} is left: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests;
