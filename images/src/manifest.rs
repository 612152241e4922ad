//! What the store notes of an image.

use serde::{Deserialize, Serialize};

use crate::digest;
use crate::packages::Package;

/// The version of the manifest's format.
pub(crate) const VERSION: u32 = 1;

/// What an image is made of. Digests are SHA-256 in hexadecimal, and name blobs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of this format.
    pub version: u32,
    /// The image's name.
    pub name: String,
    /// What it was made from.
    pub origin: Origin,
    /// The digest of the agent in the initramfs.
    pub agent: String,
    /// The kernel.
    pub kernel: KernelRecord,
    /// The modules in the initramfs, in the order that they are loaded in.
    pub modules: Vec<String>,
    /// The digest of the initramfs.
    pub initramfs: String,
    /// The digest of the root file system.
    pub rootfs: String,
    /// The packages in the root file system, as far as they are known.
    pub packages: Vec<Package>,
}

/// What an image was made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The recipe with this digest.
    Recipe(String),
    /// A directory or archive of this name.
    Import(String),
}

/// The kernel of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRecord {
    /// The digest of its file, a vmlinux or a bzImage.
    pub digest: String,
    /// What `uname -r` prints.
    pub version: String,
    /// The package that it is from, unless it was the user's own.
    pub package: Option<Package>,
}

impl Manifest {
    /// The digest of the image: that of the digests of its three files.
    pub fn digest(&self) -> String {
        digest::of_digests(self.blobs())
    }

    /// The digests of its three files.
    pub(crate) fn blobs(&self) -> [&str; 3] {
        [&self.kernel.digest, &self.initramfs, &self.rootfs]
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest of blobs with these digests.
    pub(crate) fn manifest(name: &str, kernel: &str, initramfs: &str, rootfs: &str) -> Manifest {
        let kernel = KernelRecord {
            digest: kernel.to_owned(),
            version: "6.12.1-test".to_owned(),
            package: Some(Package {
                name: "linux-image-6.12.1-test".to_owned(),
                version: "6.12.1-1".to_owned(),
                sha256: digest::of(b"deb"),
            }),
        };
        Manifest {
            version: VERSION,
            name: name.to_owned(),
            origin: Origin::Recipe(digest::of(b"recipe")),
            agent: digest::of(b"agent"),
            kernel,
            modules: vec!["erofs.ko".to_owned()],
            initramfs: initramfs.to_owned(),
            rootfs: rootfs.to_owned(),
            packages: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was() {
        for origin in [Origin::Recipe("0a".to_owned()), Origin::Import("/some/dir".to_owned())] {
            let manifest = Manifest { origin, ..manifest("base", "k", "i", "r") };
            let text = serde_json::to_string(&manifest).unwrap();
            assert_eq!(serde_json::from_str::<Manifest>(&text).unwrap(), manifest);
        }
    }

    #[test]
    fn every_file_changes_the_digest() {
        let digest = manifest("base", "k", "i", "r").digest();
        assert_eq!(digest, manifest("other", "k", "i", "r").digest());
        for (kernel, initramfs, rootfs) in [("x", "i", "r"), ("k", "x", "r"), ("k", "i", "x")] {
            assert_ne!(digest, manifest("base", kernel, initramfs, rootfs).digest());
        }
    }
}
