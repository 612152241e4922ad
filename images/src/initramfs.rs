//! The initramfs: the agent, and the modules that it loads first.
//!
//! An archive in cpio's format `newc`, as the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst` has it; not compressed, so
//! that a guest has nothing to unpack. Equal inputs make equal bytes.

use crate::modules::Module;

/// The bits of a mode that say what a file is.
const KIND: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

/// The initramfs with `agent` as `/init`.
///
/// `/modules/order` names the files beside it, one a line, in the order to load them in.
pub(crate) fn make(agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for (name, mode) in [
        ("dev", 0o755),
        ("modules", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("run", 0o755),
        ("sys", 0o755),
        ("tmp", 0o1777),
    ] {
        archive.add(name, DIRECTORY | mode, (0, 0), &[]);
    }
    // The kernel opens it for the first process, before anything is mounted.
    archive.add("dev/console", CHARACTER | 0o600, (5, 1), &[]);
    archive.add("init", REGULAR | 0o755, (0, 0), agent);
    for module in modules {
        archive.add(&format!("modules/{}", module.file), REGULAR | 0o644, (0, 0), &module.elf);
    }
    let order: String = modules.iter().map(|module| format!("{}\n", module.file)).collect();
    archive.add("modules/order", REGULAR | 0o644, (0, 0), order.as_bytes());
    archive.finish()
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a file of root's. `device` is its major and minor number.
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), data: &[u8]) {
        self.entries += 1;
        self.entry(name, self.entries, mode, device, data);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, inode: u32, mode: u32, device: (u32, u32), data: &[u8]) {
        let links = if mode & KIND == DIRECTORY { 2 } else { 1 };
        let (owner, group, time, checksum) = (0, 0, 0, 0);
        let file_system = (0, 0);
        self.bytes.extend(b"070701");
        for field in [
            inode,
            mode,
            owner,
            group,
            links,
            time,
            data.len() as u32,
            file_system.0,
            file_system.1,
            device.0,
            device.1,
            name.len() as u32 + 1,
            checksum,
        ] {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    /// Headers and data start at multiples of four bytes.
    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Name, mode, device and data.
    type Entry = (String, u32, (u32, u32), Vec<u8>);

    /// Every entry, by the description of the format.
    fn read(mut bytes: &[u8]) -> Vec<Entry> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |index: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * index..14 + 8 * index]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (size, name_size) = (field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + name_size - 1].to_vec()).unwrap();
            let data = (110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), data);
                return entries;
            }
            let content = bytes[data..data + size].to_vec();
            entries.push((name, field(1), (field(9), field(10)), content));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    fn module(file: &str, elf: &[u8]) -> Module {
        Module { file: file.to_owned(), elf: elf.to_vec() }
    }

    #[test]
    fn the_agent_is_init_and_the_console_is_there() {
        let entries = read(&make(b"agent", &[]));
        assert!(entries.contains(&("init".to_owned(), 0o100_755, (0, 0), b"agent".to_vec())));
        assert!(entries.contains(&("dev/console".to_owned(), 0o020_600, (5, 1), Vec::new())));
        assert!(entries.contains(&("tmp".to_owned(), 0o041_777, (0, 0), Vec::new())));
    }

    #[test]
    fn modules_keep_their_order() {
        let entries = read(&make(b"", &[module("z.ko", b"zz"), module("a.ko", b"a")]));
        let order = entries.iter().find(|entry| entry.0 == "modules/order").unwrap();
        assert_eq!(order.3, b"z.ko\na.ko\n");
        assert!(entries.contains(&("modules/z.ko".to_owned(), 0o100_644, (0, 0), b"zz".to_vec())));
    }

    #[test]
    fn directories_come_before_what_is_in_them() {
        let entries = read(&make(b"", &[module("a.ko", b"a")]));
        for (index, (name, ..)) in entries.iter().enumerate() {
            if let Some((parent, _)) = name.rsplit_once('/') {
                assert!(entries[..index].iter().any(|entry| entry.0 == parent), "{name}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            agent in prop::collection::vec(any::<u8>(), 0..64),
            elf in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            let modules = [module("a.ko", &elf)];
            let archive = make(&agent, &modules);
            prop_assert_eq!(&archive, &make(&agent, &modules));
            let entries = read(&archive);
            prop_assert!(entries.iter().any(|entry| entry.0 == "init" && entry.3 == agent));
            prop_assert!(entries.iter().any(|entry| entry.0 == "modules/a.ko" && entry.3 == elf));
        }
    }
}
