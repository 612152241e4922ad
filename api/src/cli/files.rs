//! The files of a guest, and `tine ls`.

use std::fmt;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::StatusCode;
use serde_json::json;
use tine::model::{Entry, EntryKind, Listing};

use super::client::{Body, Client, Refusal, segment};
use super::output::{Output, table};
use super::{resolve, size};

/// A path in a guest: ID:/PATH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPath {
    /// Id of the sandbox, or the beginning of it.
    pub id: String,
    /// Absolute path.
    pub path: String,
}

impl FromStr for GuestPath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && !id.contains('/') && path.starts_with('/') => {
                Ok(Self { id: id.to_owned(), path: path.to_owned() })
            }
            _ => Err("a path in a sandbox is ID:/PATH".to_owned()),
        }
    }
}

/// The files of one sandbox.
pub struct Files<'a> {
    client: &'a Client,
    /// Path of the API that they are under.
    base: String,
}

impl<'a> Files<'a> {
    /// Those of the sandbox whose id begins with `id`.
    pub fn of(client: &'a Client, id: &str) -> Result<Self> {
        let id = resolve::sandbox(client, id)?;
        Ok(Self { client, base: format!("/v1/sandboxes/{}/files", segment(&id)) })
    }

    /// What is at `path`.
    pub fn stat(&self, path: &str) -> Result<Entry> {
        let entry = self.client.get(&self.query(path, "&stat=true"))?;
        serde_json::from_value(entry).context("the daemon described no file")
    }

    /// Whether there is a directory at `path`, or a link to one.
    pub fn is_directory(&self, path: &str) -> Result<bool> {
        match self.stat(&format!("{path}/.")) {
            Ok(_) => Ok(true),
            Err(error) => match error.downcast_ref::<Refusal>().map(|refusal| refusal.status) {
                // It is missing, or not a directory.
                Some(StatusCode::NOT_FOUND | StatusCode::CONFLICT) => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// What is in the directory at `path`. The names are such that they stay in it, whatever
    /// the guest says.
    pub fn list(&self, path: &str) -> Result<Listing> {
        let listing = self.client.get(&self.query(path, "&list=true"))?;
        let listing: Listing =
            serde_json::from_value(listing).context("the daemon listed no files")?;
        for Entry { name, .. } in &listing.entries {
            let stays =
                !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
            ensure!(stays, "the guest says that a file in {path} is called {name:?}");
        }
        Ok(listing)
    }

    /// Gives `each` the pieces of the file at `path`.
    pub fn read(&self, path: &str, each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.client.stream(&self.query(path, ""), each)
    }

    /// Makes `body` the file at `path`, and the directories above it.
    pub fn write(&self, path: &str, mode: Option<u32>, body: Body) -> Result<()> {
        let mode = mode.map(|mode| format!("&mode={mode:o}")).unwrap_or_default();
        self.client.put(&self.query(path, &format!("&parents=true{mode}")), body)
    }

    /// Makes a directory at `path`, and those above it.
    pub fn make_directory(&self, path: &str) -> Result<()> {
        self.client.post(&format!("{}/mkdir", self.base), Some(json!({"path": path}))).map(drop)
    }

    fn query(&self, path: &str, rest: &str) -> String {
        format!("{}?path={}{rest}", self.base, segment(path))
    }
}

/// `name` in the directory at `path`.
pub fn join(path: &str, name: &str) -> String {
    format!("{}/{name}", path.trim_end_matches('/'))
}

/// Options of `tine ls`.
#[derive(Args, Debug)]
pub struct Ls {
    /// The directory, or a file
    #[arg(value_name = "ID:/PATH")]
    place: GuestPath,
    #[command(flatten)]
    output: Output,
}

impl Ls {
    /// Lists it.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let files = Files::of(client, &self.place.id)?;
        let path = &self.place.path;
        let listing = match files.is_directory(path)? {
            true => files.list(path)?,
            false => Listing { entries: vec![files.stat(path)?] },
        };
        self.output.print(&serde_json::to_value(&listing)?, |_| show(&listing.entries))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn show(entries: &[Entry]) -> String {
    table(
        ["MODE", "OWNER", "SIZE", "MODIFIED", "NAME"],
        &[2],
        entries.iter().map(|entry| {
            [
                entry.mode.clone(),
                format!("{}:{}", entry.uid, entry.gid),
                size::bytes(entry.bytes),
                entry.modified_at.clone(),
                Name(entry).to_string(),
            ]
        }),
    )
}

/// A file's name with what it is, in characters that do nothing to a terminal.
struct Name<'a>(&'a Entry);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        printable(f, &self.0.name)?;
        match (self.0.kind, &self.0.target) {
            (EntryKind::Directory, _) => f.write_str("/"),
            (EntryKind::Link, Some(target)) => {
                f.write_str(" -> ")?;
                printable(f, target)
            }
            _ => Ok(()),
        }
    }
}

fn printable(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for letter in text.chars() {
        match letter.is_control() {
            true => write!(f, "{}", letter.escape_default())?,
            false => write!(f, "{letter}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_guest_is_absolute() {
        let place = GuestPath { id: "ab".into(), path: "/c:d".into() };
        assert_eq!("ab:/c:d".parse(), Ok(place));
        for wrong in ["", "ab", "ab:", "ab:c", ":/c", "./ab:/c", "/a:/b"] {
            assert!(wrong.parse::<GuestPath>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_do_nothing_to_the_terminal() {
        let entry = |kind, target: Option<&str>| Entry {
            name: "a\x1b[2J\n".into(),
            kind,
            bytes: 0,
            mode: "0644".into(),
            uid: 0,
            gid: 0,
            modified_at: String::new(),
            target: target.map(str::to_owned),
        };
        let link = entry(EntryKind::Link, Some("b\r"));
        assert_eq!(Name(&link).to_string(), r"a\u{1b}[2J\n -> b\r");
        assert_eq!(Name(&entry(EntryKind::Directory, None)).to_string(), r"a\u{1b}[2J\n/");
    }

    #[test]
    fn paths_are_joined_with_one_slash() {
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a/", "b"), "/a/b");
    }
}
