//! The initial RAM file system of a guest: the agent, and the modules that it loads. A cpio
//! archive of the kind "newc" (Linux Documentation/driver-api/early-userspace/
//! buffer-format.rst), always the same for the same contents.

/// A kernel module.
#[derive(Clone, Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its file, unpacked.
    pub bytes: Vec<u8>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;

/// An archive with `agent` as its first program, and `modules`.
pub fn pack(agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut archive = Archive::default();
    for directory in ["dev", "modules", "proc", "root", "run", "sys", "tmp"] {
        archive.add(directory, DIRECTORY, (0, 0), &[]);
    }
    // What the kernel gives its first program for a terminal.
    archive.add("dev/console", CONSOLE, (5, 1), &[]);
    archive.add("init", PROGRAM, (0, 0), agent);
    let mut order = String::new();
    for Module { name, bytes } in modules {
        archive.add(&format!("modules/{name}.ko"), FILE, (0, 0), bytes);
        order += &format!("{name}.ko\n");
    }
    archive.add("modules/order", FILE, (0, 0), order.as_bytes());
    archive.finish()
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let words = [
            self.entries, // inode
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            contents.len() as u32,
            0,
            0, // the device that it is on
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum: none
        ];
        self.bytes.extend(b"070701");
        for word in words {
            self.bytes.extend(format!("{word:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names, modes and contents in an archive.
    fn list(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let word = |index: usize| {
                let text = &archive[at + 6 + index * 8..][..8];
                u32::from_str_radix(std::str::from_utf8(text).unwrap(), 16).unwrap()
            };
            let (mode, size, length) = (word(1), word(6) as usize, word(11) as usize);
            let name = String::from_utf8(archive[at + 110..][..length - 1].to_vec()).unwrap();
            let data = (at + 110 + length).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            entries.push((name, mode, archive[data..data + size].to_vec()));
            at = (data + size).next_multiple_of(4);
        }
    }

    #[test]
    fn an_archive_holds_the_agent_and_the_modules_in_order() {
        let module = |name: &str| Module { name: name.into(), bytes: name.as_bytes().to_vec() };
        let modules = [module("vsock"), module("erofs")];
        let archive = pack(b"agent", &modules);
        assert_eq!(archive, pack(b"agent", &modules), "always the same");
        let entries = list(&archive);
        let find = |name: &str| entries.iter().find(|(one, ..)| one == name).unwrap();
        assert_eq!(find("init"), &("init".into(), PROGRAM, b"agent".to_vec()));
        assert_eq!(find("modules/order").2, b"vsock.ko\nerofs.ko\n");
        assert_eq!(find("modules/erofs.ko").2, b"erofs");
        assert_eq!(find("dev/console").1, CONSOLE);
    }
}
