//! `tine cp` and `tine ls`: files into sandboxes, out of them, and what is there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, segment};
use super::output::{Output, items, number, table, text};
use super::{resolve, size};

/// A file here, in a sandbox as `ID:/PATH`, or `-` for standard input and output.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There { id: String, path: String },
    Standard,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "-" {
            return Ok(Self::Standard);
        }
        match text.split_once(':') {
            Some((id, path)) if !id.is_empty() && !id.contains('/') => {
                match path.starts_with('/') {
                    true => Ok(Self::There { id: id.to_owned(), path: path.to_owned() }),
                    false => Err("a path in a sandbox is ID:/PATH, from the root on".to_owned()),
                }
            }
            _ => Ok(Self::Here(PathBuf::from(text))),
        }
    }
}

/// Options of `tine cp`.
#[derive(Args, Debug)]
pub struct Copy {
    /// What is copied: a file or directory here, ID:/PATH, or - for standard input
    source: Place,
    /// Where to: a path here, ID:/PATH, or - for standard output
    target: Place,
}

impl Copy {
    /// Copies.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        match (&self.source, &self.target) {
            (Place::There { id, path }, target) => {
                let remote = Remote::new(client, id)?;
                match target {
                    Place::Here(to) => remote.fetch(path, &into(to, name_of(path)))?,
                    Place::Standard => remote.read(path, &mut io::stdout())?,
                    Place::There { .. } => {
                        bail!(
                            "from sandbox to sandbox goes by way of here: tine cp A:/x - | tine cp - B:/x"
                        )
                    }
                }
            }
            (Place::Here(from), Place::There { id, path }) => {
                let remote = Remote::new(client, id)?;
                let name = from.file_name().context("the source has no name")?.to_string_lossy();
                let target = match remote.is_directory(path)? {
                    true => format!("{}/{name}", path.trim_end_matches('/')),
                    false => path.clone(),
                };
                remote.send(from, &target)?;
            }
            (Place::Standard, Place::There { id, path }) => {
                Remote::new(client, id)?.write(path, None, &mut io::stdin())?;
            }
            _ => bail!("one side is in a sandbox, as ID:/PATH"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `to`, or what is called `name` in it, if it is a directory.
fn into(to: &Path, name: &str) -> PathBuf {
    if to.is_dir() { to.join(name) } else { to.to_path_buf() }
}

fn name_of(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or("root")
}

/// The files of one sandbox.
struct Remote<'a> {
    client: &'a Client,
    base: String,
}

impl<'a> Remote<'a> {
    fn new(client: &'a Client, id: &str) -> Result<Self> {
        let id = resolve::sandbox(client, id)?;
        Ok(Self { client, base: format!("/v1/sandboxes/{}/files", segment(&id)) })
    }

    fn url(&self, path: &str, more: &str) -> String {
        format!("{}?path={}{more}", self.base, segment(path))
    }

    fn read(&self, path: &str, to: &mut dyn Write) -> Result<()> {
        self.client.stream(&self.url(path, ""), |bytes| {
            to.write_all(bytes).with_context(|| format!("{path} can't be written here"))
        })?;
        to.flush().context("the end of a file can't be written")
    }

    fn write(&self, path: &str, mode: Option<u32>, from: &mut (dyn Read + Send)) -> Result<()> {
        let mode = mode.map_or_else(String::new, |mode| format!("&mode={mode:04o}"));
        self.client.put(&self.url(path, &format!("&parents=true{mode}")), from)
    }

    fn stat(&self, path: &str) -> Result<Value> {
        self.client.get(&self.url(path, "&stat=true"))
    }

    fn list(&self, path: &str) -> Result<Value> {
        self.client.get(&self.url(path, "&list=true"))
    }

    /// Whether there is a directory at `path`; not if there is nothing.
    fn is_directory(&self, path: &str) -> Result<bool> {
        let found = self.client.find(&self.url(path, "&stat=true"))?;
        Ok(found.is_some_and(|found| found["kind"] == "directory"))
    }

