//! Debian packages: fetched by apt once, kept, and unpacked.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::file;
use crate::program::run;
use crate::{ImageError, digest};

/// A package file, and its checksum.
#[derive(Clone, Debug)]
pub struct Package {
    /// The .deb.
    pub path: PathBuf,
    /// SHA-256 of it, hexadecimal.
    pub digest: String,
}

impl Package {
    /// Its file's name: name, version and architecture.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Package files that were fetched before.
#[derive(Debug)]
pub struct Cache {
    directory: PathBuf,
    refresh: bool,
}

impl Cache {
    /// The packages in `directory`; with `refresh`, apt is asked for newer ones.
    pub fn new(directory: PathBuf, refresh: bool) -> Result<Self, ImageError> {
        fs::create_dir_all(&directory).map_err(file("making", &directory))?;
        Ok(Self { directory, refresh })
    }

    /// Package `name`, of the kept ones the newest, or fetched.
    pub fn get(&self, name: &str) -> Result<Package, ImageError> {
        let kept = if self.refresh { None } else { self.kept(name)? };
        let path = match kept {
            Some(path) => path,
            None => self.fetch(name)?,
        };
        let digest = digest::of_file(&path)?;
        Ok(Package { path, digest })
    }

    /// The package that the meta package `name` stands for.
    pub fn behind(&self, name: &str) -> Result<Package, ImageError> {
        let note = self.directory.join(format!("{name}.depends"));
        let kept = fs::read_to_string(&note).ok().filter(|_| !self.refresh);
        let real = match kept {
            Some(real) => real,
            None => {
                let real = dependency(name)?;
                fs::write(&note, &real).map_err(file("writing", &note))?;
                real
            }
        };
        self.get(&real)
    }

    fn kept(&self, name: &str) -> Result<Option<PathBuf>, ImageError> {
        let entries = fs::read_dir(&self.directory).map_err(file("reading", &self.directory))?;
        let prefix = format!("{name}_");
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(file("reading", &self.directory))?.path();
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if file.starts_with(&prefix) && file.ends_with(".deb") {
                let changed = path.metadata().and_then(|data| data.modified());
                found.push((changed.map_err(crate::error::file("reading", &path))?, path));
            }
        }
        Ok(found.into_iter().max().map(|(_, path)| path))
    }

    /// Has apt fetch the package; it appears among the kept ones when it is whole.
    fn fetch(&self, name: &str) -> Result<PathBuf, ImageError> {
        let work = tempfile::tempdir_in(&self.directory)
            .map_err(file("making a directory in", &self.directory))?;
        let mut apt = Command::new("apt-get");
        apt.args(["download", "-qq", "-o", "APT::Sandbox::User=root", name]);
        run(apt.current_dir(work.path()), "apt").map_err(|error| match error {
            ImageError::Program { said, .. } => {
                ImageError::Package { package: name.to_owned(), said }
            }
            other => other,
        })?;
        let fetched = fs::read_dir(work.path())
            .and_then(|mut entries| entries.next().transpose())
            .map_err(file("reading", work.path()))?;
        let Some(fetched) = fetched else {
            let said = "apt-get fetched nothing".to_owned();
            return Err(ImageError::Package { package: name.to_owned(), said });
        };
        let kept = self.directory.join(fetched.file_name());
        fs::rename(fetched.path(), &kept).map_err(file("renaming", &kept))?;
        Ok(kept)
    }
}

fn dependency(name: &str) -> Result<String, ImageError> {
    let output = run(Command::new("apt-cache").args(["depends", name]), "apt")?;
    let output = String::from_utf8_lossy(&output);
    let depends = |line: &str| Some(line.trim().strip_prefix("Depends: ")?.trim().to_owned());
    output.lines().find_map(depends).ok_or_else(|| ImageError::Package {
        package: name.to_owned(),
        said: "apt does not know it".to_owned(),
    })
}

/// Gives the files of `package`, as a tar archive, to `take`.
pub fn open<T>(
    package: &Path,
    take: impl FnOnce(&mut dyn Read) -> Result<T, ImageError>,
) -> Result<T, ImageError> {
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                ImageError::Missing { program: "dpkg-deb".into(), package: "dpkg" }
            }
            _ => file("unpacking", package)(error),
        })?;
    let taken = match child.stdout.take() {
        Some(mut output) => {
            let taken = take(&mut output);
            // It must not be told of a broken pipe for what nobody wanted.
            io::copy(&mut output, &mut io::sink()).map_err(file("unpacking", package))?;
            taken
        }
        None => Err(file("unpacking", package)(io::ErrorKind::BrokenPipe.into())),
    };
    let status = child.wait().map_err(file("unpacking", package))?;
    match status.success() {
        true => taken,
        false => Err(ImageError::Program {
            program: format!("dpkg-deb on {}", package.display()),
            said: status.to_string(),
        }),
    }
}
