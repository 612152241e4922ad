//! Kernel modules that the initramfs brings.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::Path;

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::log;

/// Loads the modules in `directory` that its file `order` names, one a line, in that order,
/// and then removes them from memory. One that can't be loaded is reported: the machine may
/// do without, or fails where it can't.
pub fn load(directory: &Path) {
    let Ok(order) = fs::read_to_string(directory.join("order")) else { return };
    for name in order.lines().map(str::trim).filter(|name| !name.is_empty()) {
        if let Err(error) = load_one(&directory.join(OsStr::new(name))) {
            log::error(format_args!("loading the module {name}: {error}"));
        }
    }
    if let Err(error) = fs::remove_dir_all(directory) {
        log::error(format_args!("removing {}: {error}", directory.display()));
    }
}

fn load_one(path: &Path) -> std::io::Result<()> {
    match finit_module(File::open(path)?, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