    /// Copies the file or directory `path` here, as `to`.
    fn fetch(&self, path: &str, to: &Path) -> Result<()> {
        let found = self.stat(path)?;
        match found["kind"].as_str() {
            Some("directory") => {
                fs::create_dir_all(to)
                    .with_context(|| format!("{} can't be made", to.display()))?;
                for entry in items(&self.list(path)?, "/entries") {
                    let name = entry["name"].as_str().context("a file without a name")?;
                    ensure!(!name.contains('/') && name != "..", "a file named {name:?}");
                    self.fetch(&format!("{}/{name}", path.trim_end_matches('/')), &to.join(name))?;
                }
                Ok(())
            }
            Some("link") => {
                let target = found["target"].as_str().context("a link to nowhere")?;
                std::os::unix::fs::symlink(target, to)
                    .with_context(|| format!("{} can't be linked", to.display()))
            }
            Some("file") => {
                let mut file =
                    File::create(to).with_context(|| format!("{} can't be made", to.display()))?;
                self.read(path, &mut file)?;
                let mode =
                    found["mode"].as_str().and_then(|mode| u32::from_str_radix(mode, 8).ok());
                let permissions = fs::Permissions::from_mode(mode.unwrap_or(0o644));
                file.set_permissions(permissions).context("permissions can't be set")
            }
            _ => {
                eprintln!("tine: {path} is neither file nor directory, and left out");
                Ok(())
            }
        }
    }

    /// Copies the file or directory `from` there, as `to`.
    fn send(&self, from: &Path, to: &str) -> Result<()> {
        let unreadable = || format!("{} can't be read", from.display());
        let data = fs::metadata(from).with_context(unreadable)?;
        if data.is_dir() {
            self.client.post(&format!("{}/mkdir", self.base), Some(json!({ "path": to })))?;
            for entry in fs::read_dir(from).with_context(unreadable)? {
                let entry = entry.with_context(unreadable)?;
                let name = entry.file_name();
                self.send(&entry.path(), &format!("{to}/{}", name.to_string_lossy()))?;
            }
            return Ok(());
        }
        let mut file = File::open(from).with_context(unreadable)?;
        self.write(to, Some(data.permissions().mode() & 0o7777), &mut file)
    }
}

/// Options of `tine ls`.
#[derive(Args, Debug)]
pub struct List {
    /// A directory, as ID:/PATH
    place: Place,
    #[command(flatten)]
    output: Output,
}

impl List {
    /// Lists it.
    pub fn run(&self, client: &Client) -> Result<ExitCode> {
        let Place::There { id, path } = &self.place else {
            bail!("name a directory of a sandbox, as ID:/PATH");
        };
        let list = Remote::new(client, id)?.list(path)?;
        self.output.print(&list, |list| {
            table(
                ["MODE", "SIZE", "NAME"],
                &[1],
                items(list, "/entries").iter().map(|entry| {
                    let name = text(entry, "/name");
                    let shown = match text(entry, "/kind").as_str() {
                        "directory" => format!("{name}/"),
                        "link" => format!("{name} -> {}", text(entry, "/target")),
                        _ => name,
                    };
                    let bytes = number(entry, "/bytes", |bytes| size::bytes(bytes as u64));
                    [text(entry, "/mode"), bytes, shown]
                }),
            )
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_here_or_there() {
        assert_eq!("-".parse(), Ok(Place::Standard));
        assert_eq!("a/b:c".parse(), Ok(Place::Here("a/b:c".into())));
        assert_eq!("./x".parse(), Ok(Place::Here("./x".into())));
        let there = Place::There { id: "ab".into(), path: "/etc/x:y".into() };
        assert_eq!("ab:/etc/x:y".parse(), Ok(there));
        assert!("ab:etc".parse::<Place>().is_err());
        assert_eq!(name_of("/etc/passwd"), "passwd");
        assert_eq!(name_of("/etc/"), "etc");
    }
}
