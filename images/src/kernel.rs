//! Debian's kernel: the vmlinux in its bzImage, and the modules that a guest needs.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::error::file;
use crate::packages::{self, Package};
use crate::{ImageError, initramfs::Module};

/// A meta package that depends on the newest kernel of its series.
pub const SERIES: &str = "linux-image-6.12-cloud-amd64";

/// The modules that a guest loads, beside those that they depend on: its devices, its root
/// file system, its sockets.
const MODULES: [&str; 11] = [
    "virtio_mmio",
    "virtio_blk",
    "erofs",
    "overlay",
    "vsock",
    "vmw_vsock_virtio_transport",
    "virtio-rng",
    "virtio_balloon",
    "button",
    "evdev",
    "libcrc32c",
];

/// What a kernel package holds for a guest.
pub struct Kernel {
    /// The kernel, unpacked.
    pub vmlinux: Vec<u8>,
    /// Its modules, in the order in which they are loaded.
    pub modules: Vec<Module>,
}

/// Takes out of `package` what a guest needs.
pub fn unpack(package: &Package) -> Result<Kernel, ImageError> {
    let mut image = None;
    let mut dependencies = BTreeMap::new();
    let mut packed = BTreeMap::new();
    packages::open(&package.path, |archive| {
        let failed = || file("reading", &package.path);
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries().map_err(failed())? {
            let mut entry = entry.map_err(failed())?;
            let path = entry.path().map_err(failed())?.to_string_lossy().into_owned();
            if path.contains("/boot/vmlinuz") {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(failed())?;
                image = Some(bytes);
            } else if let Some(name) = module_name(&path) {
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).map_err(failed())?;
                packed.insert(name, bytes);
            }
        }
        Ok(())
    })?;
    let damaged = |reason: String| ImageError::Kernel { path: package.path.clone(), reason };
    let image = image.ok_or_else(|| damaged("it has no /boot/vmlinuz".into()))?;
    let vmlinux = vmlinux(&image).map_err(damaged)?;
    let mut plain = BTreeMap::new();
    for (name, bytes) in &packed {
        let mut module = Vec::new();
        liblzma::read::XzDecoder::new(bytes.as_slice())
            .read_to_end(&mut module)
            .map_err(|error| damaged(format!("module {name}: {error}")))?;
        dependencies.insert(name.clone(), needs(&module));
        plain.insert(name.clone(), module);
    }
    let order = order(&dependencies).map_err(damaged)?;
    let take = |name: String| Module { bytes: plain.remove(&name).unwrap_or_default(), name };
    Ok(Kernel { vmlinux, modules: order.into_iter().map(take).collect() })
}

/// The name of the module in the package's file `path`, if it may be one that is needed.
fn module_name(path: &str) -> Option<String> {
    const PLACES: [&str; 8] = [
        "/drivers/virtio/",
        "/drivers/block/",
        "/fs/",
        "/net/vmw_vsock/",
        "/drivers/char/hw_random/",
        "/drivers/acpi/",
        "/drivers/input/",
        "/lib/",
    ];
    let name = path.rsplit('/').next()?.strip_suffix(".ko.xz")?;
    PLACES.iter().any(|place| path.contains(place)).then(|| name.to_owned())
}

