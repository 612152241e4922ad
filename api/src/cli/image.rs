//! `tine image`: the images of Linux guests on this host.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tine::template;
use tine_images::{BuildOptions, Manifest, Origin, Recipe, Store};

use super::output::{Output, items, number, table, text};
use super::progress::Spinner;
use super::size;

/// How much of a digest is enough to tell images apart.
const SHORT_DIGEST: usize = 12;

/// Options of `tine image`.
#[derive(Args, Debug)]
pub struct Image {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Build an image by its recipe
    Build(Build),
    /// List images
    Ls(Ls),
    /// Remove images
    Rm(Rm),
    /// Make an image from a root file system of your own
    Import(Import),
}

#[derive(Args, Debug)]
struct Build {
    /// The recipe; the image gets its name
    #[arg(value_name = "NAME", value_parser = PossibleValuesParser::new(Recipe::names()))]
    name: String,
    /// Ask apt for the newest packages, even if there is an image already
    #[arg(long)]
    refresh: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Ls {
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct Rm {
    /// Images
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

#[derive(Args, Debug)]
struct Import {
    /// What to call it
    #[arg(value_name = "NAME")]
    name: String,
    /// The root file system: a directory, or a tar archive
    #[arg(value_name = "DIR|TAR")]
    source: PathBuf,
    /// A kernel, vmlinux or bzImage, in place of Debian's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

impl Image {
    /// Does what is asked.
    pub fn run(&self) -> Result<ExitCode> {
        let store = Store::open(Store::default_path()?)?;
        match &self.verb {
            Verb::Build(build) => build.run(&store)?,
            Verb::Ls(ls) => ls.run(&store)?,
            Verb::Rm(rm) => rm.run(&store)?,
            Verb::Import(import) => import.run(&store)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Build {
    fn run(&self, store: &Store) -> Result<()> {
        let recipe = Recipe::named(&self.name)?;
        let options = BuildOptions { refresh: self.refresh };
        let spinner = Spinner::start(format!("building {}", self.name));
        store.build(&recipe, &options, tine_guest_elf::AGENT, &|message| spinner.say(message))?;
        drop(spinner);
        show(store, &self.name, self.output)
    }
}

impl Rm {
    fn run(&self, store: &Store) -> Result<()> {
        for name in &self.names {
            store.remove(name)?;
            template::forget(store, name)?;
        }
        Ok(())
    }
}

impl Ls {
    fn run(&self, store: &Store) -> Result<()> {
        let images: Vec<_> =
            store.list()?.iter().map(|manifest| describe(store, manifest)).collect();
        self.output.print(&json!({ "images": images }), |list| rows(items(list, "/images")))
    }
}

impl Import {
    fn run(&self, store: &Store) -> Result<()> {
        let spinner = Spinner::start(format!("importing {}", self.name));
        let kernel = self.kernel.as_deref();
        store.import(&self.name, &self.source, kernel, tine_guest_elf::AGENT, &|message| {
            spinner.say(message)
        })?;
        drop(spinner);
        show(store, &self.name, self.output)?;
        let manifest = store.manifest(&self.name)?;
        if manifest.modules.is_empty() {
            eprintln!(
                "tine: there are no modules for kernel {}: it must have built in virtio_mmio, \
                 virtio_blk, erofs, overlay and vmw_vsock_virtio_transport",
                manifest.kernel.version
            );
        }
        Ok(())
    }
}

/// Prints the image `name`.
fn show(store: &Store, name: &str, output: Output) -> Result<()> {
    let image = describe(store, &store.manifest(name)?);
    output.print(&image, |image| rows(std::slice::from_ref(image)))
}

/// An image as JSON; one whose files are gone has no paths.
fn describe(store: &Store, manifest: &Manifest) -> Value {
    let image = store.image(manifest).ok();
    let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
    let bytes =
        |path: Option<&PathBuf>| path.and_then(|path| path.metadata().ok()).map(|m| m.len());
    let (kernel, initramfs, rootfs) = (
        image.as_ref().map(|image| &image.kernel),
        image.as_ref().map(|image| &image.initramfs),
        image.as_ref().map(|image| &image.rootfs),
    );
    json!({
        "name": manifest.name,
        "digest": manifest.digest(),
        "origin": match &manifest.origin {
            Origin::Recipe(_) => "recipe".to_owned(),
            Origin::Import(source) => source.clone(),
        },
        "kernel": {
            "version": manifest.kernel.version,
            "package": manifest.kernel.package,
            "path": path(kernel),
            "bytes": bytes(kernel),
        },
        "initramfs": { "path": path(initramfs), "bytes": bytes(initramfs), "modules": manifest.modules },
        "rootfs": { "path": path(rootfs), "bytes": bytes(rootfs), "packages": manifest.packages },
    })
}

fn rows(images: &[Value]) -> String {
    let bytes = |image: &Value, pointer: &str| number(image, pointer, |n| size::bytes(n as u64));
    table(
        ["NAME", "DIGEST", "FROM", "KERNEL", "INITRAMFS", "ROOT"],
        &[4, 5],
        images.iter().map(|image| {
            [
                text(image, "/name"),
                text(image, "/digest").chars().take(SHORT_DIGEST).collect(),
                text(image, "/origin"),
                text(image, "/kernel/version"),
                bytes(image, "/initramfs/bytes"),
                bytes(image, "/rootfs/bytes"),
            ]
        }),
    )
}
