//! `tine image`: images of Linux guests.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tine_images::{Image as Built, Recipe, Store};

use super::output::{self, Output, items, number, table, text};
use super::progress::Spinner;
use super::size;

/// What can be done with images.
#[derive(Subcommand, Debug)]
pub enum Image {
    /// Make an image by its recipe: base, debian or redis
    Build(Build),
    /// Make an image of a root file system of your own
    Import(Import),
    /// List images
    Ls(List),
    /// Remove images
    Rm(Remove),
}

/// Options of `tine image build`.
#[derive(Args, Debug)]
pub struct Build {
    /// The recipe, whose name the image gets
    name: String,
    /// Ask for newer packages, where the kept ones would do
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    place: Place,
}

/// Options of `tine image import`.
#[derive(Args, Debug)]
pub struct Import {
    /// The image's name
    name: String,
    /// A directory or a tar archive
    #[arg(value_name = "DIR|TAR")]
    source: PathBuf,
    /// A kernel of your own, vmlinux or bzImage, that has its drivers built in
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Options of `tine image ls`.
#[derive(Args, Debug)]
pub struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    place: Place,
}

/// Options of `tine image rm`.
#[derive(Args, Debug)]
pub struct Remove {
    /// The images
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    place: Place,
}

/// Where images are.
#[derive(Args, Debug)]
struct Place {
    /// Where images are kept [default: $TINE_IMAGES, else ~/.cache/tine/images]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

/// The store at `path`, or where it is by default.
pub fn store(path: Option<&Path>) -> Result<Store> {
    let path = match path {
        Some(path) => path.to_path_buf(),
        None => Store::default_path()
            .context("there is no home directory for images; name a place with --store")?,
    };
    Ok(Store::open(&path)?)
}

impl Image {
    /// Does it.
    pub fn run(&self) -> Result<ExitCode> {
        match self {
            Self::Build(Build { name, refresh, place }) => {
                let recipe = Recipe::named(name)?;
                let store = store(place.store.as_deref())?;
                let built = telling(&format!("building {name}"), |tell| {
                    store.build(&recipe, *refresh, tine_agent_elf::ELF, tell)
                })?;
                report(&built)
            }
            Self::Import(Import { name, source, kernel, place }) => {
                let store = store(place.store.as_deref())?;
                let built = telling(&format!("importing {name}"), |tell| {
                    store.import(name, source, kernel.as_deref(), tine_agent_elf::ELF, tell)
                })?;
                report(&built)
            }
            Self::Ls(List { output, place }) => {
                let list = list(&store(place.store.as_deref())?)?;
                output.print(&list, |list| show(items(list, "/images")))?;
                Ok(ExitCode::SUCCESS)
            }
            Self::Rm(Remove { names, place }) => {
                let store = store(place.store.as_deref())?;
                for name in names {
                    store.remove(name)?;
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// Does `work`, while a spinner says how far it is.
fn telling<T, E>(title: &str, work: impl FnOnce(&dyn Fn(&str)) -> Result<T, E>) -> Result<T, E> {
    let spinner = Spinner::start(title);
    work(&|step| spinner.say(format!("{title}: {step}")))
}

fn report(image: &Built) -> Result<ExitCode> {
    output::line(&format!("{} {}", image.name, &image.digest[..12]))?;
    Ok(ExitCode::SUCCESS)
}

fn list(store: &Store) -> Result<Value> {
    let images: Vec<Value> = store
        .list()?
        .iter()
        .map(|image| {
            json!({
                "name": image.name,
                "digest": image.digest(),
                "source": image.source,
                "kernel": image.kernel_source,
                "rootfs_bytes": image.rootfs_bytes,
                "packages": image.packages.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            })
        })
        .collect();
    Ok(json!({ "images": images }))
}

fn show(images: &[Value]) -> String {
    table(
        ["NAME", "DIGEST", "ROOT", "FROM", "KERNEL"],
        &[2],
        images.iter().map(|image| {
            [
                text(image, "/name"),
                text(image, "/digest").chars().take(12).collect(),
                number(image, "/rootfs_bytes", |bytes| size::bytes(bytes as u64)),
                text(image, "/source"),
                text(image, "/kernel"),
            ]
        }),
    )
}