/// What a module says it depends on (`depends=` in its `.modinfo`, names set apart by commas).
fn needs(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let at = module.windows(KEY.len()).position(|window| window == KEY);
    let Some(at) = at else { return Vec::new() };
    let rest = &module[at + KEY.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(0);
    let names = String::from_utf8_lossy(&rest[..end]);
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// [`MODULES`] and all that they need, each after what it needs.
fn order(dependencies: &BTreeMap<String, Vec<String>>) -> Result<Vec<String>, String> {
    let mut order = Vec::new();
    for name in MODULES {
        add(name, dependencies, &mut order, 0)?;
    }
    Ok(order)
}

fn add(
    name: &str,
    dependencies: &BTreeMap<String, Vec<String>>,
    order: &mut Vec<String>,
    depth: usize,
) -> Result<(), String> {
    // A module's name has underscores where its file may have dashes.
    let same = |one: &&String| one.replace('-', "_") == name.replace('-', "_");
    let Some(file) = dependencies.keys().find(same) else {
        return Err(format!("it has no module {name}"));
    };
    if order.contains(file) {
        return Ok(());
    }
    if depth > 16 {
        return Err(format!("module {name} depends on itself"));
    }
    for needed in &dependencies[file] {
        add(needed, dependencies, order, depth + 1)?;
    }
    order.push(file.clone());
    Ok(())
}

/// The ELF file that is packed in a bzImage (Linux Documentation/arch/x86/boot.rst:
/// `setup_sects`, `payload_offset` and `payload_length`).
pub fn vmlinux(image: &[u8]) -> Result<Vec<u8>, String> {
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("it is no bzImage".into());
    }
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let places = word(0x248).zip(word(0x24c));
    let payload = places.and_then(|(offset, length)| {
        let start = (sectors + 1).checked_mul(512)?.checked_add(offset)?;
        // The last four bytes are the size when it is unpacked.
        image.get(start..start.checked_add(length)?.checked_sub(4)?)
    });
    let payload = payload.ok_or("its header points outside of it")?;
    let mut vmlinux = Vec::new();
    match payload {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ruzstd::decoding::StreamingDecoder::new(payload)
            .map_err(|error| error.to_string())?
            .read_to_end(&mut vmlinux)
            .map_err(|error| error.to_string())?,
        [0xfd, b'7', b'z', b'X', ..] => liblzma::read::XzDecoder::new(payload)
            .read_to_end(&mut vmlinux)
            .map_err(|error| error.to_string())?,
        _ => return Err("it is packed neither by zstd nor by xz".into()),
    };
    match vmlinux.starts_with(b"\x7fELF") {
        true => Ok(vmlinux),
        false => Err("what is packed in it is no ELF file".into()),
    }
}

/// Whether `path` begins as a kernel that can be booted: a vmlinux or a bzImage.
pub fn check(path: &Path) -> Result<(), ImageError> {
    let mut head = Vec::new();
    std::fs::File::open(path)
        .and_then(|kernel| kernel.take(0x206).read_to_end(&mut head))
        .map_err(file("reading", path))?;
    let known = head.starts_with(b"\x7fELF") || head.get(0x202..0x206) == Some(b"HdrS");
    known.then_some(()).ok_or_else(|| ImageError::Kernel {
        path: path.to_path_buf(),
        reason: "it is neither a vmlinux nor a bzImage".into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32 + 4).to_le_bytes());
        image.extend(payload);
        image.extend([0; 4]);
        image
    }

    #[test]
    fn a_kernel_is_unpacked_whatever_it_is_packed_by() {
        let elf = b"\x7fELF and so on".to_vec();
        let mut packed = Vec::new();
        liblzma::read::XzEncoder::new(elf.as_slice(), 6).read_to_end(&mut packed).unwrap();
        assert_eq!(vmlinux(&image(&packed)).unwrap(), elf);
        let packed = ruzstd::encoding::compress_to_vec(
            elf.as_slice(),
            ruzstd::encoding::CompressionLevel::Fastest,
        );
        assert_eq!(vmlinux(&image(&packed)).unwrap(), elf);
        assert!(vmlinux(&image(b"gzip?")).is_err());
        assert!(vmlinux(b"short").is_err());
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let mut dependencies: BTreeMap<String, Vec<String>> =
            MODULES.iter().map(|name| (name.replace('_', "-"), vec![])).collect();
        dependencies.insert("common".into(), vec!["vsock".into()]);
        dependencies.insert("erofs".into(), vec!["common".into(), "libcrc32c".into()]);
        let order = order(&dependencies).unwrap();
        let place = |name: &str| order.iter().position(|one| one == name).unwrap();
        assert!(place("vsock") < place("common") && place("common") < place("erofs"));
        assert_eq!(order.len(), MODULES.len() + 1);
        dependencies.insert("common".into(), vec!["erofs".into()]);
        assert!(super::order(&dependencies).is_err(), "a circle");
        assert_eq!(needs(b"x\0depends=a,b\0y"), ["a", "b"]);
        assert_eq!(needs(b"x\0depends=\0y"), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn no_header_is_fatal(mut bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = vmlinux(&bytes);
            if bytes.len() > 0x206 {
                bytes[0x202..0x206].copy_from_slice(b"HdrS");
                let _ = vmlinux(&bytes);
            }
        }
    }
}
