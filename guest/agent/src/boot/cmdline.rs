//! What the kernel's command line says to the agent.

use std::fs;

/// The words of the command line that begin with `tine.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmdline {
    /// `tine.root=TYPE`: file system of the root disk. None for `tine.root=none`: there is no
    /// root disk to wait for.
    pub root: Option<String>,
    /// `tine.overlay=SIZE`: most that may be written over the root disk, as mount(8) has the
    /// sizes of a tmpfs.
    pub overlay: Option<String>,
    /// `tine.hostname=NAME`.
    pub hostname: String,
    /// `tine.disk=DEVICE:TYPE:DIRECTORY` or `tine.disk=DEVICE:TYPE:DIRECTORY:ro`, any number.
    pub disks: Vec<Disk>,
}

/// A disk to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its device.
    pub device: String,
    /// Its file system.
    pub kind: String,
    /// Where it goes.
    pub directory: String,
    /// Whether it is not to be written.
    pub read_only: bool,
}

impl Cmdline {
    /// That of this machine.
    pub fn of_this_machine() -> Self {
        // Without /proc there is nothing to go by but what holds without a word.
        Self::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    /// What `line` says; the last word wins.
    pub fn parse(line: &str) -> Self {
        let mut cmdline = Self {
            root: Some("erofs".into()),
            overlay: None,
            hostname: "tine".into(),
            disks: Vec::new(),
        };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("tine.root", "none")) => cmdline.root = None,
                Some(("tine.root", kind)) => cmdline.root = Some(kind.into()),
                Some(("tine.overlay", size)) => cmdline.overlay = Some(size.into()),
                Some(("tine.hostname", name)) => cmdline.hostname = name.into(),
                Some(("tine.disk", disk)) => cmdline.disks.extend(Disk::parse(disk)),
                _ => {}
            }
        }
        cmdline
    }
}

impl Disk {
    fn parse(word: &str) -> Option<Self> {
        let fields: Vec<_> = word.split(':').collect();
        let (device, kind, directory, read_only) = match *fields.as_slice() {
            [device, kind, directory] => (device, kind, directory, false),
            [device, kind, directory, "ro"] => (device, kind, directory, true),
            _ => return None,
        };
        let disk = [device, kind, directory].map(String::from);
        let [device, kind, directory] = disk;
        Some(Self { device, kind, directory, read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn without_a_word_there_is_an_erofs_root() {
        let cmdline = Cmdline::parse("console=ttyS0 quiet tine.unknown=1 tine.root\n");
        assert_eq!(cmdline.root.as_deref(), Some("erofs"));
        assert_eq!(cmdline.hostname, "tine");
        assert_eq!((cmdline.overlay, cmdline.disks), (None, Vec::new()));
    }

    #[test]
    fn words_are_understood() {
        let cmdline = Cmdline::parse(
            "tine.root=squashfs tine.overlay=64m tine.hostname=a tine.hostname=b \
             tine.disk=/dev/vdb:ext4:/data tine.disk=/dev/vdc:erofs:/tools:ro tine.disk=odd",
        );
        assert_eq!(cmdline.root.as_deref(), Some("squashfs"));
        assert_eq!(cmdline.overlay.as_deref(), Some("64m"));
        assert_eq!(cmdline.hostname, "b");
        let disk = |device: &str, kind: &str, directory: &str, read_only| Disk {
            device: device.into(),
            kind: kind.into(),
            directory: directory.into(),
            read_only,
        };
        assert_eq!(
            cmdline.disks,
            [disk("/dev/vdb", "ext4", "/data", false), disk("/dev/vdc", "erofs", "/tools", true)]
        );
        assert_eq!(Cmdline::parse("tine.root=none").root, None);
    }

    proptest! {
        #[test]
        fn any_line_is_read(line: String) {
            let _ = Cmdline::parse(&line);
        }
    }
}
